"""One recurrent layer of the integer law over a block of steps: PDMU, LMU, EPDMU and the spiking DMU (MODEL.md 2.3 and 2.4).

Symbols as there: T steps, N_x inputs, q channels, d order, n taps, τ dilation, H hidden, W the width of what the delay line holds: H, or
q·d where the reads of the memory are spikes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdmu.config import PDMUConfig
from pdmu.fixedpoint import I16_MAX, I16_MIN, Int, exact_matmul, requant, rshift_round, saturate16, softmax_q15
from pdmu.tables import exp_table

I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
Weights = Callable[[str], Int]  # a tensor of the layer by its short name ("wu"), as int64
Stages = dict[str, NDArray[np.signedinteger]]

THRESHOLD = 1 << 16  # potentials count 2^-16 of their neuron's own threshold
POTENTIAL_LIMIT = 1 << 30  # potentials and currents saturate here, at 16384 thresholds


class DelayLine(NamedTuple):
    """What the steps past wrote, newest last; zero before the first step."""

    delayed: I16  # [nτ, W]
    gates: I16  # [nτ, n] Q15


class RouteLine(NamedTuple):
    """What is still to arrive, next step first; zero before the first step."""

    arriving: I16  # [nτ, W]


class Neurons(NamedTuple):
    """Membrane potentials, before the reset that their last spike asks for."""

    v: I32  # [H] of the outputs
    v_u: I32  # [q] of the writes; [0] where these are analogue
    v_r: I32  # [q·d] of the reads; likewise


class LayerState(NamedTuple):
    """State of one layer between calls."""

    memory: I16  # [q, d]
    line: DelayLine | RouteLine
    neurons: Neurons | None = None  # of a spiking layer

    def arrays(self) -> dict[str, NDArray[np.signedinteger]]:
        """Every array by its name."""
        inner = {} if self.neurons is None else {k: v for k, v in self.neurons._asdict().items() if len(v)}
        return {"memory": self.memory, **self.line._asdict(), **inner}


def layer_init(layer: PDMUConfig) -> LayerState:
    """Return the state before the first step: all zero."""
    q, size, steps = layer.channels, layer.channels * layer.order, layer.delay_steps
    values = np.zeros((steps, layer.line_width), np.int16)
    line = RouteLine(values) if layer.routed else DelayLine(values, np.zeros((steps, layer.taps), np.int16))
    inner = (q, size) if layer.spikes_inside else (0, 0)
    neurons = Neurons(*(np.zeros(n, np.int32) for n in (layer.hidden, *inner))) if layer.spiking else None
    return LayerState(np.zeros((q, layer.order), np.int16), line, neurons)


def layer_step(layer: PDMUConfig, t: Weights, state: LayerState, x: I16) -> tuple[LayerState, I16, Stages]:
    """Run a layer over a block.

    Parameters
    ----------
    layer : PDMUConfig
    t : callable
        Gives the layer's tensors.
    state : LayerState
    x : ndarray of int16
        ``[T, N_x]``; zeros and ones where they are spikes.

    Returns
    -------
    state : LayerState
    h : ndarray of int16
        ``[T, H]``; zeros and ones of a spiking layer.
    stages : dict
        What is between, by name: ``u`` ``[T, q]``, ``m`` ``[T, q, d]``, ``p`` ``[T, H]``, ``g`` ``[T, n]``, and of neurons the potentials
        ``v`` ``[T, H]``, ``v_u`` ``[T, q]``, ``v_r`` ``[T, q·d]`` and the reads ``r`` ``[T, q·d]``; those that the layer has.
    """
    steps, neurons, stages = len(x), state.neurons, Stages()
    written = exact_matmul(x, t("wu")) + t("bu")
    if layer.spikes_inside:
        assert neurons is not None
        v_u, spikes = lif(t("beta_u"), layer.lif.reset, neurons.v_u, scaled_current(written * t("mu"), t("su")))
        u = (spikes * t("us")).astype(np.int16)
        stages["v_u"] = v_u
        neurons = neurons._replace(v_u=v_u[-1])
    else:
        u = requant(written, t("mu"), t("su"))
    m = _memory(t("aq"), t("bq"), int(t("ka")[0]), state.memory, u)
    stages |= {"u": u, "m": m}
    value = flat = m.reshape(steps, -1)
    if not layer.spikes_inside:
        stages["p"] = value = requant(exact_matmul(flat, t("wm")), t("mp"), t("sp"))
    gates = _gates(layer, t, x)
    if layer.gate != "off":
        stages["g"] = gates
    line, total = _deliver(layer, state.line, value, gates)
    if layer.spikes_inside:
        assert neurons is not None
        v_r, reads = lif(t("beta_r"), layer.lif.reset, neurons.v_r, scaled_current(total * t("mz"), t("sz")))
        stages |= {"v_r": v_r, "r": reads}
        neurons, total = neurons._replace(v_r=v_r[-1]), exact_matmul(reads, t("wm"))
    mixed = total * t("mt") + (exact_matmul(x, t("wx")) + t("bx")) * t("mx")
    if layer.residual:
        mixed = mixed + x.astype(np.int64) * t("mr")
    if neurons is None:
        return LayerState(m[-1], line), saturate16(rshift_round(mixed, t("sh")), 0), stages
    v, h = lif(t("beta"), layer.lif.reset, neurons.v, scaled_current(mixed, t("sh")))
    stages["v"] = v
    return LayerState(m[-1], line, neurons._replace(v=v[-1])), h, stages


def scaled_current(product: Int, shift: Int) -> Int:
    """Return ``rs(product, shift)`` as a current: counts of 2^-16 threshold, saturated at ±2^30."""
    return np.clip(rshift_round(product, shift), -POTENTIAL_LIMIT, POTENTIAL_LIMIT)


def lif(beta: Int, reset: str, v: I32, current: Int) -> tuple[I32, I16]:
    """Leaky integrate-and-fire neurons over a block: `spiking.lif.lif_step` in integers.

    ``v[k] = sat(rs(β v[k-1], 15) + I[k] − V s[k-1])``, or of ``β·0`` after a spike where the reset is to zero; ``s[k] = 1`` where v[k] > V.

    Parameters
    ----------
    beta : ndarray of int
        ``[N]`` Q15.
    reset : {"subtract", "zero"}
    v : ndarray of int32
        ``[N]`` potentials after the step before.
    current : ndarray of int
        ``[T, N]``.

    Returns
    -------
    v : ndarray of int32
        ``[T, N]``.
    spikes : ndarray of int16
        ``[T, N]`` of zeros and ones.
    """
    out = np.empty(current.shape, np.int32)
    now = v.astype(np.int64)
    for k in range(len(current)):
        fired = now > THRESHOLD
        kept, taken = (np.where(fired, 0, now), 0) if reset == "zero" else (now, fired * THRESHOLD)
        now = np.clip(rshift_round(beta * kept, 15) + current[k] - taken, -POTENTIAL_LIMIT, POTENTIAL_LIMIT)
        out[k] = now
    return out, (out > THRESHOLD).astype(np.int16)


def _gates(layer: PDMUConfig, t: Weights, x: I16) -> I16:
    """Gate of each step ``[T, n]``: Q15, but zeros and a one (no fraction) with the straight-through gate."""
    if not layer.gate_is_learned:
        return np.full((len(x), layer.taps), min(I16_MAX, ((1 << 15) + layer.taps // 2) // layer.taps), np.int16)
    logits = requant(exact_matmul(x, t("wg")) + t("bg"), t("mg"), t("sg"))
    if layer.gate == "softmax":
        return softmax_q15(logits, exp_table())
    chosen = np.arange(layer.taps) == logits.argmax(axis=1, keepdims=True)  # the first of equals
    return np.where(chosen, softmax_q15(logits, exp_table()) if layer.gate == "top1" else 1, 0).astype(np.int16)


def _deliver(layer: PDMUConfig, line: DelayLine | RouteLine, value: I16, gates: I16) -> tuple[DelayLine | RouteLine, Int]:
    """Put each step's value ``[T, W]`` on the line, and return the sums ``[T, W]`` of what arrives with it, in counts of the value."""
    if isinstance(line, RouteLine):
        return _route(layer, line, value, gates)
    if layer.gate == "off":
        return line, value.astype(np.int64)
    steps, total = len(value), value.astype(np.int64) << 15
    delayed, past_gates = np.concatenate([line.delayed, value]), np.concatenate([line.gates, gates])
    for i in range(1, layer.taps + 1):
        past = slice(layer.delay_steps - i * layer.dilation, layer.delay_steps - i * layer.dilation + steps)
        total += past_gates[past, i - 1 : i].astype(np.int64) * delayed[past]
    return DelayLine(delayed[steps:].copy(), past_gates[steps:].copy()), rshift_round(total, 15)


def _route(layer: PDMUConfig, line: RouteLine, value: I16, gates: I16) -> tuple[RouteLine, Int]:
    """One write a step. Of the writes to one instant that of the longest delay came first, and each sum saturates."""
    steps = len(value)
    arriving = np.concatenate([line.arriving, np.zeros_like(value)])
    for i in range(layer.taps, 0, -1):
        sender = np.flatnonzero(gates[:, i - 1])
        weight = gates[sender, i - 1 : i].astype(np.int64)
        sent = value[sender] if layer.gate == "straight_through" else rshift_round(value[sender] * weight, 15)
        at = sender + i * layer.dilation
        arriving[at] = saturate16(arriving[at].astype(np.int64) + sent)
    return RouteLine(arriving[steps:].copy()), value.astype(np.int64) + arriving[:steps]


def _memory(aq: Int, bq: Int, ka: int, memory: I16, u: I16) -> I16:
    """The Legendre recursion ``[T, q, d]``."""
    drive = u.astype(np.float64)[:, :, None] * bq + (1 << (ka - 1))
    a_t = np.ascontiguousarray(aq.T.astype(np.float64))
    out = np.empty((len(u), *memory.shape), np.int16)
    m, scale = memory.astype(np.float64), 2.0**-ka
    for k in range(len(u)):
        m = np.clip(np.floor((m @ a_t + drive[k]) * scale), I16_MIN, I16_MAX)  # exact: |sum| < 2^15 · 2^15 · (d+1) < 2^53
        out[k] = m
    return out
