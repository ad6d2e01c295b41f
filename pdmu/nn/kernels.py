"""The delay gate compiled for a CPU, where numba is installed: the same sums as :mod:`pdmu.nn.delay_gate`, in one pass over memory.

As torch operations each tap reads and writes whole ``[B, T, H]`` arrays; here a step's vector stays in cache for all its taps. Sequences
of a batch are shared out over threads as torch's own operations are.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

AVAILABLE = importlib.util.find_spec("numba") is not None


def usable(*values: Tensor) -> bool:
    """Whether the kernels can take these values: numba is there, and they are float32 on a CPU."""
    return AVAILABLE and all(v.dtype == torch.float32 and v.device.type == "cpu" for v in values)


@functools.cache
def _compiled() -> dict[str, Any]:
    """Compile on first use; kept on disk by numba. `contract` allows fused multiply-adds, `reassoc` lets a sum of products use SIMD."""
    import numba

    jit = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
    return {f.__name__: jit(f) for f in (_gather, _gather_back, _route, _route_back)}


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def share_out(kernel: Callable[..., None], items: int, *arguments: Any) -> None:
    """Run a kernel over items 0 … items-1, each of torch's threads its share: ``kernel(begin, end, *arguments)``."""
    threads = min(torch.get_num_threads(), items)
    if threads <= 1:
        kernel(0, items, *arguments)
        return
    edges = [items * i // threads for i in range(threads + 1)]
    shares = [_pool(threads).submit(kernel, a, b, *arguments) for a, b in zip(edges, edges[1:], strict=False)]
    for share in shares:
        share.result()


def _run(name: str, batch: int, *arguments: Any) -> None:
    share_out(_compiled()[name], batch, *arguments)


def _gather(begin: int, end: int, line: Any, gates: Any, delays: Any, z: Any) -> None:
    """z[t] = line[L+t] + Σ_i gates[L+t-delay_i, i] line[L+t-delay_i]."""
    length = line.shape[1] - z.shape[1]
    for b in range(begin, end):
        for t in range(z.shape[1]):
            for h in range(z.shape[2]):
                z[b, t, h] = line[b, length + t, h]
            for i in range(len(delays)):
                s = length + t - delays[i]
                g = gates[b, s, i]
                for h in range(z.shape[2]):
                    z[b, t, h] += g * line[b, s, h]


def _gather_back(begin: int, end: int, line: Any, gates: Any, delays: Any, dz: Any, dline: Any, dgates: Any) -> None:
    length, steps = line.shape[1] - dz.shape[1], dz.shape[1]
    for b in range(begin, end):
        for s in range(line.shape[1]):
            for h in range(dz.shape[2]):
                dline[b, s, h] = dz[b, s - length, h] if s >= length else 0.0
            for i in range(len(delays)):
                t = s - length + delays[i]
                if t < 0 or t >= steps:
                    dgates[b, s, i] = 0.0
                    continue
                g, total = gates[b, s, i], np.float32(0.0)
                for h in range(dz.shape[2]):
                    dline[b, s, h] += g * dz[b, t, h]
                    total += line[b, s, h] * dz[b, t, h]
                dgates[b, s, i] = total


def _route(begin: int, end: int, p: Any, slot: Any, weight: Any, line: Any) -> None:
    """line[slot[t]] += weight[t] p[t]."""
    for b in range(begin, end):
        for t in range(p.shape[1]):
            k, w = slot[b, t], weight[b, t]
            for h in range(p.shape[2]):
                line[b, k, h] += w * p[b, t, h]


def _route_back(begin: int, end: int, p: Any, slot: Any, weight: Any, dline: Any, dp: Any, dweight: Any) -> None:
    for b in range(begin, end):
        for t in range(p.shape[1]):
            k, w, total = slot[b, t], weight[b, t], np.float32(0.0)
            for h in range(p.shape[2]):
                dp[b, t, h] = w * dline[b, k, h]
                total += p[b, t, h] * dline[b, k, h]
            dweight[b, t] = total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, line: Tensor, gates: Tensor, delays: tuple[int, ...]) -> Tensor:
        line, gates = line.contiguous(), gates.contiguous()
        ctx.save_for_backward(line, gates)
        ctx.delays = np.array(delays)
        batch, rows, hidden = line.shape
        z = line.new_empty(batch, rows - max(delays), hidden)
        _run("_gather", batch, line.detach().numpy(), gates.detach().numpy(), ctx.delays, z.numpy())
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        line, gates = ctx.saved_tensors
        dline, dgates, dz = torch.empty_like(line), torch.empty_like(gates), gradients[0].contiguous()
        _run("_gather_back", len(line), *(v.numpy() for v in (line, gates)), ctx.delays, *(v.numpy() for v in (dz, dline, dgates)))
        return dline, dgates, None


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, slot: Tensor, weight: Tensor, rows: int) -> Tensor:
        p, slot, weight = p.contiguous(), slot.contiguous(), weight.contiguous()
        ctx.save_for_backward(p, slot, weight)
        line = p.new_zeros(len(p), rows, p.shape[2])
        _run("_route", len(p), *(v.detach().numpy() for v in (p, slot, weight, line)))
        return line

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, None]:
        p, slot, weight = ctx.saved_tensors
        dp, dweight = torch.empty_like(p), torch.empty_like(weight)
        _run("_route_back", len(p), *(v.numpy() for v in (p, slot, weight, gradients[0].contiguous(), dp, dweight)))
        return dp, None, dweight, None


def gather(line: Tensor, gates: Tensor, delays: tuple[int, ...]) -> Tensor:
    """Return ``z[t] = line[L+t] + Σ_i g_i line``, each tap read `delays[i]` steps before; line ``[B, L+T, H]``, gates ``[B, L+T, n]``."""
    return _Gather.apply(line, gates, delays)


def route(p: Tensor, slot: Tensor, weight: Tensor, rows: int) -> Tensor:
    """Return a line ``[B, rows, H]`` on which p ``[B, T, H]`` times weight ``[B, T]`` is added at the rows `slot` ``[B, T]``."""
    return _Route.apply(p, slot, weight, rows)
