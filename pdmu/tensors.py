"""The tensors a quantised network has, by name (MODEL.md section 4), and what is asked of their values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pdmu.config import ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.ranges import check_ranges

Tensors = Mapping[str, NDArray[np.generic]]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
SHIFTS = ("shift", "su", "sp", "sg", "sh", "sz", "ka")
DECAYS = ("beta", "beta_u", "beta_r")
MAX_DECAY_Q15 = 1 << 15


def tensor_shapes(config: ModelConfig, n_mels: int) -> Shapes:
    """Return name → (dtype, shape) of every tensor a network of this configuration has.

    Raises
    ------
    UserError
        If the configuration contradicts itself.
    """
    shapes: Shapes = {"in.scale": ("float32", (1,))}
    for i, (conv, (_, c_in)) in enumerate(zip(config.conv, config.conv_shapes(n_mels), strict=False)):
        kernel = (conv.channels, conv.kernel_time, conv.kernel_mel, 1 if conv.depthwise else c_in)
        shapes |= _affine(f"conv{i}.", kernel) | {f"conv{i}.scale": ("float32", (1,))}
    widths = config.layer_inputs(n_mels)
    for i, layer in enumerate(config.layers):
        shapes |= {f"pdmu{i}.{name}": entry for name, entry in _layer(layer, widths[i]).items()}
    return shapes | _affine("head.", (len(config.labels), widths[-1]))


def _layer(layer: PDMUConfig, n_x: int) -> Shapes:
    q, d, h = layer.channels, layer.order, layer.hidden
    shapes: Shapes = {"aq": ("int16", (d, d)), "bq": ("int16", (d,)), "ka": ("int8", (1,)), "mt": ("int32", (h,))}
    shapes |= {name: ("float32", (1,)) for name in ("m_scale", "scale")}
    shapes |= _matrix("u", q, n_x) | _matrix("x", h, n_x, shift="sh") | _matrix("m", h, q * d, "mp", "sp", bias=False)
    if layer.gate_is_learned:
        shapes |= _matrix("g", layer.taps, n_x)
    if layer.spikes_inside:
        del shapes["mp"], shapes["sp"]
        shapes |= {"us": ("int16", (1,)), "mz": ("int32", (q * d,)), "sz": ("int8", (q * d,))} | _neurons("_u", q) | _neurons("_r", q * d)
    else:
        shapes["p_scale"] = ("float32", (1,))
    return shapes | (_neurons("", h) if layer.spiking else {"mr": ("int32", (h,))})


def _neurons(suffix: str, size: int) -> Shapes:
    return {f"beta{suffix}": ("int32", (size,)), f"v{suffix}_scale": ("float32", (size,))}


def _matrix(key: str, rows: int, columns: int, mult: str = "", shift: str = "", bias: bool = True) -> Shapes:
    per_row = {f"w{key}_scale": "float32", mult or f"m{key}": "int32", shift or f"s{key}": "int8"} | ({f"b{key}": "int32"} if bias else {})
    return {f"w{key}": ("int8", (rows, columns))} | {name: (dtype, (rows,)) for name, dtype in per_row.items()}


def _affine(prefix: str, kernel: tuple[int, ...]) -> Shapes:
    rows = kernel[:1]
    return {
        prefix + "weight": ("int8", kernel),
        prefix + "bias": ("int32", rows),
        prefix + "mult": ("int32", rows),
        prefix + "shift": ("int8", rows),
        prefix + "wscale": ("float32", rows),
    }


def check_tensors(config: ModelConfig, n_mels: int, tensors: Tensors) -> None:
    """Raise `UserError` unless the tensors are exactly those of the configuration, and no sum of the law can overflow with them."""
    expected = tensor_shapes(config, n_mels)
    for name in sorted(set(expected) ^ set(tensors)):
        raise UserError(f"tensor '{name}' is {'missing' if name in expected else 'not part of this network'}")
    for name, (dtype, shape) in expected.items():
        t = np.asarray(tensors[name])
        if t.dtype != dtype or t.shape != shape:
            raise UserError(f"tensor '{name}' is {t.dtype}{list(t.shape)}, the network needs {dtype}{list(shape)}")
        if problem := _bad_values(name.split(".")[1], t):
            raise UserError(f"tensor '{name}' holds {problem}")
    check_ranges(config, tensors)


def _bad_values(key: str, t: NDArray[np.generic]) -> str | None:
    """Return what is wrong with a tensor's values, in words, or None."""
    if t.dtype == np.float32:
        values = t.astype(np.float64)
        return None if (np.isfinite(values) & (values > 0)).all() else "a scale that is not a positive number"
    low, high, what = 0, 0, ""
    if key in SHIFTS:
        low, high, what = 1, 62, "a shift outside 1 … 62"
    elif key in DECAYS:
        low, high, what = 0, MAX_DECAY_Q15, f"a decay outside 0 … {MAX_DECAY_Q15}"
    elif key == "us":
        low, high, what = 1, 32767, "a write that is not positive"
    v = t.astype(np.int64)
    return what if what and not ((v >= low) & (v <= high)).all() else None
