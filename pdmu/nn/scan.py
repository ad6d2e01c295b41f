"""The Legendre memory over whole sequences: ``m[k] = m[k-1] Āᵀ + u[k] B̄ᵀ`` (Voelker 2019; Chilkuri & Eliasmith 2021).

`memory_step` is the definition. `memory_sequential` applies it in a loop and is the reference; `memory_chunked` gives the same states by
matrix products: inside a chunk a Toeplitz matrix of the impulse response, across chunks a power of Ā.

Shapes: u ``[B, T, q]``, m ``[B, T, q, d]``, state ``[B, q, d]``.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from pdmu.tables import lmu_matrices

CHUNK = 32  # fastest of 32, 64, 128 for d up to 256 on CPUs; see benchmarks


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


@functools.lru_cache(maxsize=32)
def _chunk_matrices(order: int, theta: float, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``within [C, C, d]`` (input s to state t) and ``across [C, d, d]`` (Āᵀ to the power t+1), float64."""
    a, b = lmu_matrices(order, theta)
    powers = [np.eye(order)]
    for _ in range(chunk):
        powers.append(powers[-1] @ a)
    within = np.zeros((chunk, chunk, order))
    for lag in range(chunk):
        response = powers[lag] @ b
        for t in range(lag, chunk):
            within[t - lag, t] = response
    return within, np.stack([p.T for p in powers[1:]])


def memory_chunked(order: int, theta: float, u: Tensor, state: Tensor, chunk: int = CHUNK) -> Tensor:
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
    within, across = (torch.as_tensor(v).to(u) for v in _chunk_matrices(order, theta, chunk))
    n_chunks = -(-steps // chunk)
    padded = torch.nn.functional.pad(u, (0, 0, 0, n_chunks * chunk - steps))
    by_chunk = padded.view(batch, n_chunks, chunk, q).transpose(2, 3)  # [B, n, q, C]
    local = (by_chunk @ within.reshape(chunk, chunk * order)).view(batch, n_chunks, q, chunk, order)
    starts = [state]
    for c in range(n_chunks - 1):
        starts.append(local[:, c, :, -1] + starts[-1] @ across[-1])
    start = torch.stack(starts, 1)  # [B, n, q, d]
    carried = (start @ across.permute(1, 0, 2).reshape(order, chunk * order)).view(batch, n_chunks, q, chunk, order)
    return (local + carried).transpose(2, 3).reshape(batch, n_chunks * chunk, q, order)[:, :steps]
