"""From whatever a source gives to mono int16 at the model's rate, streaming; what was wrong with the samples is counted."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.ports import AudioBlock
from pdmu.config import MAX_RATE_HZ, MIN_RATE_HZ
from pdmu.errors import UserError

Quality = Literal["HQ", "LQ"]
MAX_CHANNELS = 64
FULL_SCALE = 32767 / 32768  # a 16-bit converter cannot go higher, so this value counts as clipped


def check_format(rate_hz: int, channels: int, where: str) -> None:
    """Raise `UserError` for a rate or channel count that no real recording has."""
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise UserError(
            f"{where}: a sample rate of {rate_hz} Hz cannot be right; give the true one with --rate (or rate_hz in the configuration)"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise UserError(f"{where}: {channels} audio channels; 1 to {MAX_CHANNELS} can be used")


class Conditioner:
    """Streaming conversion of one source.

    Channels are averaged, NaN and infinite samples become zero, values beyond full scale are clipped, the rate is changed by soxr in
    float32, and the result is rounded to the nearest int16, halves to even, and saturated. The output does not depend on the chunking.

    Parameters
    ----------
    rate_in_hz, rate_out_hz : int
        Equal rates bypass the resampler: 16-bit input then comes out bit for bit.
    quality : {"HQ", "LQ"}
        soxr's. HQ holds back about 37 ms of audio at 48 kHz and 115 ms at 8 kHz, LQ half of it with a lower cut-off.
    """

    def __init__(self, rate_in_hz: int, rate_out_hz: int, quality: Quality = "HQ") -> None:
        self._resampler: Any = None
        if rate_in_hz != rate_out_hz:
            try:
                import soxr
            except ImportError:
                raise UserError(
                    f"resampling from {rate_in_hz} to {rate_out_hz} Hz needs the soxr package; pip install 'pdmu[agent]'"
                ) from None
            self._resampler = soxr.ResampleStream(rate_in_hz, rate_out_hz, 1, dtype="float32", quality=quality)

    def push(self, frames: NDArray[np.float32], last: bool = False, n_gaps: int = 0) -> AudioBlock:
        """Convert float32 [n] or [n, channels] (full scale 1.0); `last` flushes what the resampler holds back."""
        n_invalid = 0
        if not np.isfinite(frames).all():
            bad = ~np.isfinite(frames)
            n_invalid = int(bad.sum())
            frames = np.where(bad, np.float32(0), frames)
        n_clipped = int((np.abs(frames) >= FULL_SCALE).sum())
        mono = np.clip(frames, -1, 1)
        if mono.ndim == 2:
            mono = mono[:, 0] if mono.shape[1] == 1 else mono.mean(axis=1, dtype=np.float32)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono), last=last)
        pcm = np.clip(np.rint(mono * np.float32(32768)), -32768, 32767).astype(np.int16)
        return AudioBlock(pcm, n_clipped, n_invalid, n_gaps, frames.size)

    def flush(self) -> AudioBlock:
        """Return what is still held back."""
        return self.push(np.zeros(0, np.float32), last=True)
