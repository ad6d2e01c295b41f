"""Rounding of quantisation: scales, int8 rows, biases in accumulator counts, multipliers (MODEL.md 2.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdmu.fixedpoint import I16_MAX, quantize_multiplier
from pdmu.tables import round_half_up

F64 = NDArray[np.float64]
Tensors = dict[str, NDArray[np.generic]]
HEADROOM = 1.25  # activations may pass the calibrated range by this factor before they saturate: a third of a bit of sixteen


def affine(tensors: dict[str, NDArray[np.generic]], prefix: str, w: dict[str, F64], in_scale: float, out_scale: float) -> None:
    """Add a requantised linear map ``weight``, ``bias`` to `tensors`."""
    weight, wscale = int8_rows(w["weight"], w["bias"], in_scale)
    tensors |= {
        prefix + "weight": weight,
        prefix + "wscale": wscale.astype(np.float32),
        prefix + "bias": bias_counts(w["bias"], wscale * in_scale),
    }
    tensors[prefix + "mult"], tensors[prefix + "shift"] = multipliers(wscale * in_scale / out_scale)


def int8_rows(weight: F64, bias: F64, in_scale: float) -> tuple[NDArray[np.int8], F64]:
    """Symmetric int8 per output row; a row's scale also keeps its bias below 2^30 accumulator counts."""
    peak = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scale = np.maximum(np.maximum(peak / 127, np.abs(bias) / in_scale / 2**30), 1e-12).astype(np.float32).astype(np.float64)
    rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(round_half_up(weight / rows), -127, 127).astype(np.int8), scale


def bias_counts(bias: F64, scale: F64) -> NDArray[np.int32]:
    """Round a bias to accumulator counts."""
    return round_half_up(bias / scale).astype(np.int32)


def multipliers(factors: F64) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """Return a multiplier and a shift for each real factor."""
    pairs = [quantize_multiplier(float(f)) for f in factors]
    return np.array([m for m, _ in pairs], np.int32), np.array([s for _, s in pairs], np.int8)


def activation_scale(peak: float) -> float:
    """Scale of a symmetric int16 activation whose calibrated peak is `peak`; an activation that never moved gets a scale of its own."""
    return float(np.float32(max(peak, 1e-6) * HEADROOM / I16_MAX))


def scale32(value: float) -> NDArray[np.float32]:
    """Return a scale as the tensor that holds it."""
    return np.array([value], np.float32)
