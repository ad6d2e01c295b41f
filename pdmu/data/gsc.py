"""Speech Commands v0.02 (Warden 2018, arXiv 1804.03209): one of 35 words a second, as the source gives it, or the words at hand.

The words are the folders; ``_background_noise_`` is none. The public split is, in this order of preference: ``validation_list.txt`` and
``testing_list.txt`` beside the folders; the column ``split`` of a ``manifest.csv``; the hash of the speaker that the lists were made by
(`which_set`). It is by speaker, the first eight characters of a file's name, so that no speaker is in two parts.

Recordings shorter than a second are followed by silence, longer ones are cut. Which words are "unknown" in the task of twelve words is
not decided here.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pdmu.data.cache import EnergyCache
from pdmu.data.cards import data_set_cards
from pdmu.data.features import FeatureOptions, fit, read_energies, steps
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import LoadedSequences, Progress, SequenceSet, missing, read_options
from pdmu.errors import UserError

FOLDERS = ("speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02", "speech_commands", "gsc")
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
PARTS = {"training": "train", "train": "train", "validation": "validation", "testing": "test", "test": "test"}  # as manifests say it
HASH_RANGE = 2**27  # numbers of the speaker's hash; 2^27 - 1 recordings of a word at most
HELD_PERCENT = 10  # of speakers for validation, and as many for the test


@dataclass(frozen=True)
class GscOptions(FeatureOptions):
    """Settings of ``gsc``."""

    seconds: float = 1.0  # of every recording

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds <= 0:
            raise ValueError("seconds must be positive")


@dataclass(frozen=True)
class Utterance:
    """One recording of a word."""

    path: Path
    word: str
    speaker: str
    part: str  # "train", "validation" or "test"


def load(config: SequenceDataConfig, root: Path, cache: Path, progress: Progress) -> LoadedSequences:
    """Read ``gsc``.

    Parameters
    ----------
    config : SequenceDataConfig
        `options`: see `GscOptions`.
    root : Path
        Folder of the word folders, one above, or a folder with ``manifest.csv``.
    cache : Path
        Where mel energies are kept.
    progress : callable
        Wraps the recordings.

    Returns
    -------
    LoadedSequences
        ``values`` float16 ``[n · 100, 40]`` as the options stand: half of float32's memory, with steps of at most 1/32 in a base-2
        logarithm (0.1 dB). Groups are speakers.

    Raises
    ------
    UserError
        No recordings, lists that name none of them, or an option that does not exist.
    """
    options = read_options(GscOptions, config)
    frontend = options.frontend('[sequence.options] of "gsc"')
    utterances = find_utterances(root)
    frames = round(options.seconds * frontend.sample_rate_hz) // frontend.hop_samples
    length = frames // options.average
    if length == 0:
        raise UserError(f'[sequence.options] of "gsc": seconds = {options.seconds:g} is less than a step of {options.average} frame(s)')
    stored = EnergyCache(cache, frontend, min_s=0.0, silence_dbfs=-np.inf)  # the data set holds some that are nearly empty
    values = np.empty((len(utterances), length, frontend.n_mels * (1 + options.context)), np.float16)
    for row, utterance in zip(values, progress(utterances), strict=True):
        energies = fit(read_energies(stored, utterance.path)[0], length * options.average)
        row[:] = steps(frontend, energies, options.average, options.context)
    labels = tuple(sorted({u.word for u in utterances}))
    sequences = SequenceSet(
        values.reshape(-1, values.shape[2]),
        np.full(len(values), length, np.int64),
        np.array([labels.index(u.word) for u in utterances], np.int64),
        np.array([u.speaker for u in utterances]),
    )
    return LoadedSequences(labels, sequences, np.array([u.part for u in utterances]))


def find_utterances(root: Path) -> list[Utterance]:
    """Return the recordings, by path, with the parts they belong to.

    Raises
    ------
    UserError
        There are none, or the lists or the manifest name other files.
    """
    folders = [f for f in (root, *(root / name for name in FOLDERS)) if f.is_dir()]
    found = next((f for f in folders if any((f / name).is_file() for name in LISTS.values())), None)
    if found is not None:
        return _by_list(found)
    if (root / "manifest.csv").is_file() and (rows := _by_manifest(root)):
        return rows
    for folder in folders:
        if paths := _recordings(folder):
            return [Utterance(p, p.parent.name, speaker_of(p.name), which_set(p.name)) for p in paths]
    raise missing(root, f"no WORD/*_nohash_*.wav there or in {', '.join(FOLDERS)}/, and no manifest.csv that lists some", "speech_commands")


def speaker_of(name: str) -> str:
    """Return the speaker that a file's name begins with."""
    return name.partition("_nohash_")[0]


def which_set(name: str) -> str:
    """Return the part a recording belongs to by the data set's own rule: the SHA-1 of its speaker, so that new files move no old ones.

    Examples
    --------
    >>> [which_set(name) for name in ("02ade946_nohash_0.wav", "1a73dcd1_nohash_0.wav", "1f653d27_nohash_2.wav")]
    ['train', 'validation', 'test']
    """
    number = int(hashlib.sha1(speaker_of(name).encode()).hexdigest(), 16) % HASH_RANGE
    percent = number * (100.0 / (HASH_RANGE - 1))
    return "validation" if percent < HELD_PERCENT else "test" if percent < 2 * HELD_PERCENT else "train"


def _recordings(folder: Path) -> list[Path]:
    paths = sorted(p for pattern in ("*/*_nohash_*.wav", "*/*_nohash_*.flac") for p in folder.glob(pattern))
    return [p for p in paths if not p.parent.name.startswith("_")]


def _by_list(folder: Path) -> list[Utterance]:
    """Return the recordings of a folder with the source's lists."""
    part: dict[str, str] = {}
    for name, file in LISTS.items():
        try:
            listed = (folder / file).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{folder / file}: cannot be read ({error}); both lists come with the data set, fetch them again") from None
        part.update(dict.fromkeys(listed, name))
    paths = _recordings(folder)
    keys = [f"{p.parent.name}/{p.stem}.wav" for p in paths]  # as listed, whatever the files were converted to
    absent = sorted(set(part) - set(keys))
    if absent:
        raise UserError(f"{folder}: {len(absent)} of {len(part)} recordings in the lists are not there: {absent[0]} …; unpack it again")
    return [Utterance(p, p.parent.name, speaker_of(p.name), part.get(key, "train")) for p, key in zip(paths, keys, strict=True)]


def _by_manifest(root: Path) -> list[Utterance]:
    """Return the recordings that a manifest lists as of Speech Commands; none where it has no column ``split``."""
    manifest, card = root / "manifest.csv", data_set_cards()["gsc"]
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.DictReader(file) if card.holds(row.get("path") or "", row.get("source") or "")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{manifest}: cannot be read as CSV in UTF-8 ({error})") from None
    out = []
    for row in rows:
        split, path = row.get("split") or "", Path(row["path"])
        if split not in PARTS:
            raise UserError(f"{manifest}: {row['path']}: split is '{split}'; it must be training, validation or testing")
        speaker = row.get("group") or row.get("fold_or_group") or speaker_of(path.name)
        out.append(Utterance(root / path, row.get("label") or path.parent.name, speaker, PARTS[split]))
    twice = [path for path, count in Counter(u.path for u in out).items() if count > 1]
    if twice:
        raise UserError(f"{manifest}: {twice[0].name} is listed more than once; take one line out")
    return sorted(out, key=lambda u: u.path)
