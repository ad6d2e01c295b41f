"""Streaming mel front end: the integer law (MODEL.md 2.1), and the float form that training uses.

Any chunking of the input gives the same frames. Frame k ends at sample (k+1)·hop: causal, nothing centred.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdmu.config import FrontendConfig
from pdmu.fixedpoint import lookup, rshift_round, saturate16
from pdmu.tables import FEATURE_FRAC_BITS, PCEN_G_MAX, PCEN_G_MIN, FrontendTables, frontend_tables, hann_window, mel_bank

Int = NDArray[np.int64]
BLOCK_FRAMES = 256  # frames transformed at a time: the FFT's working set stays in the processor's cache


class FrontendState(NamedTuple):
    """State between calls: constant size, whatever the chunks."""

    history: NDArray[np.int16]  # samples kept: the last window - hop, then what does not fill a hop
    smoother: NDArray[np.int64]  # [n_mels] PCEN energy, 8 fractional bits


def frontend_init(cfg: FrontendConfig) -> FrontendState:
    """Return the state before the first sample: silence, and a smoother at the floor."""
    return FrontendState(np.zeros(cfg.window_samples - cfg.hop_samples, np.int16), np.full(cfg.n_mels, cfg.floor << 8, np.int64))


def frontend_step(cfg: FrontendConfig, state: FrontendState, pcm: NDArray[np.int16]) -> tuple[FrontendState, NDArray[np.int16]]:
    """Turn any number of samples into the frames they complete, by the integer law.

    Parameters
    ----------
    cfg : FrontendConfig
    state : FrontendState
        From `frontend_init` or the previous call.
    pcm : ndarray of int16
        ``[n]`` mono samples at ``cfg.sample_rate_hz``; n may be 0.

    Returns
    -------
    state : FrontendState
    features : ndarray of int16
        ``[frames, n_mels]``, Q9.

    Raises
    ------
    TypeError
        If `pcm` is not a one-dimensional int16 array.
    """
    if pcm.dtype != np.int16 or pcm.ndim != 1:
        raise TypeError(f"PCM must be one-dimensional int16, not {pcm.dtype} with {pcm.ndim} dimensions")
    tables = frontend_tables(cfg)
    buffer = np.concatenate([state.history, pcm])
    n, hop = cfg.window_samples, cfg.hop_samples
    count = (len(buffer) - (n - hop)) // hop
    if count <= 0:
        return FrontendState(buffer, state.smoother), np.zeros((0, cfg.n_mels), np.int16)
    frames = np.lib.stride_tricks.sliding_window_view(buffer, n)[: (count - 1) * hop + 1 : hop]
    energies = np.concatenate([_mel_energies_int(tables, frames[i : i + BLOCK_FRAMES]) for i in range(0, count, BLOCK_FRAMES)])
    smoother, features = compress_int(cfg, state.smoother, energies)
    return FrontendState(buffer[count * hop :].copy(), smoother), features


def _mel_energies_int(tables: FrontendTables, frames: NDArray[np.int16]) -> Int:
    """Integer mel energies ``[frames, n_mels]`` of windows ``[frames, N]``: steps 1 to 5 of the law."""
    re, im = spectrum_int(tables, frames)
    power = re * re + im * im
    starts = np.concatenate([[0], np.cumsum(tables.mel_count)[:-1]]).astype(np.int64)
    columns = np.concatenate([np.arange(f, f + c) for f, c in zip(tables.mel_first, tables.mel_count, strict=True)])
    weighted = power[columns] * tables.mel_q15.astype(np.int64)[:, None]
    return rshift_round(np.add.reduceat(weighted, starts, axis=0), 15).T


def spectrum_int(tables: FrontendTables, frames: NDArray[np.int16]) -> tuple[Int, Int]:
    """Integer real FFT, bins 0 … N/2-1, of ``[frames, N]``.

    Returns
    -------
    re, im : ndarray of int64
        ``[N/2, frames]`` without fractional bits; time runs along the last axis so that butterflies are contiguous.
    """
    a = rshift_round(frames.T.astype(np.int64) * tables.window_q15.astype(np.int64)[:, None], 8)
    zr, zi = a[0::2][tables.bit_reverse], a[1::2][tables.bit_reverse]
    m, n_frames = zr.shape
    w_re, w_im = tables.twiddle_re_q31.astype(np.int64), tables.twiddle_im_q31.astype(np.int64)
    half = 1
    while half < m:
        shape = (m // (2 * half), 2, half, n_frames)
        vr, vi = zr.reshape(shape), zi.reshape(shape)
        br, bi = vr[:, 1], vi[:, 1]
        wr, wi = w_re[:: m // (2 * half)][:half, None], w_im[:: m // (2 * half)][:half, None]
        tr, ti = np.empty_like(br), np.empty_like(bi)
        tr[:, 0], ti[:, 0] = br[:, 0], bi[:, 0]  # twiddle 1
        if half > 1:
            quarter = half // 2
            for part in (slice(1, quarter), slice(quarter + 1, half)):
                tr[:, part] = 2 * rshift_round(wr[part] * br[:, part] - wi[part] * bi[:, part], 32)
                ti[:, part] = 2 * rshift_round(wr[part] * bi[:, part] + wi[part] * br[:, part], 32)
            tr[:, quarter], ti[:, quarter] = bi[:, quarter], -br[:, quarter]  # twiddle -j
        top_r, top_i = vr[:, 0], vi[:, 0]
        zr = np.stack([top_r + tr, top_r - tr], axis=1).reshape(m, n_frames)
        zi = np.stack([top_i + ti, top_i - ti], axis=1).reshape(m, n_frames)
        half *= 2
    return _split_real(tables, zr, zi)


def _split_real(tables: FrontendTables, zr: Int, zi: Int) -> tuple[Int, Int]:
    """Separate the packed transform into the real signal's bins: step 3 of the law."""
    mirror_r, mirror_i = zr[:0:-1], zi[:0:-1]
    even_r, even_i = zr[1:] + mirror_r, zi[1:] - mirror_i
    odd_r, odd_i = zi[1:] + mirror_i, mirror_r - zr[1:]  # -j · (Z[k] - conj Z[M-k])
    cr, ci = tables.split_re_q31.astype(np.int64)[1:, None], tables.split_im_q31.astype(np.int64)[1:, None]
    tr = 2 * rshift_round(cr * odd_r - ci * odd_i, 32)
    ti = 2 * rshift_round(cr * odd_i + ci * odd_r, 32)
    re = np.concatenate([rshift_round(zr[:1] + zi[:1], 7), rshift_round(even_r + tr, 8)])
    im = np.concatenate([np.zeros_like(zi[:1]), rshift_round(even_i + ti, 8)])
    return re, im


def log2_q12(tables: FrontendTables, v: ArrayLike) -> Int:
    """Base-2 logarithm in Q12 of integers 1 … 2^55, by table and interpolation."""
    v64 = np.asarray(v, np.int64)
    # frexp of the top bits is exact below 2^53; larger values are shifted down first so that rounding cannot carry into the exponent
    high = v64 >> 10
    big = high >= 1 << 40
    exponent = np.where(big, np.frexp(high.astype(np.float64))[1] + 9, np.frexp(v64.astype(np.float64))[1] - 1).astype(np.int64)
    up, down = np.maximum(24 - exponent, 0), np.maximum(exponent - 24, 0)
    mantissa = ((v64 >> down) << up) - (1 << 24)
    index, fraction = mantissa >> 16, mantissa & 0xFFFF
    t = tables.log2_q16.astype(np.int64)
    return (exponent << 12) + rshift_round((t[index] << 16) + (t[index + 1] - t[index]) * fraction, 20)


def compress_int(cfg: FrontendConfig, smoother: Int, energies: Int) -> tuple[Int, NDArray[np.int16]]:
    """Compress integer mel energies ``[frames, n_mels]``: step 6 of the law.

    Returns
    -------
    smoother : ndarray of int64
        ``[n_mels]``, carried to the next call.
    features : ndarray of int16
        ``[frames, n_mels]``, Q9.
    """
    tables = frontend_tables(cfg)
    if cfg.compression == "log":
        level = log2_q12(tables, energies + tables.floor) - log2_q12(tables, tables.floor)
        return smoother, saturate16(rshift_round(level, 12 - FEATURE_FRAC_BITS))
    smoothed = np.empty_like(energies)
    m, half, s = smoother.copy(), 1 << (cfg.pcen_smooth_shift - 1), cfg.pcen_smooth_shift
    for k, target in enumerate(energies << 8):
        m += (target - m + half) >> s
        smoothed[k] = m
    reference = log2_q12(tables, rshift_round(smoothed, 8) + tables.floor)
    g = rshift_round((log2_q12(tables, energies + 1) << 15) - tables.alpha_q15 * reference, 15)
    position = np.clip(g - (PCEN_G_MIN << 12), 0, (PCEN_G_MAX - PCEN_G_MIN) << 12)
    return m, lookup(tables.pcen_q9, position, 8).astype(np.int16)


def mel_energies(cfg: FrontendConfig, pcm: ArrayLike) -> NDArray[np.float64]:
    """Mel energies in float64, the same frames as the integer law.

    Parameters
    ----------
    cfg : FrontendConfig
    pcm : array_like
        ``[n]`` samples in int16 units (full scale 32768), any numeric type.

    Returns
    -------
    ndarray
        ``[n // hop, n_mels]`` in PCM units squared.
    """
    n, hop = cfg.window_samples, cfg.hop_samples
    x = np.concatenate([np.zeros(n - hop), np.asarray(pcm, np.float64)])
    count = (len(x) - (n - hop)) // hop
    if count <= 0:
        return np.zeros((0, cfg.n_mels))
    frames = np.lib.stride_tricks.sliding_window_view(x, n)[: (count - 1) * hop + 1 : hop]
    bank, window = mel_bank(cfg).T, hann_window(n)
    blocks = [np.abs(np.fft.rfft(frames[i : i + BLOCK_FRAMES] * window)[:, : n // 2]) ** 2 @ bank for i in range(0, count, BLOCK_FRAMES)]
    return np.concatenate(blocks)


def compress(cfg: FrontendConfig, energies: ArrayLike) -> NDArray[np.float64]:
    """Compress float mel energies ``[frames, n_mels]`` from a fresh state; in units of one, where the law has Q9."""
    e = np.asarray(energies, np.float64)
    if cfg.compression == "log":
        return np.log2(e + cfg.floor) - np.log2(cfg.floor)
    smoothed, m = np.empty_like(e), np.full(e.shape[-1], float(cfg.floor))
    for k, target in enumerate(e):
        m = m + (target - m) * 2.0**-cfg.pcen_smooth_shift
        smoothed[k] = m
    return pcen_gain(cfg, e, smoothed)


def pcen_gain(cfg: FrontendConfig, energies: NDArray[np.float64], smoothed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``((E+1) / (M+floor)^alpha + delta)^r - delta^r``, clamped as the table is (Wang et al. 2017, eq. 1)."""
    g = np.clip(np.log2(energies + 1) - cfg.pcen_alpha * np.log2(smoothed + cfg.floor), PCEN_G_MIN, PCEN_G_MAX)
    return np.minimum((2.0**g + cfg.pcen_delta) ** cfg.pcen_r - cfg.pcen_delta**cfg.pcen_r, 32767 / 2**FEATURE_FRAC_BITS)
