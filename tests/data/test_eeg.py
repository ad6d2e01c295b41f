"""EEG: epochs and their baseline, blocks and subjects that are never split, and recordings that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdmu.data.eeg import EegOptions, cut_epochs, read_recording, run_blocks
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import load_sequences
from pdmu.errors import UserError

RUNS = [2] * 3 + [1] * 3


def _arrays(seed: int = 0, n: int = 24, **changes: object) -> dict[str, object]:
    """Return a recording at 100 Hz with a stimulus each second, a response behind each; places change every third."""
    position = np.array([p for _ in range(n // 6) for p in RUNS])
    arrays: dict[str, object] = {
        "data": np.random.default_rng(seed).normal(0, 10, (3, 100 * (n + 2))).astype(np.float32),
        "srate": np.float32(100),
        "ch_names": np.array(["Fz", "EOG1", "Pz"]),
        "event_type": np.array(["square", "rt"] * n),
        "event_sample": np.repeat(np.arange(n) * 100.0 + 100.3, 2) + np.tile([0, 40], n),
        "event_position": np.stack([position, 0 * position], 1).ravel(),
    }
    return arrays | changes


def _save(path: Path, seed: int = 0, **changes: object) -> Path:
    np.savez(path, **_arrays(seed, **changes))  # type: ignore[arg-type]
    return path


def test_epochs_are_cut_around_stimuli_and_lose_their_baseline(tmp_path: Path) -> None:
    recording = read_recording(_save(tmp_path / "s1.npz"))
    assert recording.onset[:2].tolist() == [100, 200] and len(recording.onset) == 24 and recording.position[:4].tolist() == [2, 2, 2, 1]
    epochs, kept = cut_epochs(recording, EegOptions(start_s=-0.1, end_s=0.5, average=3))
    assert kept.all() and epochs.shape == (24, 20, 2)  # without EOG1
    x = recording.data[[0, 2], 190:250] - recording.data[[0, 2], 180:200].mean(1, keepdims=True)
    assert np.allclose(epochs[1], x.reshape(2, 20, 3).mean(2).T, atol=1e-4)
    raw, _ = cut_epochs(recording, EegOptions(start_s=-0.1, end_s=0.5, baseline_s=0, average=1, eog=1))
    assert np.allclose(raw[1], recording.data[:, 190:250].T, atol=1e-4)
    scaled, _ = cut_epochs(recording, EegOptions(normalise=1))
    assert np.allclose(scaled.std((1, 2)), 1, atol=1e-3)


def test_epochs_outside_the_recording_are_left_out(tmp_path: Path) -> None:
    recording = read_recording(_save(tmp_path / "s1.npz", data=np.zeros((3, 2450), np.float32)))
    assert cut_epochs(recording, EegOptions(start_s=-0.2, end_s=0.6))[1].tolist() == [True] * 23 + [False]
    with pytest.raises(UserError, match="holds no step"):
        cut_epochs(recording, EegOptions(average=1000))


def test_blocks_are_whole_runs() -> None:
    position = np.array([2, 2, 1, 1, 1, 2, 1, 1])
    assert run_blocks(position, 2).tolist() == [0, 0, 0, 0, 0, 1, 1, 1] and run_blocks(position, 1).tolist() == [0, 0, 1, 1, 1, 2, 3, 3]


def test_one_subject_is_cut_by_block(tmp_path: Path) -> None:
    _save(tmp_path / "s1.npz")
    with pytest.raises(UserError, match=r"no public test part.*folds"):
        load_sequences(SequenceDataConfig("eeg"), tmp_path)
    for fold in range(4):
        corpus = load_sequences(SequenceDataConfig("eeg", folds=4, fold=fold), tmp_path)
        groups = [set(p.group.tolist()) for p in (corpus.train, corpus.validation, corpus.test)]
        assert [len(g) for g in groups] == [2, 1, 1] and len(set.union(*groups)) == 4
        assert corpus.labels == ("position1", "position2") and np.bincount(corpus.test.target).tolist() == [3, 3]


def test_several_subjects_are_cut_by_subject_or_block(tmp_path: Path) -> None:
    for i in range(4):
        _save(tmp_path / f"s{i}.npz", seed=i)
    corpus = load_sequences(SequenceDataConfig("eeg", folds=4), tmp_path)
    groups = [set(p.group.tolist()) for p in (corpus.train, corpus.validation, corpus.test)]
    assert set.union(*groups) == {"s0", "s1", "s2", "s3"} and sum(map(len, groups)) == 4
    within = load_sequences(SequenceDataConfig("eeg", folds=4, options={"within_subject": 1}), tmp_path)
    assert len(set(within.train.group) | set(within.validation.group) | set(within.test.group)) == 16
    _save(tmp_path / "s9.npz", ch_names=np.array(["Fz", "EOG1", "Oz"]))
    with pytest.raises(UserError, match="s9 has other electrodes"):
        load_sequences(SequenceDataConfig("eeg", folds=4), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((4, 9))}, r"data must be \[channels, samples\]"),
        ({"srate": np.float32(0)}, "positive srate"),
        ({"data": np.full((3, 2600), np.nan)}, "NaN"),
        ({"event_sample": np.zeros(3)}, "differ in length"),
        ({"event_type": np.array(["x"] * 48)}, r"name 0 position\(s\)"),
        ({"data": np.array([{}])}, "object arrays are refused"),
    ],
)
def test_wrong_recordings_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    _save(tmp_path / "s1.npz", **changes)
    with pytest.raises(UserError, match=message):
        load_sequences(SequenceDataConfig("eeg", folds=4), tmp_path)


def test_a_missing_array_and_no_archive_are_named(tmp_path: Path) -> None:
    arrays = _arrays()
    del arrays["event_position"]
    np.savez(tmp_path / "s1.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no array 'event_position'"):
        read_recording(tmp_path / "s1.npz")
    (tmp_path / "s1.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="damaged"):
        read_recording(tmp_path / "s1.npz")


@pytest.mark.parametrize(("options", "message"), [({"average": 0.0}, "at least 1"), ({"eog": 2.0}, "0 or 1"), ({"start": 0.0}, "start_s")])
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_sequences(SequenceDataConfig("eeg", options=options), tmp_path)


def test_real_recording(data_dir: Path) -> None:
    corpus = load_sequences(SequenceDataConfig("eeg", folds=7, fold=2), data_dir)
    parts = (corpus.train, corpus.validation, corpus.test)
    assert sum(map(len, parts)) == 80 and corpus.inputs == 30 and (corpus.train.length == 77).all()
    assert sum(np.bincount(p.target, minlength=2) for p in parts).tolist() == [40, 40]
    groups = [set(p.group.tolist()) for p in parts]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 7
