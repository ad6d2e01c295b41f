"""The golden signal: one second of PCM that every runtime can make for itself, in integers alone.

A bundle stores what the law answers to it, not the samples; the agent replays it at start.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = "pdmu.golden/1"
PART = 3200  # samples in each of the five parts


def lcg_noise(n: int, seed: int = 1) -> NDArray[np.int64]:
    """Return `n` values in -32768 … 32767 from ``x ← 1664525 x + 1013904223 mod 2^32`` (Numerical Recipes), its top 16 bits."""
    out = np.empty(n, np.int64)
    x = seed
    for i in range(n):
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
        out[i] = (x >> 16) - 32768
    return out


def _parabolic_sine(phase: NDArray[np.int64]) -> NDArray[np.int64]:
    """A sine-like wave of 16-bit phase, from parabolas: no library's rounding enters it. Range ±32767."""
    p = phase & 0xFFFF
    half = p & 0x7FFF
    y = np.minimum((half * (32768 - half)) >> 13, 32767)
    return np.where(p < 32768, y, -y)


def golden_pcm() -> NDArray[np.int16]:
    """Return the signal: quiet noise, a rising chirp, decaying noise bursts, a full-scale square wave, silence; int16 ``[16000]``."""
    i = np.arange(PART)
    noise = lcg_noise(2 * PART)
    quiet = noise[:PART] >> 9
    chirp = _parabolic_sine(np.cumsum(820 + 6 * i)) >> 1
    bursts = (noise[PART:] * (1600 - (i % 1600))) // 1600
    square = np.where((i // 20) % 2 == 0, 32767, -32768)
    return np.concatenate([quiet, chirp, bursts, square, np.zeros(PART, np.int64)]).astype(np.int16)
