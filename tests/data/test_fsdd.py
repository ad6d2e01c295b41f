"""Spoken digits: names, parts, features from the project's front end, spikes, and a second reading from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pdmu.config import FrontendConfig
from pdmu.data.audio import read_pcm
from pdmu.data.cache import EnergyCache
from pdmu.data.fsdd import find_takes
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import load_sequences
from pdmu.errors import UserError
from pdmu.frontend import compress, mel_energies

SPEAKERS = ("ann", "bob", "cyd")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three digits of three speakers, indices 0 and 5 to 8, 8 kHz."""
    folder = tmp_path_factory.mktemp("fsdd") / "recordings"
    folder.mkdir()
    rng = np.random.default_rng(2)
    for digit in range(10):
        for speaker in SPEAKERS:
            for index in (0, 5, 6):
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", rng.normal(0, 0.1, 2000 + 100 * digit), 8000, subtype="PCM_16")
    (folder / "notes.txt").write_text("no recording")
    return folder.parent


def _config(data: str = "fsdd", **settings: object) -> SequenceDataConfig:
    return SequenceDataConfig(data, **settings)  # type: ignore[arg-type]


def test_parts_groups_and_features(root: Path, tmp_path: Path) -> None:
    corpus = load_sequences(_config(), root, tmp_path)
    assert (len(corpus.train), len(corpus.validation), len(corpus.test), corpus.inputs) == (40, 20, 30, 40)
    assert len(set(corpus.validation.group)) == 1 and not set(corpus.validation.group) & set(corpus.train.group)
    frontend = FrontendConfig(hop_samples=160, f_max_hz=4000.0, compression="log")
    pcm = read_pcm(root / "recordings" / "0_ann_0.wav", 16000)
    expected = compress(frontend, mel_energies(frontend, pcm).astype(np.float32))
    assert np.allclose(corpus.test.padded(np.array([0]))[0], expected, atol=1e-4)  # float32 of values up to 30


def test_steps_may_average_frames_and_hold_earlier_ones(root: Path, tmp_path: Path) -> None:
    plain = load_sequences(_config(options={"average": 2}), root, tmp_path)
    wide = load_sequences(_config(options={"average": 2, "context": 2}), root, tmp_path)
    one, two = plain.test.padded(np.array([4]))[0], wide.test.padded(np.array([4]))[0]
    assert two.shape == (len(one), 120) and np.array_equal(two[:, :40], one)
    assert np.array_equal(two[2:, 80:], one[:-2]) and not two[:2, 80:].any()


def test_a_second_reading_computes_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_sequences(_config(), root, tmp_path)
    monkeypatch.setattr("pdmu.data.cache.read_pcm", lambda *_, **__: pytest.fail("read again"))
    again = load_sequences(_config(options={"pcen": 0}), root, tmp_path)
    assert np.array_equal(first.train.values, again.train.values)


def test_spikes(root: Path, tmp_path: Path) -> None:
    corpus = load_sequences(_config("fsdd-spikes", folds=3), root, tmp_path)
    assert corpus.inputs == 70 and set(np.unique(corpus.train.values)) == {0, 1} and (corpus.scale == 1).all()
    assert len(set(corpus.test.group)) == 1 and not set(corpus.test.group) & set(corpus.train.group)
    assert int(corpus.test.length[0]) == 50  # 2000 samples at 8 kHz are a quarter of a second


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("fsdd", {"n_mel": 40.0}, "did you mean 'n_mels'"),
        ("fsdd", {"n_mels": 400.0}, "n_mels must be 1 to 128"),
        ("fsdd", {"window_samples": 64.0, "hop_samples": 64.0}, "narrower than an FFT bin"),
        ("fsdd", {"average": 0.0}, "average must be"),
        ("fsdd-spikes", {"n_mels": 40.0}, "unknown key 'n_mels'"),
        ("fsdd-spikes", {"beta": 2.0}, "beta must be"),
    ],
)
def test_options_that_cannot_be(root: Path, tmp_path: Path, data: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_sequences(_config(data, options=options), root, tmp_path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "0_ann_0.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"0_ann_0\.wav: unreadable"):
        load_sequences(_config(), tmp_path, tmp_path / "cache")
    (tmp_path / "0_ann_0.flac").touch()
    with pytest.raises(UserError, match=r"0_ann_0\.flac and 0_ann_0\.wav are one recording"):
        find_takes(tmp_path)


def test_real_recordings(data_dir: Path, tmp_path: Path) -> None:
    takes = find_takes(data_dir / "fsdd")
    assert len(takes) == 3000 and len({t.speaker for t in takes}) == 6 and sum(t.index < 5 for t in takes) == 300
    some = tmp_path / "recordings"
    some.mkdir()
    for take in takes:
        if take.index in (0, 7):
            (some / take.path.name).symlink_to(take.path)
    corpus = load_sequences(_config(), tmp_path, tmp_path / "cache")
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (50, 10, 60)
    spikes = load_sequences(_config("fsdd-spikes"), tmp_path, tmp_path / "cache")
    assert 0.02 < spikes.train.values.mean() < 0.1  # SHD: about 8000 spikes of 700 channels in 0.7 s, 0.08 a channel and 5 ms
    high = EnergyCache(tmp_path / "cache", FrontendConfig()).recording(takes[0].path)[0]
    assert high[:, 33:].sum() < 1e-3 * high.sum()  # resampled from 8 kHz: nothing above
