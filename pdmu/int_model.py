"""The integer model: the law every runtime conforms to (MODEL.md 2.2 and 2.3).

State is an explicit NamedTuple of constant size. `model_step` takes any number of frames; its result does not depend on how they are cut.
Products are taken in float64 by BLAS where every partial sum is below 2^53 and so exact, and in int64 elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdmu.config import ConvConfig, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.fixedpoint import I16_MAX, I16_MIN, requant, rshift_round, saturate16, sigmoid_q15, softmax_q15
from pdmu.ranges import check_ranges
from pdmu.tables import exp_table, sigmoid_table

I16 = NDArray[np.int16]
Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class IntModel:
    """A quantised network: its configuration and its tensors (names and layouts in ``pdmu/bundle.py``)."""

    config: ModelConfig
    n_mels: int
    tensors: Tensors

    def __getitem__(self, name: str) -> NDArray[np.int64]:
        return np.asarray(self.tensors[name]).astype(np.int64)


class PDMUState(NamedTuple):
    """State of one PDMU layer, newest last."""

    memory: I16  # [q, d]
    delayed: I16  # [n*tau, H] projected memories
    gates: I16  # [n*tau, n] Q15


class ModelState(NamedTuple):
    """State of the whole network between calls."""

    pending: I16  # [< S, n_mels] frames that do not yet fill a model step
    conv: tuple[I16, ...]  # per convolution [K_t - s_t, bins, C_in]
    layers: tuple[PDMUState, ...]


def tensor_shapes(config: ModelConfig, n_mels: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name → (dtype, shape) of every tensor a network of this configuration has.

    Raises
    ------
    UserError
        If the configuration contradicts itself.
    """
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {"in.scale": ("float32", (1,))}
    for i, (conv, (_, c_in)) in enumerate(zip(config.conv, config.conv_shapes(n_mels), strict=False)):
        kernel = (conv.channels, conv.kernel_time, conv.kernel_mel, 1 if conv.depthwise else c_in)
        shapes |= _affine(f"conv{i}.", kernel) | {f"conv{i}.scale": ("float32", (1,))}
    widths = config.layer_inputs(n_mels)
    for i, layer in enumerate(config.layers):
        n_x, h, qd = widths[i], layer.hidden, layer.channels * layer.order
        matrices = {"u": (layer.channels, n_x), "m": (h, qd), "x": (h, n_x)} | ({"g": (layer.taps, n_x)} if layer.gate == "softmax" else {})
        for k, (rows, columns) in matrices.items():
            shapes[f"pdmu{i}.w{k}"] = ("int8", (rows, columns))
            shapes[f"pdmu{i}.w{k}_scale"] = ("float32", (rows,))
            shapes[f"pdmu{i}.m{k}"] = ("int32", (rows,))
            if k != "x":
                shapes[f"pdmu{i}.s{k}"] = ("int8", (rows,))
            if k != "m":
                shapes[f"pdmu{i}.b{k}"] = ("int32", (rows,))
        shapes[f"pdmu{i}.mp"], shapes[f"pdmu{i}.sp"] = shapes.pop(f"pdmu{i}.mm"), shapes.pop(f"pdmu{i}.sm")
        for name in ("mt", "mr"):
            shapes[f"pdmu{i}.{name}"] = ("int32", (h,))
        shapes[f"pdmu{i}.sh"] = ("int8", (h,))
        d = layer.order
        shapes |= {f"pdmu{i}.aq": ("int16", (d, d)), f"pdmu{i}.bq": ("int16", (d,)), f"pdmu{i}.ka": ("int8", (1,))}
        shapes |= {f"pdmu{i}.{s}scale": ("float32", (1,)) for s in ("m_", "p_", "")}
    return shapes | _affine("head.", (len(config.labels), widths[-1]))


def _affine(prefix: str, kernel: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
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
        is_shift = name.split(".")[1] in ("shift", "su", "sp", "sg", "sh", "ka")
        if is_shift and not ((t.astype(np.int64) >= 1) & (t.astype(np.int64) <= 62)).all():
            raise UserError(f"tensor '{name}' holds a shift outside 1 … 62")
        if dtype == "float32" and not (np.isfinite(t.astype(np.float64)) & (t.astype(np.float64) > 0)).all():
            raise UserError(f"tensor '{name}' holds a scale that is not a positive number")
    check_ranges(config, tensors)


def model_init(model: IntModel) -> ModelState:
    """Return the state before the first frame: all zero."""
    c, shapes = model.config, model.config.conv_shapes(model.n_mels)
    conv = tuple(np.zeros((k.kernel_time - k.stride_time, *shapes[i]), np.int16) for i, k in enumerate(c.conv))
    return ModelState(np.zeros((0, model.n_mels), np.int16), conv, tuple(_layer_init(layer) for layer in c.layers))


def _layer_init(p: PDMUConfig) -> PDMUState:
    steps = p.delay_steps
    return PDMUState(np.zeros((p.channels, p.order), np.int16), np.zeros((steps, p.hidden), np.int16), np.zeros((steps, p.taps), np.int16))


def model_step(model: IntModel, state: ModelState, features: I16) -> tuple[ModelState, I16]:
    """Run the network over any number of frames.

    Parameters
    ----------
    model : IntModel
    state : ModelState
    features : ndarray of int16
        ``[frames, n_mels]`` Q9; frames may be 0.

    Returns
    -------
    state : ModelState
    scores : ndarray of int16
        ``[steps, n_labels]`` Q15.
    """
    state, scores, _ = model_trace(model, state, features)
    return state, scores


def model_trace(model: IntModel, state: ModelState, features: I16) -> tuple[ModelState, I16, dict[str, I16]]:
    """Do what `model_step` does and return every stage's output too, by name, for conformance tests."""
    c = model.config
    frames = np.concatenate([state.pending, features])
    steps = len(frames) // c.frames_per_step
    used, pending = frames[: steps * c.frames_per_step], frames[steps * c.frames_per_step :]
    if steps == 0:
        return state._replace(pending=pending.copy()), np.zeros((0, len(c.labels)), np.int16), {}
    trace: dict[str, I16] = {}
    x, conv_state, layer_state = used[:, :, None], [], []
    for i, conv in enumerate(c.conv):
        kept, x = conv_step(model, i, conv, state.conv[i], x)
        conv_state.append(kept)
        trace[f"conv{i}"] = x
    y = x.reshape(steps, -1)
    for i, layer in enumerate(c.layers):
        after, y, inner = pdmu_step(model, i, layer, state.layers[i], y)
        layer_state.append(after)
        trace |= {f"pdmu{i}.{k}": v for k, v in inner.items()} | {f"pdmu{i}": y}
    acc = _exact_matmul(y, model["head.weight"]) + model["head.bias"]
    logits = requant(acc, model["head.mult"], model["head.shift"])
    scores = softmax_q15(logits, exp_table()) if c.head == "softmax" else sigmoid_q15(logits, sigmoid_table())
    trace |= {"logits": logits, "scores": scores}
    return ModelState(pending.copy(), tuple(conv_state), tuple(layer_state)), scores, trace


def _exact_matmul(x: NDArray[np.int16], weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """``x @ weight.T`` of int16 and int8 values: exact in float64, whose sums stay far below 2^53."""
    return np.asarray(x.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.int64)


def conv_step(model: IntModel, index: int, conv: ConvConfig, kept: I16, x: I16) -> tuple[I16, I16]:
    """One causal convolution over a block.

    Parameters
    ----------
    kept : ndarray of int16
        ``[K_t - s_t, bins, C_in]`` frames before the block.
    x : ndarray of int16
        ``[frames, bins, C_in]``, frames a multiple of the time stride.

    Returns
    -------
    kept, y : ndarray of int16
        The frames the next block needs, and ``[frames / s_t, bins_out, C_out]``.
    """
    name = f"conv{index}."
    full = np.concatenate([kept, x])
    bins_out = -(-x.shape[1] // conv.stride_mel)
    before = (conv.kernel_mel - 1) // 2
    after = (bins_out - 1) * conv.stride_mel + conv.kernel_mel - before - x.shape[1]
    padded = np.pad(full, ((0, 0), (before, max(0, after)), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (conv.kernel_time, conv.kernel_mel), axis=(0, 1))
    windows = windows[:: conv.stride_time, :: conv.stride_mel][:, :bins_out]  # [T', bins', C_in, K_t, K_f]
    weight = model[name + "weight"]
    if conv.depthwise:
        acc = np.einsum("tbcij,cij->tbc", windows.astype(np.float64), weight[..., 0].astype(np.float64)).astype(np.int64)
    else:
        flat = windows.transpose(0, 1, 3, 4, 2).reshape(*windows.shape[:2], -1)
        acc = _exact_matmul(flat, weight.reshape(len(weight), -1))
    y = requant(acc + model[name + "bias"], model[name + "mult"], model[name + "shift"], low=0)
    return full[len(full) - (conv.kernel_time - conv.stride_time) :].copy(), y


def pdmu_step(model: IntModel, index: int, layer: PDMUConfig, state: PDMUState, x: I16) -> tuple[PDMUState, I16, dict[str, I16]]:
    """One PDMU layer over a block: steps 1 to 6 of MODEL.md 2.3.

    Parameters
    ----------
    x : ndarray of int16
        ``[T, N_x]``.

    Returns
    -------
    state : PDMUState
    h : ndarray of int16
        ``[T, H]``.
    inner : dict
        ``u`` ``[T, q]``, ``m`` ``[T, q, d]``, ``p`` ``[T, H]`` and, with gates, ``g`` ``[T, n]``.
    """

    def t(key: str) -> NDArray[np.int64]:
        return model[f"pdmu{index}.{key}"]

    steps = len(x)
    u = requant(_exact_matmul(x, t("wu")) + t("bu"), t("mu"), t("su"))
    m = _memory(t("aq"), t("bq"), int(t("ka")[0]), state.memory, u)
    p = requant(_exact_matmul(m.reshape(steps, -1), t("wm")), t("mp"), t("sp"))
    inner = {"u": u, "m": m, "p": p}
    total = p.astype(np.int64) << 15
    delayed, gates = state.delayed, state.gates
    if layer.gate != "off":
        if layer.gate == "softmax":
            g = softmax_q15(requant(_exact_matmul(x, t("wg")) + t("bg"), t("mg"), t("sg")), exp_table())
        else:
            g = np.full((steps, layer.taps), min(I16_MAX, ((1 << 15) + layer.taps // 2) // layer.taps), np.int16)
        inner["g"] = g
        delayed, gates = np.concatenate([delayed, p]), np.concatenate([gates, g])
        for i in range(1, layer.taps + 1):
            past = slice(layer.delay_steps - i * layer.dilation, layer.delay_steps - i * layer.dilation + steps)
            total += gates[past, i - 1 : i].astype(np.int64) * delayed[past]
        delayed, gates = delayed[steps:].copy(), gates[steps:].copy()
    mixed = rshift_round(total, 15) * t("mt") + (_exact_matmul(x, t("wx")) + t("bx")) * t("mx")
    if layer.residual:
        mixed = mixed + x.astype(np.int64) * t("mr")
    return PDMUState(m[-1], delayed, gates), saturate16(rshift_round(mixed, t("sh")), 0), inner


def _memory(aq: NDArray[np.int64], bq: NDArray[np.int64], ka: int, memory: I16, u: I16) -> I16:
    """The Legendre recursion ``[T, q, d]``, the only loop over time."""
    drive = u.astype(np.float64)[:, :, None] * bq + (1 << (ka - 1))
    a_t = np.ascontiguousarray(aq.T.astype(np.float64))
    out = np.empty((len(u), *memory.shape), np.int16)
    m, scale = memory.astype(np.float64), 2.0**-ka
    for k in range(len(u)):
        m = np.clip(np.floor((m @ a_t + drive[k]) * scale), I16_MIN, I16_MAX)  # exact: |sum| < 2^15 · 2^15 · (d+1) < 2^53
        out[k] = m
    return out
