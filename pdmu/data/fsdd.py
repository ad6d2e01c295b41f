"""Free Spoken Digit Dataset: digits of six speakers at 8 kHz, as features or as spikes.

``fsdd`` — log mel energies of the project's own front end, a step every 10 ms; lengths differ. The recordings are resampled to 16 kHz,
above 4 kHz there is nothing. ``fsdd-spikes`` — the same recordings through :mod:`pdmu.data.spike_encoder`, 70 channels every 5 ms.

Files are ``{digit}_{speaker}_{index}.wav`` (or ``.flac``). Its own split: index 0 to 4 is the test part, the rest trains, and so every
speaker is in both. For speakers that were never heard ask for ``folds``: a speaker is a group.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdmu.config import FrontendConfig
from pdmu.data.cache import EnergyCache
from pdmu.data.features import FeatureOptions, join, read_energies, steps
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import LoadedSequences, Progress, SequenceSet, find_folder, read_options
from pdmu.data.spike_encoder import EncoderOptions, encode_recordings
from pdmu.errors import UserError

FOLDERS = ("recordings", "fsdd", "fsdd/recordings", "free-spoken-digit-dataset/recordings")
NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.(wav|flac)", re.IGNORECASE)
TEST_BELOW = 5  # recordings of each digit and speaker with an index below are the test part
SILENCE_DBFS = -100.0  # the quietest take peaks at about -60


@dataclass(frozen=True)
class FsddOptions(FeatureOptions):
    """Settings of ``fsdd``."""

    f_max_hz: float = 4000.0  # half of 8 kHz


@dataclass(frozen=True)
class Take:
    """One recording, as its name says."""

    path: Path
    digit: int
    speaker: str
    index: int


def load(config: SequenceDataConfig, root: Path, cache: Path, progress: Progress) -> LoadedSequences:
    """Read ``fsdd`` or ``fsdd-spikes``.

    Parameters
    ----------
    config : SequenceDataConfig
        `options`: see `FsddOptions`, and :class:`pdmu.data.spike_encoder.EncoderOptions` for the spikes.
    root : Path
        The repository, its folder ``recordings``, or a folder above with ``fsdd`` in it.
    cache : Path
        Where mel energies are kept.
    progress : callable
        Wraps the recordings.

    Returns
    -------
    LoadedSequences
        ``values`` float32 ``[Σ T_i, 40]``, or uint8 ``[Σ T_i, 70]`` of 0 and 1; groups are speakers.

    Raises
    ------
    UserError
        No or unreadable recordings, or an option that does not exist.
    """
    where = f'[sequence.options] of "{config.data}"'
    if config.data == "fsdd-spikes":
        encoder = read_options(EncoderOptions, config)
        frontend = encoder.frontend(where)
    else:
        options = read_options(FsddOptions, config)
        frontend = options.frontend(where)
    takes = find_takes(find_folder(root, FOLDERS, "[0-9]_*_*.*", "fsdd"))
    energies = take_energies(takes, frontend, cache, progress)
    target = np.array([t.digit for t in takes], np.int64)
    speakers = [t.speaker for t in takes]
    part = np.array(["test" if t.index < TEST_BELOW else "train" for t in takes])
    labels = tuple("0123456789")
    if config.data == "fsdd":
        features = [steps(frontend, e, options.average, options.context) for e in energies]
        return LoadedSequences(labels, join(features, target, speakers), part)
    spikes = encode_recordings(encoder, frontend, energies)
    sequences = SequenceSet(np.concatenate(spikes), np.array([len(s) for s in spikes], np.int64), target, np.array(speakers))
    return LoadedSequences(labels, sequences, part, standardise=False)


def find_takes(folder: Path) -> list[Take]:
    """Return the recordings of a folder, by name.

    Raises
    ------
    UserError
        One recording in two files.
    """
    named = [(path, NAME.fullmatch(path.name)) for path in sorted(folder.iterdir())]
    takes = [Take(path, int(m["digit"]), m["speaker"], int(m["index"])) for path, m in named if m]
    seen: dict[tuple[int, str, int], Path] = {}
    for take in takes:
        first = seen.setdefault((take.digit, take.speaker, take.index), take.path)
        if first is not take.path:
            raise UserError(f"{folder}: {first.name} and {take.path.name} are one recording; keep one of them")
    if not takes:
        raise UserError(f"{folder}: no recordings named DIGIT_SPEAKER_INDEX.wav or .flac")
    return takes


def take_energies(takes: list[Take], frontend: FrontendConfig, cache: Path, progress: Progress) -> list[NDArray[np.float32]]:
    """Return mel energies float32 ``[frames, n_mels]`` of each recording."""
    stored = EnergyCache(cache, frontend, silence_dbfs=SILENCE_DBFS)
    return [read_energies(stored, take.path)[0] for take in progress(takes)]
