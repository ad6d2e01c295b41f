"""The agent's ports: what a source, a backend and a delivery must offer, and the values that pass between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.int16]


class AudioBlock(NamedTuple):
    """Mono audio at the model's rate, with what was wrong with it before conversion."""

    pcm: Pcm  # int16 [n]
    n_clipped: int = 0  # source samples at or beyond full scale
    n_invalid: int = 0  # source samples that were NaN or infinite, replaced by zero
    n_gaps: int = 0  # interruptions just before or within this block
    n_source: int = 0  # source samples, every channel's, that went into it


class Source(Protocol):
    """Where audio comes from. `blocks` ends with the audio, or soon after the stop event that the source was built with is set."""

    name: str
    live: bool  # paced by a clock: wall time and sample clock can be compared

    @property
    def trouble(self) -> str | None:
        """What keeps audio from coming at present, in words; None when all is well."""
        ...

    def blocks(self) -> Iterator[AudioBlock]:
        """Yield the audio in order."""
        ...

    def close(self) -> None:
        """Let go of devices and child processes."""
        ...


class ScoreStream(Protocol):
    """One stream's path through front end and model, with its state."""

    def process(self, pcm: Pcm) -> NDArray[np.int16]:
        """Take PCM int16 [n] in any chunking, return the scores Q15 int16 [steps, n_labels] of the model steps it completed."""
        ...


class Backend(Protocol):
    """A model ready to run. One thread uses a backend at a time."""

    runtime: str  # numpy, tflite or c
    quant: str  # int16x8 or float32

    def stream(self) -> ScoreStream:
        """Begin a stream with fresh state."""
        ...


class Delivery(Protocol):
    """What takes stored messages to their readers."""

    def wake(self) -> None:
        """Tell it that the outbox has something new."""
        ...
