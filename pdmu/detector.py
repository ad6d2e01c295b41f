"""From scores to events: smoothing, threshold, hysteresis, durations, refractory time. Integer, streaming, chunk-invariant.

The law, for each label apart, in integers, so that C can repeat it (k counts model steps from 0):

    n = smooth_steps;  S[k] = score[k] + … + score[k-n+1]                 scores Q15, zero before step 0
    on  = threshold_q15 · n;  release_q15 = (threshold_q15 · R) >> 15 with R = floor(release_ratio · 32768 + 0.5), at least 1;
    off = release_q15 · n

    idle    free_at is the first step at which an event may begin (0 at the start).
            S[k] >= on and k >= free_at:   active, onset = k, peak = S[k]
            S[k] >= on and k <  free_at:   rejected "refractory" at step k, once for each refractory time
    active  S[k] <  off:                   the event is steps onset … k-1: length = k - onset
                length = 0:                nothing (a cut just before, see below); free_at = k + refractory_steps
                length < min_steps:        rejected "too_short"; free_at = k
                otherwise:                 event; free_at = k + refractory_steps
            otherwise peak = max(peak, S[k]), and if k - onset + 1 = max_steps: event (steps onset … k, "cut");
                                           it goes on, active, with onset = k + 1 and peak = 0
    At the end of the stream an active event ends as if the next S were 0.

`reject_labels` make neither events nor rejections. An event's score is peak / (n · 32768).

**What onset means.** Sample onset·step_samples, the first sample of the first step whose *smoothed* score reached the threshold; offset
is the sample after the last step. Nothing is compensated: against the sound itself the onset is late by what the model needs to be
sure plus up to n-1 steps of smoothing, and the offset by up to n-1 steps and the model's memory. An event is known one step after its
last (a cut one with its last): that is the detector's whole delay after the offset it reports.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdmu.config import DetectorConfig

Reason = Literal["too_short", "refractory"]


class Event(NamedTuple):
    """A detected sound; sample numbers count from the start of the stream."""

    label: int
    onset_step: int
    end_step: int  # the step after the last
    onset_sample: int
    end_sample: int
    peak_sum: int
    score: float  # largest smoothed score, 0 … 1
    cut: bool = False  # ended by max_steps: the sound went on


class Rejected(NamedTuple):
    """What reached the threshold and made no event, and why."""

    label: int
    onset_step: int
    end_step: int
    score: float
    reason: Reason


class LabelState(NamedTuple):
    """State of one label's machine; names as in the law."""

    active: bool = False
    onset: int = 0
    peak: int = 0
    free_at: int = 0
    refused: bool = False  # the present refractory time has reported its rejection


class DetectorState(NamedTuple):
    """Explicit state of the detector between calls."""

    step: int  # the next step's number
    tail: NDArray[np.int64]  # [smooth_steps - 1, n_labels] last scores
    labels: tuple[LabelState, ...]


Output = list[Event | Rejected]


class Detector:
    """The law above for one bundle's labels.

    Parameters
    ----------
    config : DetectorConfig
    labels : tuple of str
        The model's labels, in the order of the scores.
    step_samples : int
        Samples a model step covers.

    Raises
    ------
    ValueError
        The thresholds do not match the labels, or a reject label is none of them.
    """

    def __init__(self, config: DetectorConfig, labels: tuple[str, ...], step_samples: int) -> None:
        if len(config.threshold_q15) != len(labels):
            raise ValueError(f"{len(config.threshold_q15)} thresholds for {len(labels)} labels")
        unknown = set(config.reject_labels) - set(labels)
        if unknown:
            raise ValueError(f"reject_labels names {', '.join(sorted(unknown))}: not among {', '.join(labels)}")
        self.config, self.step_samples, self.n_labels = config, step_samples, len(labels)
        ratio = int(config.release_ratio * 32768 + 0.5)
        self.on = np.array(config.threshold_q15, np.int64) * config.smooth_steps
        self.off = np.array([max(1, (t * ratio) >> 15) for t in config.threshold_q15], np.int64) * config.smooth_steps
        self.watched = [i for i, label in enumerate(labels) if label not in config.reject_labels]

    def init(self) -> DetectorState:
        """Return the state at the start of a stream."""
        tail = np.zeros((self.config.smooth_steps - 1, self.n_labels), np.int64)
        return DetectorState(0, tail, (LabelState(),) * self.n_labels)

    def step(self, state: DetectorState, scores_q15: NDArray[np.int16]) -> tuple[DetectorState, Output]:
        """Take scores int16 [T, n_labels] in any chunking; return the new state and what ended, in order of time."""
        if not len(scores_q15):
            return state, []
        n = self.config.smooth_steps
        padded = np.concatenate([state.tail, scores_q15.astype(np.int64)])
        totals = np.cumsum(padded, axis=0)
        sums = totals[n - 1 :].copy()
        sums[1:] -= totals[:-n]
        out: Output = []
        labels = list(state.labels)
        for i in self.watched:
            if labels[i].active or sums[:, i].max() >= self.on[i]:
                labels[i] = self._label(i, labels[i], state.step, sums[:, i], out)
        out.sort(key=lambda e: (e.end_step, e.label))
        return DetectorState(state.step + len(scores_q15), padded[len(padded) - (n - 1) :], tuple(labels)), out

    def finish(self, state: DetectorState) -> Output:
        """Return what the end of the stream ends."""
        out: Output = []
        zero = np.zeros(1, np.int64)
        for i in self.watched:
            if state.labels[i].active:
                self._label(i, state.labels[i], state.step, zero, out)
        return out

    def _label(self, i: int, s: LabelState, first: int, sums: NDArray[np.int64], out: Output) -> LabelState:
        """Run one label's machine over the sums of steps first, first + 1 …, jumping from change to change."""
        config = self.config
        above, below = np.flatnonzero(sums >= self.on[i]) + first, np.flatnonzero(sums < self.off[i]) + first
        k, end = first, first + len(sums)
        while k < end:
            if not s.active:
                k = _next(above, k, end)
                if k < min(s.free_at, end):
                    if not s.refused:
                        out.append(Rejected(i, k, k + 1, self._score(int(sums[k - first])), "refractory"))
                    s = s._replace(refused=True)
                    k = _next(above, s.free_at, end)
                if k < end:
                    s = LabelState(True, k, 0, s.free_at, False)
                continue
            stop = _next(below, k, end)
            cut = s.onset + config.max_steps  # the step after the last one allowed
            last = min(stop, cut)
            if last > k:
                s = s._replace(peak=max(s.peak, int(sums[k - first : last - first].max())))
            if last == cut and cut <= end:
                out.append(self._event(i, s, cut, True))
                s, k = s._replace(onset=cut, peak=0), cut
            elif stop < end:
                s, k = self._ended(i, s, stop, out), stop + 1
            else:
                k = end
        return s

    def _ended(self, i: int, s: LabelState, k: int, out: Output) -> LabelState:
        length = k - s.onset
        free_at = k + self.config.refractory_steps
        if 0 < length < self.config.min_steps:
            out.append(Rejected(i, s.onset, k, self._score(s.peak), "too_short"))
            free_at = k
        elif length:
            out.append(self._event(i, s, k, False))
        return LabelState(free_at=free_at)

    def _event(self, i: int, s: LabelState, end_step: int, cut: bool) -> Event:
        size = self.step_samples
        return Event(i, s.onset, end_step, s.onset * size, end_step * size, s.peak, self._score(s.peak), cut)

    def _score(self, peak_sum: int) -> float:
        return peak_sum / (self.config.smooth_steps * 32768)


def _next(steps: NDArray[np.int64], at_least: int, otherwise: int) -> int:
    """Return the first of the rising `steps` that is at least `at_least`."""
    j = int(np.searchsorted(steps, at_least))
    return int(steps[j]) if j < len(steps) else otherwise
