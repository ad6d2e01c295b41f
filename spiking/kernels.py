"""The leaky integrate-and-fire neuron compiled for a CPU, where numba is installed: forward and backward in one pass over memory each.

The forward kernel may not contract a product and a sum into one rounding, so its potentials are the law's in every bit. Pairs of a sequence
and a block of neurons are shared out over threads.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdmu.nn.kernels import share_out, usable
from spiking.lif import Reset
from spiking.surrogate import PEAK, SLOPE

__all__ = ["lif", "usable"]
NEURONS = 128  # of a block: their potentials stay in the nearest cache


@functools.cache
def _compiled() -> dict[str, Any]:
    """Compile on first use; kept on disk by numba."""
    import numba

    options: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}  # a check for division by zero would cost SIMD
    exact, free = numba.njit(**options), numba.njit(**options, fastmath={"contract", "reassoc"})
    return {"_forward": exact(_forward), "_backward": free(_backward)}


def _run(name: str, batch: int, hidden: int, *arguments: Any) -> None:
    """Run a kernel over all pairs of a sequence and a block of neurons, each thread its share."""
    share_out(_compiled()[name], batch * -(-hidden // NEURONS), *arguments)


# Each inner loop touches few arrays and branches on nothing but values: LLVM gives up SIMD where it would have to prove more arrays apart.


def _forward(begin: int, end: int, current: Any, beta: Any, threshold: Any, state: Any, to_zero: bool, v: Any, spikes: Any) -> None:
    batch, steps, hidden = current.shape
    zero, one = np.float32(0.0), np.float32(1.0)
    for pair in range(begin, end):
        b, first = pair % batch, pair // batch * NEURONS
        stop = min(first + NEURONS, hidden)
        decay, limit, before = beta[first:stop], threshold[first:stop], state[b, first:stop]
        for k in range(steps):
            given, now, out = current[b, k, first:stop], v[b, k, first:stop], spikes[b, k, first:stop]
            if to_zero:
                for h in range(stop - first):
                    now[h] = decay[h] * (zero if before[h] > limit[h] else before[h]) + given[h]
            else:
                for h in range(stop - first):
                    now[h] = decay[h] * before[h] + given[h] - (limit[h] if before[h] > limit[h] else zero)
            for h in range(stop - first):
                out[h] = one if now[h] > limit[h] else zero
            before = now


def _backward(
    begin: int, end: int, v: Any, beta: Any, threshold: Any, state: Any, to_zero: bool, d_spikes: Any, dv: Any, d_state: Any, sums: Any
) -> None:
    """Write dv and d_state (which comes in as the gradient of the last potential); sums ``[2, B, H]`` are β's and V's by sequence."""
    batch, steps, hidden = v.shape
    zero, one, peak, slope = np.float32(0.0), np.float32(1.0), np.float32(PEAK), np.float32(SLOPE)
    for pair in range(begin, end):
        b, first = pair % batch, pair // batch * NEURONS
        stop = min(first + NEURONS, hidden)
        n = stop - first
        decay, limit, carry = beta[first:stop], threshold[first:stop], d_state[b, first:stop]
        d_beta, d_threshold = sums[0, b, first:stop], sums[1, b, first:stop]
        for step in range(steps):
            k = steps - 1 - step
            now, given, to = v[b, k, first:stop], d_spikes[b, k, first:stop], dv[b, k, first:stop]
            before = v[b, k - 1, first:stop] if k > 0 else state[b, first:stop]
            for h in range(n):
                u = slope * (now[h] - limit[h])
                to[h] = given[h] * (peak / (one + u * u))
            for h in range(n):
                d_threshold[h] -= to[h]
            for h in range(n):
                to[h] += carry[h]
            if to_zero:
                for h in range(n):
                    d_beta[h] += to[h] * (zero if before[h] > limit[h] else before[h])
                for h in range(n):
                    carry[h] = decay[h] * (zero if before[h] > limit[h] else to[h])
            else:
                for h in range(n):
                    d_beta[h] += to[h] * before[h]
                for h in range(n):
                    d_threshold[h] -= to[h] if before[h] > limit[h] else zero
                for h in range(n):
                    carry[h] = decay[h] * to[h]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, beta: Tensor, state: Tensor, threshold: Tensor, reset: Reset) -> tuple[Tensor, Tensor]:
        current, beta, state, threshold = (t.detach().contiguous() for t in (current, beta, state, threshold))
        v, spikes = torch.empty_like(current), torch.empty_like(current)
        ctx.save_for_backward(v, beta, threshold, state)
        ctx.to_zero = reset == "zero"
        arrays = [t.numpy() for t in (current, beta, threshold, state)]
        _run("_forward", len(current), current.shape[2], *arrays, ctx.to_zero, v.numpy(), spikes.numpy())
        return spikes, v[:, -1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        v, beta, threshold, state = ctx.saved_tensors
        d_spikes, d_state = gradients[0].contiguous(), gradients[1].clone(memory_format=torch.contiguous_format)
        dv, sums = torch.empty_like(v), v.new_zeros(2, *state.shape)
        arrays = [t.numpy() for t in (v, beta, threshold, state)]
        _run("_backward", len(v), v.shape[2], *arrays, ctx.to_zero, *(t.numpy() for t in (d_spikes, dv, d_state, sums)))
        return dv, sums[0].sum(0), d_state, sums[1].sum(0), None


def lif(current: Tensor, beta: Tensor, state: Tensor, threshold: Tensor, reset: Reset) -> tuple[Tensor, Tensor]:
    """Return spikes ``[B, T, H]`` and the last potential ``[B, H]``; current ``[B, T, H]``, β and V ``[H]``, state ``[B, H]``, float32."""
    return _Fused.apply(current, beta, state, threshold, reset)
