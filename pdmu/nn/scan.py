"""The Legendre memory over whole sequences: ``m[k] = m[k-1] Āᵀ + u[k] B̄ᵀ`` (Voelker 2019; Chilkuri & Eliasmith 2021).

`memory_step` is the definition and `memory_sequential` its repetition, the reference. Parallel forms of the same states: `memory_chunked`
(matrix products: inside a chunk a Toeplitz matrix of the impulse response, across chunks a power of Ā), `memory_fft` (one convolution with
the impulse response) and `memory_associative` (a scan that doubles its reach). `memory_parallel` runs the one that was measured fastest at
such sizes. Where not all states are wanted there is less to compute: `memory_at` some of them, `memory_projected` only ``W vec(m[k])``.

Shapes: u ``[B, T, q]``, m ``[B, T, q, d]``, state ``[B, q, d]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdmu.nn.engines import fastest
from pdmu.tables import lmu_matrices


def memory_step(a_bar: Tensor, b_bar: Tensor, state: Tensor, u: Tensor) -> Tensor:
    """Advance the memory by one step: state ``[B, q, d]``, u ``[B, q]`` → ``[B, q, d]``."""
    return state @ a_bar.T + u[..., None] * b_bar


def memory_sequential(order: int, theta: float, u: Tensor, state: Tensor) -> Tensor:
    """Return every state ``[B, T, q, d]`` by stepping; the reference for the parallel forms."""
    a, b = (torch.as_tensor(v).to(u) for v in lmu_matrices(order, theta))
    states = []
    for k in range(u.shape[1]):
        state = memory_step(a, b, state, u[:, k])
        states.append(state)
    return torch.stack(states, 1)


def _constant(values: np.ndarray, like: torch.dtype, device: torch.device) -> Tensor:
    """Return an array as a tensor that is kept for later calls, of training too, though this one may be of inference."""
    with torch.inference_mode(False):
        return torch.as_tensor(values).to(device, like)


@functools.lru_cache(maxsize=32)
def _impulse_response(order: int, theta: float, steps: int, like: torch.dtype, device: torch.device) -> Tensor:
    """Return ``Ā^k B̄`` for k = 0 … steps-1, ``[T, d]``; computed in float64."""
    a, b = lmu_matrices(order, theta)
    block, power = b[None], a  # a block of 2^j responses gives the next 2^j by Ā^(2^j)
    while len(block) < steps:
        block, power = np.concatenate([block, block @ power.T]), power @ power
    return _constant(block[:steps], like, device)


@functools.lru_cache(maxsize=64)
def _power(order: int, theta: float, exponent: int, like: torch.dtype, device: torch.device) -> Tensor:
    """Return the transpose of Ā to a power, ``[d, d]``; computed in float64."""
    return _constant(np.linalg.matrix_power(lmu_matrices(order, theta)[0], exponent).T.copy(), like, device)


@functools.lru_cache(maxsize=32)
def _across(order: int, theta: float, chunk: int, like: torch.dtype, device: torch.device) -> Tensor:
    """Return the transposed powers Ā^(t+1) for t = 0 … C-1, ``[C, d, d]``; computed in float64."""
    a = lmu_matrices(order, theta)[0]
    powers = [a]
    for _ in range(chunk - 1):
        powers.append(powers[-1] @ a)
    return _constant(np.stack([p.T for p in powers]), like, device)


def _toeplitz(lags: Tensor) -> Tensor:
    """Return ``[C, C, ...]`` with ``lags[t-s]`` at ``[s, t]`` and zeros where t < s, from ``[C, ...]``."""
    chunk = len(lags)
    padded = torch.cat([lags.new_zeros(chunk - 1, *lags.shape[1:]), lags])
    return padded.unfold(0, chunk, 1).flip(0).movedim(-1, 1)


def _in_chunks(u: Tensor, chunk: int) -> Tensor:
    """Return the input as ``[B, n, q, C]``, zeros behind its end."""
    batch, steps, q = u.shape
    n = -(-steps // chunk)
    return torch.nn.functional.pad(u, (0, 0, 0, n * chunk - steps)).view(batch, n, chunk, q).transpose(2, 3)


class _ChunkStarts(torch.autograd.Function):
    """``s[j+1] = e[j] + s[j] P``: as single operations autograd would keep and add up one small array after the other."""

    @staticmethod
    def forward(ctx: Any, ends: Tensor, state: Tensor, power: Tensor) -> Tensor:
        ctx.save_for_backward(power)
        starts = torch.empty_like(ends)
        rows = starts.unbind(0)
        rows[0].copy_(state)
        for own, before, after in zip(ends.unbind(0), rows, rows[1:], strict=False):
            torch.addmm(own, before, power, out=after)
        return starts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (power,), given = ctx.saved_tensors, gradients[0]
        total = torch.empty_like(given)
        rows, back = total.unbind(0), power.T.contiguous()
        rows[-1].copy_(given[-1])
        for j in range(len(rows) - 2, -1, -1):
            torch.addmm(given[j], rows[j + 1], back, out=rows[j])
        return torch.cat([total[1:], torch.zeros_like(total[:1])]), total[0], None


def _chunk_starts(ends: Tensor, state: Tensor, power: Tensor) -> Tensor:
    """Return the states before each chunk ``[B, n, q, d]``, from the chunks' own final states and ``(Ā^C)ᵀ``."""
    batch, n, q, order = ends.shape
    rows = ends.transpose(0, 1).reshape(n, batch * q, order)
    return _ChunkStarts.apply(rows, state.reshape(batch * q, order), power).view(n, batch, q, order).transpose(0, 1)


def memory_chunked(order: int, theta: float, u: Tensor, state: Tensor, chunk: int = 32) -> Tensor:
    """Return every state ``[B, T, q, d]``, all steps of a chunk at once.

    Parameters
    ----------
    order, theta : int, float
        Legendre order d and window θ (steps).
    u : Tensor
        ``[B, T, q]``; any T, also not a multiple of `chunk`.
    state : Tensor
        ``[B, q, d]`` before the first step.
    chunk : int
        Steps per chunk.
    """
    batch, steps, q = u.shape
    chunk = min(chunk, steps)
    where = (u.dtype, u.device)
    within = _toeplitz(_impulse_response(order, theta, chunk, *where))  # [C, C, d]
    across = _across(order, theta, chunk, *where)
    by_chunk = _in_chunks(u, chunk)
    n = by_chunk.shape[1]
    start = _chunk_starts(by_chunk @ within[:, -1], state, across[-1])
    # one product for both: what a chunk's inputs and its first state give at each of its steps
    kernel = torch.cat([within.reshape(chunk, -1), across.permute(1, 0, 2).reshape(order, -1)])
    states = torch.cat([by_chunk, start], -1) @ kernel
    return states.view(batch, n, q, chunk, order).transpose(2, 3).reshape(batch, n * chunk, q, order)[:, :steps]


def memory_fft(order: int, theta: float, u: Tensor, state: Tensor) -> Tensor:
    """Return every state ``[B, T, q, d]`` by one circular convolution of twice the length (Chilkuri & Eliasmith 2021)."""
    steps = u.shape[1]
    response = torch.fft.rfft(_impulse_response(order, theta, steps, u.dtype, u.device), n=2 * steps, dim=0)  # [F, d]
    states = torch.fft.irfft(torch.fft.rfft(u, n=2 * steps, dim=1)[..., None] * response[:, None], n=2 * steps, dim=1)[:, :steps]
    if state.requires_grad or bool(state.any()):
        states = states + memory_chunked(order, theta, torch.zeros_like(u), state)
    return states


def memory_associative(order: int, theta: float, u: Tensor, state: Tensor) -> Tensor:
    """Return every state ``[B, T, q, d]`` by a scan whose reach doubles: ``m_k ← m_k + m_{k-r} (Ā^r)ᵀ`` for r = 1, 2, 4 …

    The associative scan of Hillis & Steele (1986) for a matrix that is the same at all steps.
    """
    where = (u.dtype, u.device)
    m = u[..., None] * _impulse_response(order, theta, 1, *where)[0]
    m = torch.cat([m[:, :1] + (state @ _power(order, theta, 1, *where))[:, None], m[:, 1:]], 1)
    reach = 1
    while reach < u.shape[1]:
        m = torch.cat([m[:, :reach], m[:, reach:] + m[:, :-reach] @ _power(order, theta, reach, *where)], 1)
        reach *= 2
    return m


Engine = Callable[[int, float, Tensor, Tensor], Tensor]
STATE_ENGINES: Mapping[str, Engine] = {
    **{f"chunked-{c}": functools.partial(memory_chunked, chunk=c) for c in (32, 16, 64)},  # the first where nothing was measured
    "fft": memory_fft,
    "associative": memory_associative,
    "sequential": memory_sequential,
}


def memory_parallel(order: int, theta: float, u: Tensor, state: Tensor) -> Tensor:
    """Return every state ``[B, T, q, d]`` by the form that was measured fastest at such sizes."""
    sizes = (("T", u.shape[1]), ("d", order), ("q", u.shape[2]))
    return STATE_ENGINES[fastest("states", u.device.type, tuple(STATE_ENGINES), sizes)](order, theta, u, state)


def _product(u: Tensor, weights: Tensor) -> Tensor:
    """Return ``Σ_t u[:, t] weights[t]``, ``[B, q, d]``: one matrix product; batched ones of single rows are several times slower."""
    batch, steps, q = u.shape
    return (u.transpose(1, 2).reshape(batch * q, steps) @ weights).view(batch, q, -1)


def memory_at(order: int, theta: float, u: Tensor, state: Tensor, steps: tuple[int, ...]) -> Tensor:
    """Return the states after the named steps alone, ``[B, len(steps), q, d]``.

    The earliest of them is one product with the reversed impulse response; only from there on are states computed one after the other.
    """
    first = min(steps)
    where = (u.dtype, u.device)
    weights = _impulse_response(order, theta, u.shape[1], *where)[: first + 1].flip(0)  # [first + 1, d]
    m = _product(u[:, : first + 1], weights) + state @ _power(order, theta, first + 1, *where)
    if max(steps) == first:
        return m[:, None].expand(-1, len(steps), -1, -1)
    later = memory_parallel(order, theta, u[:, first + 1 : max(steps) + 1], m)
    return torch.cat([m[:, None], later], 1)[:, [k - first for k in steps]]


def memory_mixture(order: int, theta: float, u: Tensor, state: Tensor, steps: tuple[int, ...], weights: Tensor) -> Tensor:
    """Return ``Σ_j w_j m[k_j]`` ``[B, q, d]``, a weighted sum of the states after the named steps.

    The memory is linear and the same at all times, so the inputs are mixed in place of the states: with ``v[r] = Σ_j w_j u[k_j - r]`` it is
    ``Σ_r v[r] Ā^r B̄``, one product however many states there are.

    Parameters
    ----------
    u : Tensor
        ``[B, T, q]``.
    state : Tensor
        ``[B, q, d]`` before the first step.
    steps : tuple of int
        k_j, at least one.
    weights : Tensor
        ``[B, len(steps)]``, or ``[B, len(steps), q]`` of its own for each channel.
    """
    where, reach = (u.dtype, u.device), max(steps) + 1
    weights = weights if weights.ndim == 3 else weights[..., None]
    backwards = u.flip(1)
    mixed = u.new_zeros(len(u), reach, u.shape[2])
    for j, k in enumerate(steps):
        mixed[:, : k + 1] += weights[:, j, None] * backwards[:, u.shape[1] - 1 - k :]
    m = _product(mixed, _impulse_response(order, theta, u.shape[1], *where)[:reach])
    if state.requires_grad or bool(state.any()):
        for j, k in enumerate(steps):
            m = m + weights[:, j, :, None] * (state @ _power(order, theta, k + 1, *where))
    return m


def projected_unfused(order: int, theta: float, u: Tensor, state: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `memory_projected`, by way of all states: the better form where H is large beside q·d."""
    m = memory_parallel(order, theta, u, state)
    return m.flatten(2) @ weight.T, m[:, -1]


def projected_fused(order: int, theta: float, u: Tensor, state: Tensor, weight: Tensor, chunk: int = 32) -> tuple[Tensor, Tensor]:
    """As `memory_projected`, without the states: W times the impulse response is a kernel from inputs to projections.

    Inside a chunk ``p[t] = Σ_s (W Ā^(t-s) B̄) u[s] + (W Ā^(t+1)) m_start``: one product of ``[B n, q (C+d)]`` and ``[q (C+d), C H]``.
    """
    batch, steps, q = u.shape
    chunk, hidden, where = min(chunk, steps), len(weight), (u.dtype, u.device)
    response, across = _impulse_response(order, theta, chunk, *where), _across(order, theta, chunk, *where)
    by_chunk = _in_chunks(u, chunk)  # [B, n, q, C]
    n = by_chunk.shape[1]
    start = _chunk_starts(by_chunk @ response.flip(0), state, across[-1])
    left = steps - (n - 1) * chunk
    end = by_chunk[:, -1, :, :left] @ response[:left].flip(0) + start[:, -1] @ across[left - 1]
    w = weight.view(hidden, q, order)
    lags = torch.einsum("td,hqd->tqh", response, w)
    inner = _toeplitz(lags).permute(2, 0, 1, 3)  # [q, s, t, H]
    outer = torch.einsum("tde,hqe->qdth", across, w)  # [q, d, t, H]
    kernel = torch.cat([inner, outer], 1).reshape(q * (chunk + order), chunk * hidden)
    p = torch.cat([by_chunk, start], -1).reshape(batch * n, -1) @ kernel
    return p.view(batch, n * chunk, hidden)[:, :steps], end


ProjectedEngine = Callable[[int, float, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
PROJECTED_ENGINES: Mapping[str, ProjectedEngine] = {
    **{f"fused-{c}": functools.partial(projected_fused, chunk=c) for c in (32, 16, 64)},
    "unfused": projected_unfused,
}


def memory_projected(order: int, theta: float, u: Tensor, state: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``p[k] = W vec(m[k])`` ``[B, T, H]`` and the final state ``[B, q, d]``, by the form measured fastest at such sizes.

    Parameters
    ----------
    weight : Tensor
        W, ``[H, q·d]``.
    """
    sizes = (("T", u.shape[1]), ("d", order), ("q", u.shape[2]), ("H", len(weight)))
    return PROJECTED_ENGINES[fastest("projected", u.device.type, tuple(PROJECTED_ENGINES), sizes)](order, theta, u, state, weight)
