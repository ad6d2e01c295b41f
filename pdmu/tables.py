"""Tables made once, in float64, rounded once, and shipped as data: the same numbers for torch, numpy, TFLite and C."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdmu.config import FrontendConfig, ModelConfig, to_dict
from pdmu.errors import UserError

CONTRACT = "pdmu.contract/1"  # changes whenever any integer of the law in MODEL.md section 2 changes
F64 = NDArray[np.float64]

PCEN_G_MIN, PCEN_G_MAX, PCEN_STEPS = -8, 16, 16  # log2 range of the PCEN table and its entries per octave
FEATURE_FRAC_BITS = 9
LOGIT_FRAC_BITS = 11


def round_half_up(v: F64) -> NDArray[np.int64]:
    """Round to nearest, halves upwards, as the integer law does."""
    return np.floor(v + 0.5).astype(np.int64)


def hann_window(n: int) -> F64:
    """Periodic Hann window, ``[n]``."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


def mel_bank(cfg: FrontendConfig) -> F64:
    """Triangular filters of peak 1, evenly spaced on the HTK mel scale.

    Returns
    -------
    ndarray
        ``[n_mels, window_samples / 2]``; the Nyquist bin is not used. Equal to ``librosa.filters.mel(htk=True, norm=None)``
        without its last column.

    Raises
    ------
    UserError
        If a filter is too narrow to touch any FFT bin.
    """

    def to_mel(f: float) -> float:
        return 2595.0 * float(np.log10(1 + f / 700.0))

    edges_mel = np.linspace(to_mel(cfg.f_min_hz), to_mel(cfg.f_max_hz), cfg.n_mels + 2)
    edges = 700.0 * (10 ** (edges_mel / 2595.0) - 1)
    bins = np.arange(cfg.window_samples // 2) * cfg.sample_rate_hz / cfg.window_samples
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rise, fall))
    empty = np.flatnonzero(round_half_up(bank * 32768).max(axis=1) == 0)
    if len(empty):
        raise UserError(
            f"front end: mel band {empty[0]} is narrower than an FFT bin; use fewer bands than {cfg.n_mels}, a higher f_min_hz or a "
            "longer window"
        )
    return bank


def lmu_matrices(order: int, theta: float) -> tuple[F64, F64]:
    """Discrete Legendre memory by zero-order hold with step 1 (Voelker 2019).

    Returns
    -------
    a_bar : ndarray
        ``[order, order]`` float64.
    b_bar : ndarray
        ``[order]`` float64.

    Notes
    -----
    ``exp([[A, B], [0, 0]])`` holds both; the exponential is taken by scaling and squaring of its Taylor series, so the device tier
    needs no SciPy.
    """
    i = np.arange(order)
    sign = np.where(i[:, None] < i[None, :], -1.0, (-1.0) ** (i[:, None] - i[None, :] + 1))
    m = np.zeros((order + 1, order + 1))
    m[:order, :order] = (2 * i[:, None] + 1) / theta * sign
    m[:order, order] = (2 * i + 1) / theta * (-1.0) ** i
    squarings = max(0, int(np.ceil(np.log2(max(np.abs(m).sum(axis=1).max(), 1e-30)))) + 4)
    scaled = m / 2.0**squarings
    result, term = np.eye(order + 1), np.eye(order + 1)
    for k in range(1, 20):
        term = term @ scaled / k
        result = result + term
    for _ in range(squarings):
        result = result @ result
    return result[:order, :order], result[:order, order]


@dataclass(frozen=True)
class FrontendTables:
    """Every constant of the integer front end; names carry the fixed-point format."""

    window_q15: NDArray[np.int16]  # [N]
    bit_reverse: NDArray[np.int16]  # [N/2]
    twiddle_re_q31: NDArray[np.int32]  # [N/4], e^(-2 pi i t / (N/2))
    twiddle_im_q31: NDArray[np.int32]
    split_re_q31: NDArray[np.int32]  # [N/2], e^(-2 pi i k / N)
    split_im_q31: NDArray[np.int32]
    mel_first: NDArray[np.int16]  # [n_mels] first bin of each filter
    mel_count: NDArray[np.int16]  # [n_mels]
    mel_q15: NDArray[np.uint16]  # [sum(mel_count)], up to 32768
    log2_q16: NDArray[np.int32]  # [257], log2(1 + i/256)
    pcen_q9: NDArray[np.int16]  # [385]
    alpha_q15: int
    floor: int


def _q31(v: F64) -> NDArray[np.int32]:
    return np.clip(round_half_up(v * 2.0**31), -(2**31 - 1), 2**31 - 1).astype(np.int32)


def log2_table() -> NDArray[np.int32]:
    """``log2(1 + i/256)`` in Q16, ``[257]``."""
    return round_half_up(np.log2(1 + np.arange(257) / 256) * 65536).astype(np.int32)


def exp_table() -> NDArray[np.int16]:
    """``e^-z`` in Q15 for z = 0, 1/16 … 12, ``[193]``; the first entry is 32767."""
    return np.minimum(round_half_up(np.exp(-np.arange(12 * 16 + 1) / 16) * 32768), 32767).astype(np.int16)


def sigmoid_table() -> NDArray[np.int16]:
    """Logistic function in Q15 for -16, -16 + 1/16 … 16, ``[513]``."""
    return np.minimum(round_half_up(32768 / (1 + np.exp(-np.arange(-256, 257) / 16))), 32767).astype(np.int16)


@functools.lru_cache(maxsize=16)
def frontend_tables(cfg: FrontendConfig) -> FrontendTables:
    """Return the front end's tables for a configuration (cached).

    Raises
    ------
    UserError
        If the configuration cannot be tabulated (see `mel_bank`).
    """
    n = cfg.window_samples
    half = n // 2
    bits = half.bit_length() - 1
    reverse = [int(format(i, f"0{bits}b")[::-1], 2) for i in range(half)]
    turn = np.exp(-2j * np.pi * np.arange(half // 2) / half)
    split = np.exp(-2j * np.pi * np.arange(half) / n)
    bank = round_half_up(mel_bank(cfg) * 32768)
    first = [int(np.flatnonzero(row)[0]) for row in bank]
    last = [int(np.flatnonzero(row)[-1]) for row in bank]
    g = PCEN_G_MIN + np.arange((PCEN_G_MAX - PCEN_G_MIN) * PCEN_STEPS + 1) / PCEN_STEPS
    pcen = (2.0**g + cfg.pcen_delta) ** cfg.pcen_r - cfg.pcen_delta**cfg.pcen_r
    return FrontendTables(
        window_q15=np.minimum(round_half_up(hann_window(n) * 32768), 32767).astype(np.int16),
        bit_reverse=np.array(reverse, np.int16),
        twiddle_re_q31=_q31(turn.real),
        twiddle_im_q31=_q31(turn.imag),
        split_re_q31=_q31(split.real),
        split_im_q31=_q31(split.imag),
        mel_first=np.array(first, np.int16),
        mel_count=np.array([b - a + 1 for a, b in zip(first, last, strict=True)], np.int16),
        mel_q15=np.concatenate([row[a : b + 1] for row, a, b in zip(bank, first, last, strict=True)]).astype(np.uint16),
        log2_q16=log2_table(),
        pcen_q9=np.minimum(round_half_up(pcen * 2**FEATURE_FRAC_BITS), 32767).astype(np.int16),
        alpha_q15=int(round_half_up(np.array(cfg.pcen_alpha * 32768))),
        floor=cfg.floor,
    )


def contract_hash(frontend: FrontendConfig, model: ModelConfig) -> str:
    """SHA-256 that binds a bundle to the law, its tables and the configuration it was made under.

    Two programs that disagree on any table entry, or on what a setting means, have different hashes.
    """
    digest = hashlib.sha256(CONTRACT.encode())
    digest.update(json.dumps([to_dict(frontend), model.law()], sort_keys=True).encode())
    tables = frontend_tables(frontend)
    for name in sorted(vars(tables)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(np.asarray(getattr(tables, name)).astype("<i8")).tobytes())
    for table in (exp_table(), sigmoid_table()):
        digest.update(table.astype("<i8").tobytes())
    return digest.hexdigest()
