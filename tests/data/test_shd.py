"""Heidelberg spiking data sets: binning by hand, parts, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import load_sequences
from pdmu.data.shd import SpikeOptions, bin_spikes
from pdmu.errors import UserError


def _write(path: Path, n: int, *, first_speaker: int = 0, times: object = None, units: object = None, speakers: bool = True) -> None:
    """Write a file as the source does: float16 times, uint16 units."""
    rng = np.random.default_rng(n)
    with h5py.File(path, "w") as file:
        t = file.create_dataset("spikes/times", (n,), h5py.vlen_dtype(np.float16))
        u = file.create_dataset("spikes/units", (n,), h5py.vlen_dtype(np.uint16))
        for i in range(n):
            t[i] = np.sort(rng.uniform(0, 1.3, 50)).astype(np.float16) if times is None else times
            u[i] = rng.integers(0, 700, 50).astype(np.uint16) if units is None else units
        file["labels"] = (np.arange(n) % 4).astype(np.uint16)
        file["extra/keys"] = [b"zero", b"one", b"two", b"null"]
        if speakers:
            file["extra/speaker"] = (first_speaker + np.arange(n) // 4).astype(np.uint16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "shd").mkdir()
    _write(tmp_path / "shd" / "shd_train.h5", 40)
    _write(tmp_path / "shd" / "shd_test.h5", 12, first_speaker=8)
    return tmp_path


def test_spikes_are_counted_by_step_and_bin() -> None:
    options = SpikeOptions(dt_ms=10, steps=3, bin=5, channels=10)
    times = [np.array([0.0, 0.0099, 0.0101, 0.0299, 0.0301]), np.array([])]
    units = [np.array([0, 4, 4, 9, 9]), np.array([])]
    counts = bin_spikes(np.array(times, object), np.array(units, object), options)
    assert counts.tolist() == [[[2, 0], [1, 0], [0, 1]], [[0, 0]] * 3]  # the last spike is later than three steps
    both = bin_spikes(np.array(times, object), np.array(units, object), SpikeOptions(dt_ms=10, steps=3, bin=5, channels=10, binary=1))
    assert both.max() == 1 and np.array_equal(both > 0, counts > 0)
    many = bin_spikes([np.zeros(300)], [np.zeros(300, int)], options)  # type: ignore[arg-type]
    assert many[0, 0, 0] == 255


def test_parts_and_speakers(root: Path) -> None:
    corpus = load_sequences(SequenceDataConfig("shd"), root)
    assert (len(corpus.train), len(corpus.validation), len(corpus.test), corpus.inputs) == (36, 4, 12, 140)
    assert not set(corpus.train.group) & set(corpus.validation.group) and corpus.labels == ("zero", "one", "two", "null")
    assert (corpus.train.length == 100).all() and corpus.train.values.dtype == np.uint8 and (corpus.scale == 1).all()
    assert corpus.test.values.sum() == sum((x < 1).sum() for x in _times(root / "shd" / "shd_test.h5"))


def _times(path: Path) -> list[np.ndarray]:
    with h5py.File(path) as file:
        return [np.asarray(t, np.float64) for t in file["spikes/times"][:]]


def test_ssc_has_a_public_validation_part(tmp_path: Path) -> None:
    for name, n in (("train", 16), ("valid", 8), ("test", 4)):
        _write(tmp_path / f"ssc_{name}.h5", n, speakers=False)
    corpus = load_sequences(SequenceDataConfig("ssc"), tmp_path)
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (16, 8, 4) and "public validation" in corpus.split
    assert len(set(corpus.train.group) | set(corpus.validation.group) | set(corpus.test.group)) == 28  # no speakers: each its own


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": np.array([700], np.uint16), "times": np.array([0.1], np.float16)}, "channels from 700 to 700"),
        ({"times": np.array([0.1], np.float16)}, "differ in number"),
        ({"units": np.array([7], np.uint16), "times": np.array([np.nan], np.float16)}, "negative or no number"),
    ],
)
def test_impossible_spikes_are_refused(root: Path, settings: dict[str, np.ndarray], message: str) -> None:
    _write(root / "shd" / "shd_test.h5", 4, **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"shd_test\.h5: recordings 0 to 3: .*{message}"):
        load_sequences(SequenceDataConfig("shd"), root)


def test_files_that_are_none(root: Path) -> None:
    path = root / "shd" / "shd_test.h5"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="no HDF5 file, or damaged"):
        load_sequences(SequenceDataConfig("shd"), root)
    with h5py.File(path, "w") as file:
        file["labels"] = [1]
    with pytest.raises(UserError, match="holds no spikes/times"):
        load_sequences(SequenceDataConfig("shd"), root)
    path.rename(path.with_name("shd_test.h5.gz"))
    with pytest.raises(UserError, match=r"gunzip shd_test\.h5\.gz"):
        load_sequences(SequenceDataConfig("shd"), root)


@pytest.mark.parametrize(
    ("options", "message"), [({"bin": 3.0}, "bin must divide channels"), ({"dt": 1.0}, "dt_ms"), ({"steps": 0.0}, "positive")]
)
def test_options_that_cannot_be(root: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_sequences(SequenceDataConfig("shd", options=options), root)
