"""The delay gate: each step's projected memory is sent to n future instants, weighted by that step's gate (MODEL.md section 1).

``z[k] = p[k] + Σ_{i=1..n} g_i[k-iτ] p[k-iτ]``, by n shifted multiply-adds; ``[B, T, n, …]`` is never formed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class DelayState(NamedTuple):
    """Delay line, newest last; both zero before the first step."""

    projected: Tensor  # [B, n*tau, H]
    gates: Tensor  # [B, n*tau, n]


def delay_init(batch: int, taps: int, dilation: int, hidden: int, like: Tensor) -> DelayState:
    """Return an empty delay line on the device and of the type of `like`."""
    steps = taps * dilation
    return DelayState(like.new_zeros(batch, steps, hidden), like.new_zeros(batch, steps, taps))


def delay_step(state: DelayState, p: Tensor, g: Tensor, dilation: int) -> tuple[DelayState, Tensor]:
    """One step: p ``[B, H]``, g ``[B, n]`` → z ``[B, H]``."""
    taps = g.shape[1]
    if taps == 0:
        return state, p
    z = p
    for i in range(1, taps + 1):
        slot = (taps - i) * dilation
        z = z + state.gates[:, slot, i - 1 : i] * state.projected[:, slot]
    after = DelayState(torch.cat([state.projected[:, 1:], p[:, None]], 1), torch.cat([state.gates[:, 1:], g[:, None]], 1))
    return after, z


def delay_sequence(state: DelayState, p: Tensor, g: Tensor, dilation: int) -> tuple[DelayState, Tensor]:
    """All steps at once: p ``[B, T, H]``, g ``[B, T, n]`` → z ``[B, T, H]``; equal to `delay_step` repeated."""
    steps, taps = g.shape[1], g.shape[2]
    line, gates = torch.cat([state.projected, p], 1), torch.cat([state.gates, g], 1)
    z = p
    for i in range(1, taps + 1):
        past = slice((taps - i) * dilation, (taps - i) * dilation + steps)
        z = z + gates[:, past, i - 1 : i] * line[:, past]
    return DelayState(line[:, steps:], gates[:, steps:]), z
