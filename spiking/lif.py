"""The leaky integrate-and-fire neuron, step by step: the law that parallel forms are checked against.

    v[k] = β (v[k-1] − r) + I[k],      s[k] = 1 if v[k] > V else 0

with the reset of the step before: ``r = v[k-1] s[k-1]`` to zero, and ``v[k] = β v[k-1] + I[k] − V s[k-1]`` by subtraction. These are
`snntorch.Leaky`'s equations (its default, where a spike resets one step later) and its strict comparison, so that networks move between the
two spike by spike. The gradient of a spike is the arc-tangent surrogate (Fang et al. 2021); none flows through the reset, as there.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Reset = Literal["subtract", "zero"]
ATAN_ALPHA = 2.0  # snntorch's default width of the surrogate


class LIFState(NamedTuple):
    """State between steps; the last spike is a function of it."""

    v: Tensor  # [...], membrane potential before the reset its last spike asks for


class _Spike(torch.autograd.Function):
    """Heaviside step, with the derivative of arctan(π α u / 2) / π."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return grads[0] * (ATAN_ALPHA / 2) / (1 + (torch.pi / 2 * ATAN_ALPHA * u) ** 2)


def spike(u: Tensor) -> Tensor:
    """Return 1 where ``u > 0`` and 0 elsewhere, differentiable by the surrogate."""
    return _Spike.apply(u)


def lif_step(state: LIFState, current: Tensor, beta: Tensor, threshold: float = 1.0, reset: Reset = "subtract") -> tuple[LIFState, Tensor]:
    """Advance neurons by one step.

    Parameters
    ----------
    state : LIFState
        ``v`` broadcastable with `current`.
    current : Tensor
        ``[..., H]`` input I.
    beta : Tensor
        Scalar or ``[H]``, clamped to 0 … 1.
    threshold : float
        V.
    reset : {"subtract", "zero"}

    Returns
    -------
    state : LIFState
    spikes : Tensor
        ``[..., H]`` of zeros and ones.
    """
    beta, fired = beta.clamp(0, 1), (state.v > threshold).to(current.dtype)
    kept, given = ((1 - fired) * state.v, current) if reset == "zero" else (state.v, current - fired * threshold)
    v = beta * kept + given
    return LIFState(v), spike(v - threshold)


def lif_sequential(
    current: Tensor, beta: Tensor, state: LIFState | None = None, threshold: float = 1.0, reset: Reset = "subtract"
) -> tuple[Tensor, LIFState]:
    """Run neurons over a sequence, one step after the other.

    Parameters
    ----------
    current : Tensor
        ``[B, T, H]``.
    state : LIFState, optional
        ``v`` ``[B, H]``; at rest when absent.

    Returns
    -------
    spikes : Tensor
        ``[B, T, H]``.
    state : LIFState
    """
    after = state or LIFState(torch.zeros_like(current[:, 0]))
    spikes = []
    for k in range(current.shape[1]):
        after, s = lif_step(after, current[:, k], beta, threshold, reset)
        spikes.append(s)
    return torch.stack(spikes, 1), after
