"""Speech Commands: the source's lists, a manifest, the speakers' hash, and features of one second."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pdmu.data.gsc import PARTS, find_utterances, which_set
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import load_sequences
from pdmu.errors import UserError

TRAIN, VALIDATION, TEST = ("02ade946", "07c5129e"), ("1a73dcd1", "22aa3665"), ("1f653d27", "210f3aa9")  # by the hash


def _write(path: Path, samples: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(zlib.crc32(path.name.encode())).normal(0, 0.1, samples)
    soundfile.write(path, x, 16000, subtype="PCM_16")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for word in ("yes", "no"):
        for speaker in (*TRAIN, *VALIDATION, *TEST):
            _write(tmp_path / "speech_commands_v0.02" / word / f"{speaker}_nohash_0.wav", 16000 if word == "yes" else 9000)
    _write(tmp_path / "speech_commands_v0.02" / "_background_noise_" / "a_nohash_0.wav")
    return tmp_path


def test_the_hash_decides_without_lists(root: Path, tmp_path: Path) -> None:
    corpus = load_sequences(SequenceDataConfig("gsc"), root, tmp_path / "cache")
    assert corpus.labels == ("no", "yes") and corpus.inputs == 40 and (corpus.train.length == 100).all()
    assert [sorted(set(p.group)) for p in (corpus.train, corpus.validation, corpus.test)] == [sorted(x) for x in (TRAIN, VALIDATION, TEST)]
    assert "public validation part" in corpus.split and corpus.train.values.dtype == np.float16


def test_short_recordings_are_followed_by_silence(root: Path, tmp_path: Path) -> None:
    corpus = load_sequences(SequenceDataConfig("gsc", options={"average": 2}), root, tmp_path / "cache")
    no = corpus.test.padded(np.flatnonzero(corpus.test.target == 0))
    assert no.shape == (2, 50, 40) and (no[:, :28] > 0).all() and not no[:, 29:].any()


def test_lists_go_before_the_hash(root: Path, tmp_path: Path) -> None:
    folder = root / "speech_commands_v0.02"
    (folder / "validation_list.txt").write_text("yes/02ade946_nohash_0.wav\nno/02ade946_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("yes/1a73dcd1_nohash_0.wav\nno/1a73dcd1_nohash_0.wav\n")
    corpus = load_sequences(SequenceDataConfig("gsc"), folder, tmp_path / "cache")
    assert set(corpus.validation.group) == {"02ade946"} and set(corpus.test.group) == {"1a73dcd1"} and len(corpus.train) == 8
    (folder / "no" / "1a73dcd1_nohash_0.wav").unlink()
    with pytest.raises(UserError, match=r"1 of 4 recordings in the lists are not there: no/1a73dcd1_nohash_0\.wav"):
        find_utterances(root)
    (folder / "testing_list.txt").unlink()
    with pytest.raises(UserError, match=r"testing_list\.txt: cannot be read"):
        find_utterances(root)


def _manifest(root: Path, split: str = "training", rows: int = 1) -> None:
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source", "fold_or_group", "split"])
        writer.writerow(["cough/x.wav", "cough", "other", "g", "dev"])
        writer.writerows([["gsc/yes/x_nohash_0.wav", "yes", "Google Speech Commands v0.02", "x", split]] * rows)


def test_a_manifest_gives_words_speakers_and_parts(tmp_path: Path) -> None:
    _manifest(tmp_path, "testing")
    (only,) = find_utterances(tmp_path)
    assert (only.word, only.speaker, only.part) == ("yes", "x", "test") and only.path == tmp_path / "gsc" / "yes" / "x_nohash_0.wav"
    _manifest(tmp_path, "dev")
    with pytest.raises(UserError, match="split is 'dev'"):
        find_utterances(tmp_path)
    _manifest(tmp_path, rows=2)
    with pytest.raises(UserError, match="listed more than once"):
        find_utterances(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"second": 1.0}, "did you mean 'seconds'"), ({"seconds": 0.0}, "positive"), ({"seconds": 0.001}, "less than a step")],
)
def test_options_that_cannot_be(root: Path, tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_sequences(SequenceDataConfig("gsc", options=options), root, tmp_path / "cache")


def test_real_words(data_dir: Path, tmp_path: Path) -> None:
    utterances = find_utterances(data_dir)
    parts = {p: [u for u in utterances if u.part == p] for p in ("train", "validation", "test")}
    assert {p: len(us) for p, us in parts.items()} == {"train": 466, "validation": 100, "test": 84}
    speakers = [{u.speaker for u in us} for us in parts.values()]
    assert not (speakers[0] & speakers[1] or speakers[0] & speakers[2] or speakers[1] & speakers[2])
    with (data_dir / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["path"].startswith("gsc/")]
    assert all(which_set(Path(r["path"]).name) == PARTS[r["split"]] for r in rows)  # the published split is the hash's
    corpus = load_sequences(SequenceDataConfig("gsc"), data_dir, tmp_path)
    assert (len(corpus.train), len(corpus.validation), len(corpus.test), corpus.inputs) == (466, 100, 84, 40)
    assert corpus.labels == ("house", "learn", "left", "marvin", "one")
