"""The spike, its surrogate gradient and the scan that carries it back in time; autograd and the compiled kernels take it from here too.

A spike is the Heaviside step of ``u = v − V``; in the backward pass its derivative is that of ``arctan(π α u / 2) / π`` (Fang et al. 2021),
`snntorch.surrogate.ATan` with its default width.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor

ATAN_ALPHA = 2.0  # snntorch's default width
PEAK, SLOPE = ATAN_ALPHA / 2, math.pi / 2 * ATAN_ALPHA  # the derivative is PEAK / (1 + (SLOPE u)²)
Number = TypeVar("Number", Tensor, float)


def derivative(u: Number) -> Number:
    """Return the surrogate's derivative at a distance `u` from the threshold."""
    return PEAK / (1 + (SLOPE * u) ** 2)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return grads[0] * derivative(u)


def spike(u: Tensor) -> Tensor:
    """Return 1 where ``u > 0`` and 0 elsewhere, differentiable by the surrogate."""
    return _Spike.apply(u)


def reverse_scan_(factor: Tensor, direct: Tensor, end: Tensor) -> Tensor:
    """Turn `direct` into x with ``x[k] = direct[k] + factor[k] x[k+1]``, ``x[T] = end``: the gradient of a leaky neuron of known spikes.

    Parameters
    ----------
    factor : Tensor
        ``[B, T, H]``, or ``[H]`` where it is the same at all steps.
    direct : Tensor
        ``[B, T, H]``; overwritten and returned.
    end : Tensor
        ``[B, H]``.

    Notes
    -----
    All chunks at once, from zero; then the chunks' ends one after the other; then all chunks again, from where the later one ended. What
    is left over at the beginning of time comes last, step by step.
    """
    steps = direct.shape[1]
    chunk = max(1, math.isqrt(steps))
    n, left = divmod(steps, chunk)
    every = factor.expand_as(direct)
    by_step = direct[:, left:].unflatten(1, (n, chunk)).unbind(2)
    factors = every[:, left:].unflatten(1, (n, chunk)).unbind(2)
    x, through = torch.zeros_like(by_step[0]), torch.ones_like(by_step[0])
    for b, f in zip(reversed(by_step), reversed(factors), strict=True):
        torch.addcmul(b, f, x, out=x)
        through *= f
    carried = [end]  # into each chunk from the one after it, last chunk first
    for j in range(n - 1, 0, -1):
        carried.append(x[:, j] + through[:, j] * carried[-1])
    carry = torch.stack(carried[::-1], 1)
    for b, f in zip(reversed(by_step), reversed(factors), strict=True):
        carry = b.addcmul_(f, carry)
    for k in range(left - 1, -1, -1):
        direct[:, k].addcmul_(every[:, k], direct[:, k + 1])
    return direct
