"""A bundle's network as .tflite graphs: float32 and int16x8, one step an invoke for live audio and a block of steps for files.

State is explicit: every ``state/<name>`` input has a ``next/<name>`` output of the same shape and type, zero at the start. States have the
same shapes in every graph of one precision, so that a stream may change between them.

The memory is not a loop. With M = [m[0]; u[1]; …; u[K]] the block's memories are one matrix product with a constant: row k·d + i of the
matrix holds (Ā^k)_i for m[0] and (Ā^(k-j) B̄)_i for u[j]. The memories are kept order-major (``[d, q]``, the transpose of MODEL.md's), which
spares every transpose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.tflite_ops import Q15, Graph, Precision, Value, Weights
from pdmu.bundle import Bundle
from pdmu.config import ConvConfig, PDMUConfig, to_dict
from pdmu.errors import UserError
from pdmu.files import write_bytes
from pdmu.fixedpoint import I16_MAX
from pdmu.tables import LOGIT_FRAC_BITS

MARKER = "pdmu-bundle-sha256:"  # followed by the 64 hex digits; readers without a flatbuffer parser look for it in the file's bytes
LOGIT_SCALE = 2.0**-LOGIT_FRAC_BITS
BLOCK_STEPS = 16
# The delayed sum is held at this many times the range of p. Gates of different steps add up in it, each at most 1, so that only n is a
# bound no network can pass; on held-out recordings trained networks reached 3 in the gates' sum and 1.04 in the delayed sum. Against n
# the finer scale takes about a fifth off the mean error of the scores.
ECHO_REACH = 4.0
GATES = ("softmax", "uniform", "off")


@dataclass(frozen=True)
class GraphFile:
    """One of the files a bundle is exported to."""

    precision: Precision
    steps: int  # model steps an invoke computes

    def name(self, stem: str) -> str:
        """File name beside ``<stem>.pdmu``."""
        return f"{stem}.{self.precision}{'' if self.steps == 1 else '.block'}.tflite"


GRAPHS = tuple(GraphFile(precision, steps) for precision in ("int16x8", "float32") for steps in (1, BLOCK_STEPS))


def export_tflite(bundle: Bundle, out_dir: Path, stem: str) -> list[Path]:
    """Write the four graphs of a bundle and return their paths.

    Parameters
    ----------
    bundle : Bundle
        As read from or written to a file, so that it has its SHA-256.
    out_dir : Path
        Made when missing.
    stem : str
        The bundle's file name without its suffix; the agent finds the graphs by it.

    Raises
    ------
    UserError
        If the network cannot be expressed, or a file cannot be written.
    """
    images = {out_dir / g.name(stem): build_graph(bundle, g.precision, g.steps) for g in GRAPHS}
    return [write_bytes(path, image) for path, image in images.items()]


def build_graph(bundle: Bundle, precision: Precision, steps: int) -> bytes:
    """Return one graph as a .tflite file image.

    Parameters
    ----------
    bundle : Bundle
    precision : {"float32", "int16x8"}
    steps : int
        Model steps an invoke computes, at least 1.

    Raises
    ------
    UserError
        If the network has a part these graphs do not express, or the bundle was never written.
    """
    if not bundle.sha256:
        raise UserError("the bundle has no SHA-256 yet: write it to a file before exporting graphs of it")
    for i, layer in enumerate(bundle.model.layers):
        if layer.gate not in GATES:
            raise UserError(f"PDMU layer {i} has the gate '{layer.gate}', TFLite graphs know {', '.join(GATES)}; export with --target c")
    config, tensors = bundle.model, bundle.tensors
    g = Graph(precision)
    x = g.input("features", (steps * config.frames_per_step, bundle.frontend.n_mels), _scale(bundle, "in.scale"))
    if config.conv:
        x = g.reshape("features/image", x, (1, *x.shape, 1))
        for i, conv in enumerate(config.conv):
            x = _conv(g, bundle, f"conv{i}", conv, x)
        x = g.reshape("conv/flat", x, (steps, x.shape[2] * x.shape[3]))
    for i, layer in enumerate(config.layers):
        x = _pdmu(g, bundle, f"pdmu{i}", layer, x)
    head = Weights(tensors["head.weight"], tensors["head.wscale"], tensors["head.bias"])
    g.output(g.squash("scores", g.affine("logits", x, head, LOGIT_SCALE), config.head))
    return g.to_bytes({"pdmu": _metadata(bundle, precision, steps)}, f"PDMU network, {precision}, {steps} steps an invoke")


def _metadata(bundle: Bundle, precision: str, steps: int) -> bytes:
    parts = {"frontend": to_dict(bundle.frontend), "model": bundle.model.law(), "detector": to_dict(bundle.detector)}
    document = {"bundle": MARKER + bundle.sha256, "contract": bundle.contract, "precision": precision, "steps": steps, "info": bundle.info}
    return json.dumps(document | parts, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()


def _scale(bundle: Bundle, name: str) -> float:
    return float(bundle.tensors[name][0])


def _conv(g: Graph, bundle: Bundle, name: str, conv: ConvConfig, x: Value) -> Value:
    """One causal convolution over ``[1, frames, mel, C]``: the kept frames are joined in front, the mel edges padded with zeros."""
    t = bundle.tensors
    kept = conv.kernel_time - conv.stride_time
    if kept:
        _, _, bins, channels = x.shape
        x = g.concat(f"{name}/joined", [g.input(f"state/{name}", (1, kept, bins, channels), x.scale), x], axis=1)
        g.output(g.last(f"next/{name}", x, kept, axis=1))
    bins_out = -(-x.shape[2] // conv.stride_mel)
    before = (conv.kernel_mel - 1) // 2
    after = max(0, (bins_out - 1) * conv.stride_mel + conv.kernel_mel - before - x.shape[2])
    values = t[f"{name}.weight"]
    axis = 0
    if conv.depthwise:
        values, axis = values.transpose(3, 1, 2, 0), 3  # [C, K_t, K_f, 1] -> [1, K_t, K_f, C]
    weights = Weights(values, t[f"{name}.wscale"], t[f"{name}.bias"], axis)
    return g.conv(name, g.pad_mel(f"{name}/padded", x, before, after), weights, conv, _scale(bundle, f"{name}.scale"))


def _pdmu(g: Graph, bundle: Bundle, name: str, layer: PDMUConfig, x: Value) -> Value:
    """One PDMU layer over ``[K, N_x]``.

    The sums get scales at which nothing is lost: a term that would be clipped at ``reach`` could not, whatever the terms still to be added
    within their own ranges, have given anything but the output's own limit or zero.
    """
    t = bundle.tensors
    memories = _memory(g, bundle, name, layer, x)
    projection = Weights(_order_major(t[f"{name}.wm"], layer), t[f"{name}.wm_scale"], np.zeros(layer.hidden, np.int32))
    p = g.affine(f"{name}/p", memories, projection, _scale(bundle, f"{name}.p_scale"))
    echo = _delayed(g, bundle, name, layer, x, p) if layer.gate != "off" else None
    scale = _scale(bundle, f"{name}.scale")
    direct = Weights(t[f"{name}.wx"], t[f"{name}.wx_scale"], t[f"{name}.bx"])
    terms = [p, *([echo] if echo else []), *([x] if layer.residual else [])]
    reach = scale * (I16_MAX + 1) + sum(term.reach for term in terms)
    largest = float((direct.largest() * direct.scale.astype(np.float64)).max()) * x.scale
    total = g.affine(f"{name}/wx", x, direct, min(reach, largest) / I16_MAX, saturate=False)
    for i, term in enumerate(terms):
        final = i == len(terms) - 1
        reach -= term.reach
        total = g.add(name if final else f"{name}/sum{i}", total, term, scale if final else reach / I16_MAX, final)
    return total


def _order_major(wm: NDArray[np.generic], layer: PDMUConfig) -> NDArray[np.generic]:
    """Reorder the columns of W_m from channel-major c·d + j to order-major j·q + c."""
    return np.ascontiguousarray(wm.reshape(-1, layer.channels, layer.order).swapaxes(1, 2).reshape(len(wm), -1))


def _memory(g: Graph, bundle: Bundle, name: str, layer: PDMUConfig, x: Value) -> Value:
    """The block's memories, ``[K, d·q]`` order-major."""
    t, steps, d, q = bundle.tensors, x.shape[0], layer.order, layer.channels
    scale = _scale(bundle, f"{name}.m_scale")
    u = g.affine(f"{name}/u", x, Weights(t[f"{name}.wu"], t[f"{name}.wu_scale"], t[f"{name}.bu"]), scale)
    unit = 2.0 ** -int(t[f"{name}.ka"][0])
    matrix = block_matrix(t[f"{name}.aq"].astype(np.float64) * unit, t[f"{name}.bq"].astype(np.float64) * unit, steps)
    # One step: the very integers of the law. A block: its own finest scale, for the powers of Ā are not multiples of the law's unit.
    count = unit if steps == 1 else float(np.abs(matrix).max()) / I16_MAX
    before = g.input(f"state/{name}.memory", (d, q), scale)
    m = g.matmul(f"{name}/m", g.matrix(f"{name}/legendre", matrix, count), g.concat(f"{name}/m0u", [before, u]), scale)
    g.output(g.last(f"next/{name}.memory", m, d))
    return g.reshape(f"{name}/m/flat", m, (steps, d * q))


def block_matrix(a: NDArray[np.float64], b: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Return the matrix that takes ``[m[0]; u[1] … u[K]]`` to ``[m[1]; …; m[K]]``.

    Parameters
    ----------
    a, b : ndarray of float64
        ``[d, d]`` and ``[d]``: m[k] = a m[k-1] + b u[k].
    steps : int
        K.

    Returns
    -------
    ndarray of float64
        ``[K·d, d + K]``.
    """
    d = len(a)
    rows = np.zeros((steps, d, d + steps))
    row = np.concatenate([np.eye(d), np.zeros((d, steps))], axis=1)
    for k in range(steps):
        row = a @ row
        row[:, d + k] = b
        rows[k] = row
    return rows.reshape(steps * d, d + steps)


def _delayed(g: Graph, bundle: Bundle, name: str, layer: PDMUConfig, x: Value, p: Value) -> Value:
    """``Σ_i g_i[k-iτ] p[k-iτ]`` for the block, ``[K, H]``: delayed rows gathered, then one small product a step."""
    t, steps, taps, length = bundle.tensors, x.shape[0], layer.taps, layer.delay_steps
    line = g.concat(f"{name}/line", [g.input(f"state/{name}.delayed", (length, layer.hidden), p.scale), p])
    g.output(g.last(f"next/{name}.delayed", line, length))
    tap = np.arange(taps)
    rows = length - (tap + 1) * layer.dilation + np.arange(steps)[:, None]  # [K, n]: row of k - iτ, i = tap + 1
    if layer.gate == "uniform":
        gates = g.matrix(f"{name}/gates", np.full((steps, 1, taps), 1.0 / taps), Q15)
        weight = 1.0
    else:
        logits = g.affine(f"{name}/logits", x, Weights(t[f"{name}.wg"], t[f"{name}.wg_scale"], t[f"{name}.bg"]), LOGIT_SCALE)
        fresh = g.squash(f"{name}/g", logits, "softmax")
        history = g.concat(f"{name}/gateline", [g.input(f"state/{name}.gates", (length, taps), Q15), fresh])
        g.output(g.last(f"next/{name}.gates", history, length))
        flat = g.reshape(f"{name}/gateline/flat", history, ((length + steps) * taps,))
        gates = g.gather(f"{name}/gates", flat, (rows * taps + tap)[:, None, :])
        weight = min(ECHO_REACH, float(taps))
    echo = g.matmul(f"{name}/echo", gates, g.gather(f"{name}/past", line, rows), weight * p.scale, saturate=False)
    return g.reshape(f"{name}/echo/flat", echo, (steps, layer.hidden))
