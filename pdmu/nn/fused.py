"""A whole layer behind its memory, compiled for a CPU where numba is installed: delay line, input, batch normalisation and ReLU.

    pre[t] = p[t] + Σ_i g_i[t - delay_i] p[t - delay_i] + W_x x[t],        y = relu(γ (pre - μ) / σ + β)

with μ and σ² over all steps of a batch, in training. As torch operations each term reads and writes whole ``[B, T, H]`` arrays; here it is
two passes each way, and what the backward pass needs beside `pre` is recomputed. Values and gradients are those of
`pdmu.nn.delay_gate` and `torch.nn.BatchNorm1d` up to the order of sums. A routed gate (EPDMU) sends each step to its largest tap alone.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pdmu.nn.kernels import share_out, usable

FEW_INPUTS = 8  # up to here W_x x is added in the pass; beyond, a matrix product of its own is faster
BLOCK = 256  # steps summed in float32 before they go into float64


@functools.cache
def _compiled() -> dict[str, Any]:
    """Compile on first use; kept on disk by numba.

    Arrays are rows, step t of sequence b being row ``b steps + t``. What runs over neurons is a function of few arrays each, for LLVM gives
    up SIMD where it would have to prove more of them apart, and takes row numbers, for slices are counted references.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}
    jit, row = numba.njit(cache=True, **options), numba.njit(inline="always", **options)

    @row
    def copy(out: Any, r: int, a: Any, s: int) -> None:
        for h in range(out.shape[1]):
            out[r, h] = a[s, h]

    @row
    def add(out: Any, r: int, weight: Any, a: Any, s: int) -> None:
        for h in range(out.shape[1]):
            out[r, h] += weight * a[s, h]

    @row
    def dot(a: Any, r: int, b: Any, s: int) -> Any:
        total = np.float32(0)
        for h in range(a.shape[1]):
            total += a[r, h] * b[s, h]
        return total

    @row
    def moments(pre: Any, r: int, centre: Any, block: Any) -> None:
        for h in range(pre.shape[1]):
            d = pre[r, h] - centre[h]
            block[0, h] += d
            block[1, h] += d * d

    @row
    def normalised(pre: Any, r: int, scale: Any, shift: Any, y: Any) -> None:
        for h in range(pre.shape[1]):
            v = pre[r, h] * scale[h] + shift[h]
            y[r, h] = np.float32(0) if v <= 0 else v  # NaN stays NaN, as in torch

    @row
    def gradient_moments(dy: Any, pre: Any, r: int, scale: Any, shift: Any, mean: Any, block: Any) -> None:
        for h in range(pre.shape[1]):
            d = dy[r, h]
            d = np.float32(0) if pre[r, h] * scale[h] + shift[h] <= 0 else d
            block[0, h] += d
            block[1, h] += d * (pre[r, h] - mean[h])

    @row
    def behind_relu(dy: Any, pre: Any, r: int, scale: Any, shift: Any, out: Any, s: int) -> None:
        for h in range(pre.shape[1]):
            d = dy[r, h]
            out[s, h] = np.float32(0) if pre[r, h] * scale[h] + shift[h] <= 0 else d

    @row
    def behind_norm(pre: Any, r: int, scale: Any, offset: Any, tilt: Any, out: Any, s: int) -> None:
        for h in range(pre.shape[1]):
            out[s, h] = scale[h] * out[s, h] - offset[h] - tilt[h] * pre[r, h]

    @row
    def largest(g: Any, r: int) -> int:
        best = 0
        for i in range(1, g.shape[1]):
            if g[r, i] > g[r, best]:
                best = i
        return best

    @row
    def keep(block: Any, sums: Any, b: int) -> None:
        for j in range(2):
            for h in range(block.shape[1]):
                sums[b, j, h] += block[j, h]
                block[j, h] = 0

    @jit
    def forward(
        begin: int,
        end: int,
        steps: int,
        p: Any,
        g: Any,
        x: Any,
        w: Any,
        base: Any,
        delays: Any,
        routed: bool,
        centre: Any,
        pre: Any,
        sums: Any,
    ) -> None:
        """Write `pre`, and each sequence's Σ (pre - centre) and Σ (pre - centre)²."""
        block = np.zeros((2, p.shape[1]), np.float32)
        for b in range(begin, end):
            at = b * steps
            for t in range(steps):
                r = at + t
                copy(pre, r, p, r)
                if base.shape[0] > 0:
                    add(pre, r, np.float32(1), base, r)
                for k in range(x.shape[1]):
                    add(pre, r, x[r, k], w, k)
                if not routed:
                    for i in range(len(delays)):
                        if t >= delays[i]:
                            add(pre, r, g[r - delays[i], i], p, r - delays[i])
            if routed:
                for t in range(steps):
                    best = largest(g, at + t)
                    if t + delays[best] < steps:
                        add(pre, at + t + delays[best], g[at + t, best], p, at + t)
            for t in range(steps):
                moments(pre, at + t, centre, block)
                if (t + 1) % BLOCK == 0 or t + 1 == steps:
                    keep(block, sums, b)

    @jit
    def activate(begin: int, end: int, steps: int, pre: Any, scale: Any, shift: Any, y: Any) -> None:
        for r in range(begin * steps, end * steps):
            normalised(pre, r, scale, shift, y)

    @jit
    def backward_sums(begin: int, end: int, steps: int, dy: Any, pre: Any, scale: Any, shift: Any, mean: Any, sums: Any) -> None:
        """Each sequence's Σ d and Σ d (pre - μ), d the gradient behind the ReLU."""
        block = np.zeros((2, pre.shape[1]), np.float32)
        for b in range(begin, end):
            for t in range(steps):
                gradient_moments(dy, pre, b * steps + t, scale, shift, mean, block)
                if (t + 1) % BLOCK == 0 or t + 1 == steps:
                    keep(block, sums, b)

    @jit
    def backward(
        begin: int, end: int, steps: int, dy: Any, pre: Any, p: Any, g: Any, x: Any, scale: Any, shift: Any, offset: Any, tilt: Any,
        delays: Any, routed: bool, dp: Any, dg: Any, dw: Any, dbase: Any,
    ) -> None:  # fmt: skip
        """Backwards in time: a ring keeps the gradients of `pre` as far as the longest delay reaches."""
        rows = 1
        for i in range(len(delays)):
            rows = max(rows, delays[i] + 1)
        ring = np.zeros((rows, pre.shape[1]), np.float32)
        for b in range(begin, end):
            for t in range(steps - 1, -1, -1):
                r, now = b * steps + t, t % rows
                behind_relu(dy, pre, r, scale, shift, ring, now)
                behind_norm(pre, r, scale, offset, tilt, ring, now)
                copy(dp, r, ring, now)
                if dbase.shape[0] > 0:
                    copy(dbase, r, ring, now)
                for k in range(x.shape[1]):
                    add(dw, b * x.shape[1] + k, x[r, k], ring, now)
                best = largest(g, r) if routed else 0
                for i in range(len(delays)):
                    if t + delays[i] >= steps or (routed and i != best):
                        dg[r, i] = 0
                    else:
                        later = now + delays[i] if now + delays[i] < rows else now + delays[i] - rows
                        add(dp, r, g[r, i], ring, later)
                        dg[r, i] = dot(p, r, ring, later)

    return {f.__name__: f for f in (forward, activate, backward_sums, backward)}


def _rows(*values: Tensor) -> list[Any]:
    """Return arrays ``[B T, …]`` that share memory with contiguous ``[B, T, …]``."""
    return [
        v.detach().numpy().reshape(-1, v.shape[-1]) if v.numel() else np.zeros((v.shape[0] * v.shape[1], v.shape[2]), np.float32)
        for v in values
    ]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, p: Tensor, g: Tensor, x: Tensor, w: Tensor, base: Tensor, gamma: Tensor, beta: Tensor,
        centre: Tensor, delays: tuple[int, ...], routed: bool, eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        kernels, (batch, steps) = _compiled(), p.shape[:2]
        p, g, x, base = (v.detach().contiguous() for v in (p, g, x, base))
        count, taps = batch * steps, np.array(delays, np.int64)
        pre, sums = torch.empty_like(p), np.zeros((batch, 2, p.shape[2]))
        made, weights = _rows(pre)[0], np.ascontiguousarray(w.detach().numpy().T)
        arrays = [*_rows(p, g, x), weights, *_rows(base)]
        share_out(kernels["forward"], batch, steps, *arrays, taps, routed, centre.numpy(), made, sums)
        first, second = sums.sum(0) / count
        mean, variance = torch.from_numpy(centre.numpy() + first), torch.from_numpy(np.maximum(second - first**2, 0))
        deviation = torch.rsqrt(variance + eps)
        scale = (gamma.detach() * deviation).float()
        shift = (beta.detach() - mean * gamma.detach() * deviation).float()
        y = torch.empty_like(pre)
        share_out(kernels["activate"], batch, steps, made, scale.numpy(), shift.numpy(), *_rows(y))
        ctx.save_for_backward(p, g, x, base, pre, scale, shift, mean.float(), deviation)
        ctx.settings = taps, routed
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        p, g, x, base, pre, scale, shift, mean, deviation = ctx.saved_tensors
        (taps, routed), kernels, (batch, steps) = ctx.settings, _compiled(), p.shape[:2]
        dy, count, sums = gradients[0].contiguous(), batch * steps, np.zeros((batch, 2, p.shape[2]))
        known = [v.numpy() for v in (scale, shift)]
        share_out(kernels["backward_sums"], batch, steps, *_rows(dy, pre), *known, mean.numpy(), sums)
        first, second = (torch.from_numpy(v) for v in sums.sum(0))
        tilt = scale * second * deviation**2 / count
        offset = scale * first / count - tilt * mean
        dp, dg, dbase = torch.empty_like(p), torch.empty_like(g), torch.empty_like(base)
        dw = p.new_zeros(batch, x.shape[2], p.shape[2])
        arrays, made = _rows(dy, pre, p, g, x), _rows(dp, dg, dw, dbase)
        share_out(kernels["backward"], batch, steps, *arrays, *known, offset.float().numpy(), tilt.float().numpy(), taps, routed, *made)
        return dp, dg, None, dw.sum(0).T, dbase, (second * deviation).float(), first.float(), None, None, None, None


def can_fuse(norm: nn.Module, *values: Tensor) -> bool:
    """Whether the compiled layer can take these values: numba, float32 on a CPU, and a normalisation of this process alone."""
    return type(norm) is nn.BatchNorm1d and norm.momentum is not None and usable(*values)


def delay_norm_relu(
    p: Tensor, g: Tensor, x: Tensor, from_input: nn.Linear, norm: nn.BatchNorm1d, delays: tuple[int, ...], routed: bool
) -> Tensor:
    """Return a layer's outputs ``[B, T, H]`` in training, from an empty delay line, and move the normalisation's running statistics.

    Parameters
    ----------
    p : Tensor
        ``[B, T, H]`` projected memory.
    g : Tensor
        ``[B, T, n]`` gates; of a routed layer the largest counts.
    x : Tensor
        ``[B, T, N_x]``.
    from_input : Linear
        W_x; its bias goes through the normalisation unseen.
    norm : BatchNorm1d
    delays : tuple of int
        Steps of each tap.
    routed : bool
    """
    weight, empty = from_input.weight, p.new_empty(0, 0, 0)
    inside = x.shape[2] <= FEW_INPUTS and not x.requires_grad
    base = empty if inside else torch.nn.functional.linear(x, weight)
    inputs, w = (x, weight) if inside else (x.new_empty(*x.shape[:2], 0), weight.new_empty(len(weight), 0))
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    bias = from_input.bias.detach()
    centre = norm.running_mean - bias  # near the mean: squares about it lose no digits
    y, mean, variance = _Layer.apply(p, g, inputs, w, base, norm.weight, norm.bias, centre, delays, routed, norm.eps)
    with torch.no_grad():
        count = p.shape[0] * p.shape[1]
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.float() + bias, norm.momentum or 0.0)
        norm.running_var.lerp_((variance * (count / max(1, count - 1))).float(), norm.momentum or 0.0)
    return y
