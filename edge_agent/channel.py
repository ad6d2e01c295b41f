"""One bundle listening to one stream: scores, detector, and the level of the sound that made each event."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.backend import SELF_TEST_TOLERANCE_Q15, Kind, Precision, make_backend
from edge_agent.ports import AudioBlock, Backend, Pcm, ScoreStream, Source
from pdmu.bundle import Bundle, read_bundle, self_test
from pdmu.detector import Detector, Event, Rejected
from pdmu.errors import UserError

SILENCE_DBFS = -120.0  # what digital silence is called


@dataclass(frozen=True)
class Listener:
    """A bundle with its backend and detector, ready for streams.

    Attributes
    ----------
    path : Path
        Of the bundle.
    bundle : Bundle
        With the thresholds in force.
    """

    path: Path
    bundle: Bundle
    backend: Backend
    detector: Detector

    def self_test(self) -> None:
        """Replay the golden signal through the backend; raises `UserError` when the answer is not the bundle's."""
        self_test(self.bundle, lambda pcm: self.backend.stream().process(pcm), SELF_TEST_TOLERANCE_Q15[self.backend.runtime])

    def with_thresholds(self, thresholds: Mapping[str, float]) -> Listener:
        """Return the listener with other thresholds (label → 0 … 1); `UserError` for an unknown label or a value outside."""
        bundle = self.bundle
        values = list(bundle.detector.threshold_q15)
        for label, value in thresholds.items():
            if label not in bundle.labels:
                raise UserError(f"threshold for '{label}': {self.path} has the labels {', '.join(bundle.labels)}")
            if not 0 < value < 1:
                raise UserError(f"threshold for '{label}' is {value}: it must lie between 0 and 1")
            values[bundle.labels.index(label)] = max(1, min(32767, round(value * 32768)))
        config = replace(bundle.detector, threshold_q15=tuple(values))
        return replace(self, bundle=replace(bundle, detector=config), detector=Detector(config, bundle.labels, bundle.samples_per_step))

    def threshold(self, label: int) -> float:
        """Threshold of a label, 0 … 1."""
        return self.bundle.detector.threshold_q15[label] / 32768


def load_listener(path: Path, kind: Kind = "auto", precision: Precision = "int16x8", thresholds: Mapping[str, float] | None = None,
                  library: Path | None = None) -> Listener:  # fmt: skip
    """Read a bundle, apply the thresholds given for its labels and make its backend.

    Raises
    ------
    UserError
        Unusable bundle or backend, unknown label, threshold outside 0 … 1.
    """
    bundle = read_bundle(path)
    backend = make_backend(bundle, path, kind, precision, library)
    listener = Listener(path, bundle, backend, Detector(bundle.detector, bundle.labels, bundle.samples_per_step))
    return listener.with_thresholds(thresholds or {})


class Found(NamedTuple):
    """An event with the level of its sound."""

    event: Event
    rms_dbfs: float
    clipped: float  # part of the samples at full scale


class Heard(NamedTuple):
    """What a block of audio brought."""

    found: list[Found]
    rejected: list[Rejected]
    scores: NDArray[np.int16]  # [steps, n_labels] Q15


class Channel:
    """State of one listener on one stream."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._stream: ScoreStream = listener.backend.stream()
        self._state = listener.detector.init()
        self._level = LevelMeter(listener.bundle.samples_per_step, listener.bundle.detector.max_steps + 1)

    def process(self, pcm: Pcm) -> Heard:
        """Take PCM int16 [n] in any chunking."""
        scores = self._stream.process(pcm)
        self._level.push(pcm)
        self._state, out = self.listener.detector.step(self._state, scores)
        heard = self._sorted(out, scores)
        self._level.forget(self._state.step)
        return heard

    def finish(self) -> Heard:
        """End the stream: an event still going on ends here.

        Nothing is heard after the last sample. A stream would go on with the sound of its place, which a recording does not hold, and
        silence fed in its stead is itself a sound: the cut before it looks like a click, and was seen to make detections of recordings
        that had none. Thresholds are set on recordings without a tail, too.
        """
        out = self.listener.detector.finish(self._state)
        return self._sorted(out, np.zeros((0, len(self.listener.bundle.labels)), np.int16))

    def _sorted(self, out: list[Event | Rejected], scores: NDArray[np.int16]) -> Heard:
        found = [Found(e, *self._level.over(e.onset_step, e.end_step)) for e in out if isinstance(e, Event)]
        return Heard(found, [r for r in out if isinstance(r, Rejected)], scores)


class LevelMeter:
    """Energy and clipped samples of each model step, kept as long as an event may need them.

    Parameters
    ----------
    step_samples : int
        Length of a step.
    keep_steps : int
        How far back `over` must reach after `forget`.
    """

    def __init__(self, step_samples: int, keep_steps: int) -> None:
        self._size, self._keep = step_samples, keep_steps
        self._rest = np.zeros(0, np.int16)
        self._first = 0  # step number of row 0
        self._rows = np.zeros((0, 2))  # [steps, (sum of squares, clipped samples)]

    def push(self, pcm: Pcm) -> None:
        """Take PCM int16 [n]."""
        pcm = np.concatenate([self._rest, pcm])
        steps = len(pcm) // self._size
        self._rest = pcm[steps * self._size :].copy()
        if steps:
            x = pcm[: steps * self._size].reshape(steps, self._size).astype(np.float32)
            clipped = ((x >= 32767) | (x <= -32768)).sum(axis=1)
            self._rows = np.concatenate([self._rows, np.stack([np.einsum("ij,ij->i", x, x), clipped], axis=1)])

    def over(self, begin: int, end: int) -> tuple[float, float]:
        """Return (RMS level in dBFS, clipped part) of steps `begin` to `end` (exclusive)."""
        rows = self._rows[max(0, begin - self._first) : end - self._first]
        if not len(rows):
            return SILENCE_DBFS, 0.0
        energy, clipped = rows.sum(axis=0) / (len(rows) * self._size)
        return dbfs(float(energy)), float(clipped)

    def forget(self, step: int) -> None:
        """Drop what lies more than `keep_steps` before `step`."""
        drop = step - self._keep - self._first
        if drop > 0:
            self._rows, self._first = self._rows[drop:], self._first + drop


def dbfs(mean_square: float) -> float:
    """Level of a mean square in PCM units, relative to a full-scale square wave."""
    return max(SILENCE_DBFS, 10 * float(np.log10(mean_square / 32768**2))) if mean_square > 0 else SILENCE_DBFS


class Turn(NamedTuple):
    """One block and what each channel heard in it."""

    block: AudioBlock
    heard: list[Heard]
    arrived_s: float  # monotonic time at which the block was there


def listen(source: Source, channels: list[Channel]) -> Iterator[Turn]:
    """Run channels over a source to its end: the one path that `analyze`, `run` and `pdmu-eval` share.

    The last turn has an empty block and what the end of the stream brought. The source's own complaint about its end (`UserError`) is
    raised after that: nothing heard before it is lost.
    """
    complaint: UserError | None = None
    blocks = source.blocks()
    while True:
        try:
            block = next(blocks)
        except StopIteration:
            break
        except UserError as error:
            complaint = error
            break
        arrived_s = time.monotonic()
        yield Turn(block, [channel.process(block.pcm) for channel in channels], arrived_s)
    yield Turn(AudioBlock(np.zeros(0, np.int16)), [channel.finish() for channel in channels], time.monotonic())
    if complaint is not None:
        raise complaint
