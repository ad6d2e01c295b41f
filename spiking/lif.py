"""The leaky integrate-and-fire neuron, step by step: the law that every other form gives the spikes of.

    v[k] = β (v[k-1] − r) + I[k],      s[k] = 1 if v[k] > V else 0

with the reset of the step before: ``r = v[k-1] s[k-1]`` to zero, and ``v[k] = β v[k-1] + I[k] − V s[k-1]`` by subtraction. These are
`snntorch.Leaky`'s equations (its default, where a spike resets one step later), its strict comparison and its order of operations, so that
potentials equal its own in every bit and networks move between the two spike by spike. The gradient of a spike is the surrogate's
(:mod:`spiking.surrogate`); none flows through the reset, as there.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from spiking.surrogate import spike

Reset = Literal["subtract", "zero"]


class LIFState(NamedTuple):
    """State between steps; the last spike is a function of it."""

    v: Tensor  # [...], membrane potential before the reset its last spike asks for


def lif_step(
    state: LIFState, current: Tensor, beta: Tensor, threshold: Tensor | float = 1.0, reset: Reset = "subtract"
) -> tuple[LIFState, Tensor]:
    """Advance neurons by one step.

    Parameters
    ----------
    state : LIFState
        ``v`` broadcastable with `current`.
    current : Tensor
        ``[..., H]`` input I.
    beta : Tensor
        Scalar or ``[H]``, clamped to 0 … 1.
    threshold : Tensor or float
        V, scalar or ``[H]``.
    reset : {"subtract", "zero"}

    Returns
    -------
    state : LIFState
    spikes : Tensor
        ``[..., H]`` of zeros and ones.
    """
    beta, fired = beta.clamp(0, 1), (state.v > threshold).to(current.dtype)
    v = beta * ((1 - fired) * state.v) + current if reset == "zero" else beta * state.v + current - fired * threshold
    return LIFState(v), spike(v - threshold)


def lif_sequential(
    current: Tensor, beta: Tensor, state: LIFState | None = None, threshold: Tensor | float = 1.0, reset: Reset = "subtract"
) -> tuple[Tensor, LIFState]:
    """Run neurons over a sequence, one step after the other.

    Parameters
    ----------
    current : Tensor
        ``[B, T, H]``.
    beta : Tensor
        Scalar or ``[H]``.
    state : LIFState, optional
        ``v`` ``[B, H]``; at rest when absent.
    threshold : Tensor or float
        V, scalar or ``[H]``.
    reset : {"subtract", "zero"}

    Returns
    -------
    spikes : Tensor
        ``[B, T, H]``.
    state : LIFState
    """
    after = state or LIFState(torch.zeros_like(current[:, 0]))
    spikes = []
    for given in current.unbind(1):
        after, s = lif_step(after, given, beta, threshold, reset)
        spikes.append(s)
    return torch.stack(spikes, 1), after
