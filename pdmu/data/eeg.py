"""Visual attention in EEG: epochs around the stimuli, told apart by the place that was attended to.

The recording at hand is EEGLAB's tutorial data: one subject, 32 electrodes at 128 Hz, 4 minutes, 80 targets (events ``square``). Squares
and circles appeared at five places side by side; the subject attended to one of them and pressed a button when a square appeared there.
Only targets at the two leftmost places are kept in it: position 1 or 2, forty each, is the label. **It is a smoke test of the protocol,
not a result**: one subject and some sixty epochs to train on.

Places come in runs of five or ten stimuli, one of the other place after it, and the signal drifts: neighbours in time look alike, whatever
was attended to. So the unit that is never split is a block of whole runs (`runs` of them, so of both places but for a run left over at the
end), and ``folds`` leaves blocks out. With several recordings in the folder, one a subject, it leaves subjects out; ``within_subject`` = 1
asks for blocks instead.

An epoch is the signal from `start_s` to `end_s` around its stimulus, in µV, less each electrode's mean over `baseline_s` before the
stimulus, `average` samples to a step. The eyes' electrodes (EOG…) are left out: whoever looks to the left tells by them where.

File format, one ``.npz`` a subject: ``data`` float ``[channels, samples]`` in µV; ``srate`` in Hz; ``ch_names`` ``[channels]``;
``event_type`` str, ``event_sample`` (counted from 0; fractions are rounded) and ``event_position`` int, ``[events]`` each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdmu.data.npz import read_archive
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import LoadedSequences, Progress, SequenceSet, find_folder, read_options
from pdmu.errors import UserError

ARRAYS = ("data", "srate", "ch_names", "event_type", "event_sample", "event_position")
STIMULUS = "square"  # event type of a target


@dataclass(frozen=True)
class EegOptions:
    """Epochs and blocks."""

    start_s: float = -0.2  # of an epoch, after the stimulus
    end_s: float = 1.0
    baseline_s: float = 0.2  # before the stimulus; 0 = the mean stays
    average: int = 2  # samples whose mean is one step: 64 Hz of the 128
    normalise: int = 0  # 1: each epoch is divided by its own standard deviation, all electrodes together
    eog: int = 0  # 1: with the eyes' electrodes
    runs: int = 2  # runs of one place in a block that is never split
    within_subject: int = 0  # 1: blocks are left out, not subjects, of several recordings

    def __post_init__(self) -> None:
        if self.start_s >= self.end_s or self.baseline_s < 0 or min(self.average, self.runs) < 1:
            raise ValueError("start_s must be before end_s, baseline_s not negative, average and runs at least 1")
        if not {self.normalise, self.eog, self.within_subject} <= {0, 1}:
            raise ValueError("normalise, eog and within_subject must be 0 or 1")


@dataclass(frozen=True)
class Recording:
    """One subject's recording."""

    subject: str
    data: NDArray[np.float64]  # [channels, samples], µV
    srate_hz: float
    channels: tuple[str, ...]
    onset: NDArray[np.int64]  # [stimuli] sample
    position: NDArray[np.int64]  # [stimuli] attended place


def load(config: SequenceDataConfig, root: Path, cache: Path, progress: Progress) -> LoadedSequences:
    """Read ``eeg``.

    Parameters
    ----------
    config : SequenceDataConfig
        `options`: see `EegOptions`.
    root : Path
        Folder of the ``.npz`` files, or the folder above ``eeg``.
    cache : Path
        Not used.
    progress : callable
        Wraps the files.

    Returns
    -------
    LoadedSequences
        ``values`` float32 ``[n · 77, 30]``, µV, as the options and the recording at hand stand. No public parts.

    Raises
    ------
    UserError
        No recording, one of another layout, recordings that differ in electrodes or rate, or an option that does not exist.
    """
    options = read_options(EegOptions, config)
    recordings = [read_recording(path) for path in progress(sorted(find_folder(root, ("eeg",), "*.npz", "eeg").glob("*.npz")))]
    first = recordings[0]
    for other in recordings[1:]:
        if (other.channels, other.srate_hz) != (first.channels, first.srate_hz):
            raise UserError(f"{root}: {other.subject} has other electrodes or another rate than {first.subject}; keep one montage there")
    places = sorted({int(p) for r in recordings for p in r.position})
    if len(places) < 2:
        raise UserError(f"{root}: the events '{STIMULUS}' name {len(places)} position(s); two are needed to tell apart")
    blocks = len(recordings) == 1 or options.within_subject == 1
    epochs: list[NDArray[np.float32]] = []
    target: list[int] = []
    group: list[str] = []
    for recording in recordings:
        cut, kept = cut_epochs(recording, options)
        epochs += list(cut)
        target += [places.index(p) for p in recording.position[kept]]
        names = [f"{recording.subject} block {b}" for b in run_blocks(recording.position, options.runs)] if blocks else None
        group += [n for n, k in zip(names, kept, strict=True) if k] if names else [recording.subject] * len(cut)
    if not epochs:
        raise UserError(f"{root}: no epoch from {options.start_s:g} s to {options.end_s:g} s lies inside its recording; take a shorter one")
    length = np.full(len(epochs), len(epochs[0]), np.int64)
    sequences = SequenceSet(np.concatenate(epochs), length, np.array(target, np.int64), np.array(group))
    return LoadedSequences(tuple(f"position{p}" for p in places), sequences, np.full(len(epochs), ""))


def read_recording(path: Path) -> Recording:
    """Return a recording and its stimuli.

    Raises
    ------
    UserError
        The file is damaged or not of the layout that this module's docstring gives.
    """
    arrays = read_archive(path)
    absent = [name for name in ARRAYS if name not in arrays]
    if absent:
        raise UserError(f"{path}: holds no array '{absent[0]}'; a recording needs {', '.join(ARRAYS)}")
    _check(path, arrays)
    square = arrays["event_type"] == STIMULUS
    return Recording(
        subject=path.stem,
        data=arrays["data"].astype(np.float64),
        srate_hz=float(arrays["srate"]),
        channels=tuple(str(name) for name in arrays["ch_names"]),
        onset=np.rint(arrays["event_sample"][square]).astype(np.int64),
        position=arrays["event_position"][square].astype(np.int64),
    )


def _check(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    data, events = arrays["data"], len(arrays["event_type"])
    if data.ndim != 2 or len(data) != len(arrays["ch_names"]) or arrays["srate"].size != 1 or not float(arrays["srate"]) > 0:
        raise UserError(f"{path}: data must be [channels, samples] with a name in ch_names for each channel and a positive srate")
    if not events == len(arrays["event_sample"]) == len(arrays["event_position"]):
        raise UserError(f"{path}: event_type, event_sample and event_position differ in length")
    if not np.isfinite(data).all():
        raise UserError(f"{path}: data holds NaN or infinite values; interpolate or leave those electrodes out")


def cut_epochs(recording: Recording, options: EegOptions) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the epochs of a recording.

    Returns
    -------
    epochs : ndarray of float32
        ``[kept stimuli, steps, electrodes]``, µV (or in units of the epoch's deviation).
    kept : ndarray of bool
        ``[stimuli]``: the epoch lies inside the recording.
    """
    rate = recording.srate_hz
    chosen = [i for i, name in enumerate(recording.channels) if options.eog or not name.upper().startswith("EOG")]
    begin, end, base = round(options.start_s * rate), round(options.end_s * rate), round(options.baseline_s * rate)
    steps = (end - begin) // options.average
    if steps == 0 or not chosen:
        raise UserError(f'[sequence.options] of "eeg": an epoch of {end - begin} samples of {len(chosen)} electrodes holds no step')
    kept = (recording.onset + min(begin, -base) >= 0) & (recording.onset + end <= recording.data.shape[1])
    epochs = np.empty((int(kept.sum()), steps, len(chosen)), np.float32)
    for out, onset in zip(epochs, recording.onset[kept], strict=True):
        x = recording.data[chosen, onset + begin : onset + begin + steps * options.average]
        if base:
            x = x - recording.data[chosen, onset - base : onset].mean(1, keepdims=True)
        x = x.reshape(len(chosen), steps, options.average).mean(2)
        out[:] = (x / max(float(x.std()), 1e-12) if options.normalise else x).T
    return epochs, kept


def run_blocks(position: NDArray[np.int64], runs: int) -> NDArray[np.int64]:
    """Return the block of each stimulus: `runs` runs of one position after each other make one."""
    run = np.concatenate([[0], np.cumsum(position[1:] != position[:-1])]) if len(position) else np.zeros(0, np.int64)
    return run.astype(np.int64) // runs
