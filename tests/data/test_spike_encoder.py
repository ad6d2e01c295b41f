"""Our own spike encoder: its equation, its events, and files that the SHD loader reads back."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.shd import load
from pdmu.data.spike_encoder import EncoderOptions, encode, encode_recordings, events, levels, write_shd
from pdmu.errors import UserError

OPTIONS = EncoderOptions(channels=6)
FRONTEND = OPTIONS.frontend("test")


def _energies(seed: int, steps: int) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(8, 3, (steps, 6))).astype(np.float32)


def test_levels_span_the_range_below_the_loudest() -> None:
    below = 10 ** (-OPTIONS.range_db / 10 * np.array([0, 0.5, 1]))
    e = np.array([[*1e6 * below, 1e-9, 0.0, 1e6]], np.float32)
    assert levels(OPTIONS, e)[0] == pytest.approx([1, 0.5, 0, 0, 0, 1], abs=1e-6)  # float32 energies
    assert not levels(OPTIONS, np.zeros((3, 6), np.float32)).any()


def test_the_equation_step_by_step() -> None:
    level = levels(OPTIONS, _energies(1, 50))
    v, before, expected = np.zeros(6), np.zeros(6), []
    for l in level:
        v = OPTIONS.beta * v + OPTIONS.level_gain * l + OPTIONS.onset_gain * np.maximum(0, l - before)
        s = v >= 1
        v, before = v - s, l
        expected.append(s)
    assert np.array_equal(encode(OPTIONS, level), np.array(expected)) and 0 < np.mean(expected) < 1


def test_steady_sound_fires_regularly_and_silence_never() -> None:
    spikes = encode(OPTIONS, np.concatenate([np.ones((100, 1)), np.zeros((100, 1))]))
    gaps = np.diff(np.flatnonzero(spikes[10:100, 0]))
    assert spikes[0, 0] == 1 and set(gaps.tolist()) <= {1, 2, 3, 4} and spikes[120:].sum() == 0


def test_recordings_do_not_depend_on_their_neighbours() -> None:
    recordings = [_energies(i, 20 + 7 * i) for i in range(5)]
    together = encode_recordings(OPTIONS, FRONTEND, recordings)
    for e, spikes in zip(recordings, together, strict=True):
        assert np.array_equal(spikes, encode(OPTIONS, levels(OPTIONS, e))) and spikes.dtype == np.uint8


def test_files_in_shd_layout_are_read_back(tmp_path: Path) -> None:
    step_s = OPTIONS.frontend("test").hop_samples / 16000
    spikes = {
        p: encode_recordings(OPTIONS, FRONTEND, [_energies(10 * k + i, 40) for i in range(4)]) for k, p in enumerate(("train", "test"))
    }
    for part, some in spikes.items():
        write_shd(tmp_path / f"shd_{part}.h5", [events(s, step_s) for s in some], [0, 1, 2, 1], [4, 4, 5, 6], ["zero", "one", "two"])
    options = {"dt_ms": step_s * 1000, "steps": 40, "channels": 6, "bin": 1}
    loaded = load(SequenceDataConfig("shd", options=options), tmp_path, tmp_path, iter)
    assert np.array_equal(loaded.sequences.values.reshape(8, 40, 6), np.stack(spikes["train"] + spikes["test"]))
    assert loaded.labels == ("zero", "one", "two") and loaded.sequences.target.tolist() == [0, 1, 2, 1] * 2
    assert loaded.sequences.group.tolist() == ["speaker4", "speaker4", "speaker5", "speaker6"] * 2
    with h5py.File(tmp_path / "shd_train.h5") as file:
        assert file["spikes/times"].dtype == object and h5py.check_vlen_dtype(file["spikes/units"].dtype) == np.uint16
        assert (np.diff(file["spikes/times"][0]) >= 0).all() and file["extra/keys"][1] == b"one"


def test_what_cannot_be_written_or_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_shd(tmp_path / "no" / "x.h5", [], [], [], [])
    with pytest.raises(ValueError, match="one each"):
        write_shd(tmp_path / "x.h5", [], [1], [], [])
    with pytest.raises(UserError, match="n_mels must be 1 to 128"):
        EncoderOptions(channels=700).frontend("options")
