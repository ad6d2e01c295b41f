"""The one rounding law, saturation, requantisation and table look-up (MODEL.md, section 2).

Every function takes and returns integer arrays and computes in int64; nothing here rounds twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

I16_MIN, I16_MAX = -(1 << 15), (1 << 15) - 1
Int = NDArray[np.int64]


def rshift_round(v: ArrayLike, s: ArrayLike) -> Int:
    """Return ``(v + (1 << (s-1))) >> s`` in int64: divide by 2^s, round half up, once.

    Parameters
    ----------
    v : array_like of int
        Any shape; ``|v| + 2^(s-1)`` must be below 2^63.
    s : array_like of int
        Shift, 0 … 62, broadcast against `v`; 0 returns `v`.

    Examples
    --------
    >>> rshift_round([-3, -2, -1, 1, 2, 3], 1).tolist()
    [-1, -1, 0, 1, 1, 2]
    """
    v64, s64 = np.asarray(v, np.int64), np.asarray(s, np.int64)
    half = np.left_shift(np.int64(1), s64) >> 1
    return np.asarray((v64 + half) >> s64, np.int64)


def saturate16(v: ArrayLike, low: int = I16_MIN) -> NDArray[np.int16]:
    """Clamp to `low` … 32767 and return int16; ``low=0`` is the ReLU."""
    return np.clip(np.asarray(v, np.int64), low, I16_MAX).astype(np.int16)


def requant(acc: ArrayLike, multiplier: ArrayLike, shift: ArrayLike, low: int = I16_MIN) -> NDArray[np.int16]:
    """Scale accumulators by ``multiplier / 2^shift``, round once and saturate to int16.

    Parameters
    ----------
    acc : array_like of int
        Accumulators ``[..., C]``; ``|acc · multiplier| + 2^(shift-1)`` must be below 2^63, which `pdmu.ranges` proves of a bundle.
    multiplier, shift : array_like of int
        ``[C]`` or scalar; multiplier int32, shift 1 … 62.
    low : int
        Lower clamp; 0 applies a ReLU.
    """
    return saturate16(rshift_round(np.asarray(acc, np.int64) * np.asarray(multiplier, np.int64), shift), low)


def exact_matmul(x: NDArray[np.int16], weight: Int) -> Int:
    """Return ``x @ weight.T`` of int16 and int8 values: exact in float64, whose sums stay far below 2^53."""
    return np.asarray(x.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.int64)


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Return (multiplier, shift) with ``real ≈ multiplier / 2^shift``, multiplier in [2^30, 2^31) where the shift allows.

    Parameters
    ----------
    real : float
        Non-negative factor below 2^29; factors below 2^-32 lose precision, 0 gives (0, 1).

    Raises
    ------
    ValueError
        If `real` is negative, not finite or too large.

    Examples
    --------
    >>> quantize_multiplier(0.5)
    (1073741824, 31)
    """
    if not np.isfinite(real) or real < 0 or real >= 2.0**29:
        raise ValueError(f"factor {real} cannot be represented: it must be finite, 0 or more, and below 2^29")
    if real == 0:
        return 0, 1
    mantissa, exponent = np.frexp(real)  # real = mantissa * 2^exponent, mantissa in [0.5, 1)
    shift = min(31 - int(exponent), 62)
    multiplier = int(np.floor(np.ldexp(real, shift) + 0.5))
    if multiplier == 1 << 31:
        multiplier, shift = 1 << 30, shift - 1
    return multiplier, shift


def lookup(table: NDArray[np.integer], position: ArrayLike, frac_bits: int) -> Int:
    """Interpolate linearly in `table` and round once.

    Parameters
    ----------
    table : ndarray of int
        ``[K]`` entries spaced ``2^frac_bits`` position units apart.
    position : array_like of int
        0 … (K-1)·2^frac_bits; the caller clamps.
    frac_bits : int
        Position bits below the entry index.
    """
    pos = np.asarray(position, np.int64)
    t = table.astype(np.int64)
    index = np.minimum(pos >> frac_bits, len(t) - 2)
    fraction = pos - (index << frac_bits)
    return rshift_round((t[index] << frac_bits) + (t[index + 1] - t[index]) * fraction, frac_bits)


def softmax_q15(logits_q11: ArrayLike, exp_table: NDArray[np.integer]) -> NDArray[np.int16]:
    """Softmax over the last axis of Q11 logits, as Q15.

    ``e_i = exp_table`` at ``max - l_i`` (0 beyond the table), ``g_i = min(32767, (e_i·2^15 + Σe/2) // Σe)``.
    """
    logits = np.asarray(logits_q11, np.int64)
    z = logits.max(axis=-1, keepdims=True) - logits
    limit = (len(exp_table) - 1) << 7
    e = np.where(z < limit, lookup(exp_table, np.minimum(z, limit), 7), 0)
    total = e.sum(axis=-1, keepdims=True)
    return np.minimum(((e << 15) + (total >> 1)) // total, I16_MAX).astype(np.int16)


def sigmoid_q15(logits_q11: ArrayLike, sigmoid_table: NDArray[np.integer]) -> NDArray[np.int16]:
    """Sigmoid of Q11 logits from its table, as Q15."""
    return lookup(sigmoid_table, np.asarray(logits_q11, np.int64) + (16 << 11), 7).astype(np.int16)
