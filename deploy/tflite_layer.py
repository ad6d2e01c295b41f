"""One recurrent layer as operators of a .tflite graph: PDMU, LMU, EPDMU and the spiking DMU, over a block of K steps.

The memory is not a loop. With M = [m[0]; u[1]; …; u[K]] the block's memories are one matrix product with a constant: row k·d + i of the
matrix holds (Ā^k)_i for m[0] and (Ā^(k-j) B̄)_i for u[j]. The memories are kept order-major (``[d, q]``, the transpose of MODEL.md's), which
spares every transpose; so is what the delay line holds, and the row of reading neurons, where they are spikes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from deploy.tflite_decisions import lif, route
from deploy.tflite_ops import Q15, Graph, Op, Value, Weights
from pdmu.bundle import Bundle
from pdmu.config import PDMUConfig
from pdmu.fixedpoint import I16_MAX
from pdmu.int_layer import THRESHOLD
from pdmu.tables import LOGIT_FRAC_BITS
from pdmu.tensors import MAX_DECAY_Q15

LOGIT_SCALE = 2.0**-LOGIT_FRAC_BITS
# The delayed sum is held at this many times the range of p. Gates of different steps add up in it, each at most 1, so that only n is a
# bound no network can pass; on held-out recordings trained networks reached 3 in the gates' sum and 1.04 in the delayed sum. Against n
# the finer scale takes about a fifth off the mean error of the scores.
ECHO_REACH = 4.0
CURRENT_REACH = 32.0  # thresholds at which int16 currents saturate: a resolution of a thousandth of one
SPIKE_COUNTS = 1 << 14  # of a spike, so that biases keep their resolution where the law's spikes count one


def scale_of(bundle: Bundle, name: str) -> float:
    """Return the real value of one count of an activation."""
    return float(bundle.tensors[name][0])


def recurrent_layer(g: Graph, bundle: Bundle, name: str, layer: PDMUConfig, x: Value) -> Value:
    """Add a layer over ``[K, N_x]`` and return its output ``[K, H]``."""
    memories = _memory(g, bundle, name, layer, x)
    if layer.spikes_inside:
        return _outputs(g, bundle, name, layer, [_read(g, bundle, name, layer, x, memories)], x)
    wm = _order_major(bundle.tensors[f"{name}.wm"], layer)
    projection = Weights(wm, bundle.tensors[f"{name}.wm_scale"], np.zeros(layer.hidden, np.int32))
    p = g.affine(f"{name}/p", memories, projection, scale_of(bundle, f"{name}.p_scale"))
    echo = [_delayed(g, bundle, name, layer, x, p)] if layer.gate != "off" else []
    return _outputs(g, bundle, name, layer, [p, *echo], x) if layer.spiking else _analogue(g, bundle, name, layer, [p, *echo], x)


def _analogue(g: Graph, bundle: Bundle, name: str, layer: PDMUConfig, terms: list[Value], x: Value) -> Value:
    """Outputs of a layer that does not spike, from the terms that are added to ``W_x x``.

    The sums get scales at which nothing is lost: a term that would be clipped at ``reach`` could not, whatever the terms still to be added
    within their own ranges, have given anything but the output's own limit or zero.
    """
    scale, direct = scale_of(bundle, f"{name}.scale"), _weights(bundle, name, "x", x)
    terms = [*terms, *([x] if layer.residual else [])]
    reach = scale * (I16_MAX + 1) + sum(term.reach for term in terms)
    total = g.affine(f"{name}/wx", x, direct, min(reach, _largest(direct, x)) / I16_MAX, saturate=False)
    for i, term in enumerate(terms):
        final = i == len(terms) - 1
        reach -= term.reach
        total = g.add(name if final else f"{name}/sum{i}", total, term, scale if final else reach / I16_MAX, final)
    return total


def _outputs(g: Graph, bundle: Bundle, name: str, layer: PDMUConfig, terms: list[Value], x: Value) -> Value:
    """Spikes of a spiking layer, from the terms that are added to ``W_x x``; the sum is one of real values."""
    threshold = _thresholds(bundle, f"{name}.v_scale")
    current = _current(g, f"{name}/wx", x, _weights(bundle, name, "x", x), threshold)
    for i, term in enumerate(terms):
        current = g.combine(Op.ADD, f"{name}/current{i}", current, term if term.real else g.to_real(f"{name}/term{i}", term))
    return _spikes(g, name, lif(g, f"{name}.v", current, _decays(bundle, f"{name}.beta"), threshold, layer.lif.reset))


def _read(g: Graph, bundle: Bundle, name: str, layer: PDMUConfig, x: Value, m: Value) -> Value:
    """``W_m`` of the spikes of the memory's readers, real ``[K, H]``."""
    t, shape = bundle.tensors, (layer.channels, layer.order)
    current = g.to_real(f"{name}/m/real", m)
    if layer.gate != "off":
        echo = _delayed(g, bundle, name, layer, x, m)
        current = g.combine(Op.ADD, f"{name}/read/current", current, g.to_real(f"{name}/read/echo", echo))
    rows = _decays(bundle, f"{name}.beta_r"), _thresholds(bundle, f"{name}.v_r_scale")
    beta, threshold = (v.reshape(shape).T.reshape(-1) for v in rows)
    reads = _spikes(g, f"{name}/read", lif(g, f"{name}.v_r", current, beta, threshold, layer.lif.reset))
    weights = Weights(_order_major(t[f"{name}.wm"], layer), t[f"{name}.wm_scale"], np.zeros(layer.hidden, np.int32))
    return _current(g, f"{name}/p", reads, weights, _thresholds(bundle, f"{name}.v_scale"))


def _current(g: Graph, name: str, x: Value, weights: Weights, threshold: NDArray[np.float64]) -> Value:
    """A linear map as real currents."""
    reach = min(_largest(weights, x), CURRENT_REACH * float(threshold.max()))
    return g.to_real(f"{name}/real", g.affine(name, x, weights, reach / I16_MAX))


def _spikes(g: Graph, name: str, spikes: Value) -> Value:
    """Real zeros and ones as activations."""
    return dataclasses.replace(g.from_real(name, spikes, 1.0 / SPIKE_COUNTS), refined=SPIKE_COUNTS)


def _thresholds(bundle: Bundle, name: str) -> NDArray[np.float64]:
    return np.asarray(bundle.tensors[name].astype(np.float64) * THRESHOLD)


def _decays(bundle: Bundle, name: str) -> NDArray[np.float64]:
    return np.asarray(bundle.tensors[name].astype(np.float64) / MAX_DECAY_Q15)


def _weights(bundle: Bundle, name: str, key: str, x: Value) -> Weights:
    """A matrix over the layer's input, its bias in the accumulator units that the input has here."""
    t = bundle.tensors
    return Weights(t[f"{name}.w{key}"], t[f"{name}.w{key}_scale"], t[f"{name}.b{key}"].astype(np.int64) * x.refined)


def _largest(weights: Weights, x: Value) -> float:
    """Bound of a linear map's real magnitude."""
    return float((weights.largest() * weights.scale.astype(np.float64)).max()) * x.scale


def _order_major(wm: NDArray[np.generic], layer: PDMUConfig) -> NDArray[np.generic]:
    """Reorder the columns of W_m from channel-major c·d + j to order-major j·q + c."""
    return np.ascontiguousarray(wm.reshape(-1, layer.channels, layer.order).swapaxes(1, 2).reshape(len(wm), -1))


def _memory(g: Graph, bundle: Bundle, name: str, layer: PDMUConfig, x: Value) -> Value:
    """The block's memories, ``[K, d·q]`` order-major."""
    t, steps, d, q = bundle.tensors, x.shape[0], layer.order, layer.channels
    scale, weights = scale_of(bundle, f"{name}.m_scale"), _weights(bundle, name, "u", x)
    if layer.spikes_inside:
        threshold = _thresholds(bundle, f"{name}.v_u_scale")
        current = _current(g, f"{name}/write", x, weights, threshold)
        written = lif(g, f"{name}.v_u", current, _decays(bundle, f"{name}.beta_u"), threshold, layer.lif.reset)
        u = g.from_real(f"{name}/u", written, scale)
    else:
        u = g.affine(f"{name}/u", x, weights, scale)
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
    """What arrives at each step of the block from those before, ``[K, W]``."""
    if layer.gate == "uniform":
        return _gathered(g, name, layer, p, None)
    logits = g.affine(f"{name}/logits", x, _weights(bundle, name, "g", x), LOGIT_SCALE)
    if layer.routed:
        return route(g, name, layer, p, logits)
    return _gathered(g, name, layer, p, logits)


def _gathered(g: Graph, name: str, layer: PDMUConfig, p: Value, logits: Value | None) -> Value:
    """``Σ_i g_i[k-iτ] p[k-iτ]`` for the block: delayed rows gathered, then one small product a step; without logits a uniform gate."""
    steps, taps, length, width = p.shape[0], layer.taps, layer.delay_steps, p.shape[1]
    line = g.concat(f"{name}/line", [g.input(f"state/{name}.delayed", (length, width), p.scale), p])
    g.output(g.last(f"next/{name}.delayed", line, length))
    tap = np.arange(taps)
    rows = length - (tap + 1) * layer.dilation + np.arange(steps)[:, None]  # [K, n]: row of k - iτ, i = tap + 1
    if logits is None:
        gates = g.matrix(f"{name}/gates", np.full((steps, 1, taps), 1.0 / taps), Q15)
        weight = 1.0
    else:
        fresh = g.squash(f"{name}/g", logits, "softmax")
        history = g.concat(f"{name}/gateline", [g.input(f"state/{name}.gates", (length, taps), Q15), fresh])
        g.output(g.last(f"next/{name}.gates", history, length))
        flat = g.reshape(f"{name}/gateline/flat", history, ((length + steps) * taps,))
        gates = g.gather(f"{name}/gates", flat, (rows * taps + tap)[:, None, :])
        weight = min(ECHO_REACH, float(taps))
    echo = g.matmul(f"{name}/echo", gates, g.gather(f"{name}/past", line, rows), weight * p.scale, saturate=False)
    return g.reshape(f"{name}/echo/flat", echo, (steps, width))
