"""Hard decisions in .tflite graphs: spikes, and the one tap that an EPDMU's gate chooses.

They are made of real values, float32 in graphs of both precisions: int16 has neither comparisons nor the room that potentials need.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deploy.tflite_ops import Graph, Op, Value
from pdmu.config import PDMUConfig

ONE_SCALE = 2.0**-14  # of the matrix that sends rows to their instants: its ones are exact


def lif(g: Graph, name: str, current: Value, beta: NDArray[np.float64], threshold: NDArray[np.float64], reset: str) -> Value:
    """Neurons over a block, step after step: `pdmu.int_layer.lif` in real values.

    Parameters
    ----------
    g : Graph
        Gets the potentials as state `name`, float32.
    name : str
        ``"pdmu0.v"``.
    current : Value
        Real ``[K, N]``.
    beta, threshold : ndarray of float64
        ``[N]``.
    reset : {"subtract", "zero"}

    Returns
    -------
    Value
        Spikes, real zeros and ones ``[K, N]``.
    """
    steps, size = current.shape
    decay, limit = (g.real_constant(f"{name}/{key}", v[None]) for key, v in (("beta", beta), ("threshold", threshold)))
    rest = g.real_constant(f"{name}/rest", np.zeros((1, size)))
    v = g.real_input(f"state/{name}", (1, size))
    fired, spikes = g.above(f"{name}/before", v, limit)
    out = []
    for k in range(steps):
        given = current if steps == 1 else g.part(f"{name}/{k}/current", current, k, 1)
        kept = g.select(f"{name}/{k}/kept", fired, rest, v) if reset == "zero" else v
        v = g.combine(Op.MUL, f"{name}/{k}/decayed", kept, decay)
        v = g.combine(Op.ADD, _potential(name, k, steps, reset == "zero"), v, given)
        if reset == "subtract":
            v = g.combine(Op.SUB, _potential(name, k, steps, True), v, g.combine(Op.MUL, f"{name}/{k}/taken", spikes, limit))
        fired, spikes = g.above(f"{name}/{k}/spikes", v, limit)
        out.append(spikes)
    g.output(v)
    return out[0] if steps == 1 else g.concat(f"{name}/spikes", out)


def _potential(name: str, k: int, steps: int, settled: bool) -> str:
    """The last step's settled potential is the next block's state."""
    return f"{name}/{k}/v{'' if settled else '/driven'}" if k < steps - 1 or not settled else f"next/{name}"


def route(g: Graph, name: str, layer: PDMUConfig, p: Value, logits: Value) -> Value:
    """Send each step's value ``[K, W]`` to the instant that its gate names, and return what arrives at the block's steps.

    The state ``arriving`` ``[nτ, W]`` holds what is under way, the next step's first. A matrix of zeros and ones takes the block's K values
    to the nτ + K instants from its first step on.
    """
    steps, length = p.shape[0], layer.delay_steps
    choice = g.to_real(f"{name}/logits/real", logits)
    to = g.one_hot_of_largest(f"{name}/route", choice, layer.dilation, layer.dilation + np.arange(steps), length + steps)
    sent = p
    if layer.gate == "top1":
        top = g.largest(f"{name}/top", g.to_real(f"{name}/g/real", g.squash(f"{name}/g", logits, "softmax")))
        sent = g.from_real(f"{name}/sent", g.combine(Op.MUL, f"{name}/sent/real", g.to_real(f"{name}/p/real", p), top), p.scale)
    fresh = g.matmul(f"{name}/fresh", g.from_real(f"{name}/route/counts", to, ONE_SCALE), sent, p.scale)
    waiting = g.input(f"state/{name}.arriving", (length, p.shape[1]), p.scale)
    none = g.matrix(f"{name}/none", np.zeros((steps, p.shape[1])), p.scale)
    line = g.saturating_add(f"{name}/line", g.concat(f"{name}/waiting", [waiting, none]), fresh)
    g.output(g.last(f"next/{name}.arriving", line, length))
    return g.part(f"{name}/arrived", line, 0, steps)
