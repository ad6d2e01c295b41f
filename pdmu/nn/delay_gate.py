"""The delay gate: each step's value is sent to n future instants, weighted by that step's gate (MODEL.md section 1).

``z[k] = p[k] + Σ_i g_i[k-iτ] p[k-iτ]`` over the n taps i = first … first+n-1, in two forms of the same sum. *Gather* (`delay_*`): a line
of past values and gates, n reads a step. *Scatter* (`route_*`): a line of what is still to arrive, one write a step where the gate is at
one tap only (EPDMU). `p` is any value ``[B, …]`` that the gate scales: the projected memory ``[H]`` or the memory itself ``[q, d]``; gates
with more axes than taps (``[n, q, 1]``, a gate per channel) broadcast against it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pdmu.nn import kernels


class DelayState(NamedTuple):
    """Delay line, newest last; both zero before the first step."""

    values: Tensor  # [B, L, ...], L the line's length in steps
    gates: Tensor  # [B, L, n, ...]


class RouteState(NamedTuple):
    """What is still to arrive, next step first; zero before the first step."""

    arriving: Tensor  # [B, L, ...]


def line_steps(taps: int, dilation: int, first: int) -> int:
    """Return the length L of the delay line: the longest delay."""
    return max(0, taps + first - 1) * dilation


def delay_init(batch: int, taps: int, dilation: int, first: int, value: tuple[int, ...], gate: tuple[int, ...], like: Tensor) -> DelayState:
    """Return an empty line of values of shape `value` and gates ``[n, *gate]``, on the device and of the type of `like`."""
    steps = line_steps(taps, dilation, first)
    zero = like.new_zeros(())  # expanded: a long line of a large batch takes no memory before something is on it
    return DelayState(zero.expand(batch, steps, *value), zero.expand(batch, steps, taps, *gate))


def route_init(batch: int, taps: int, dilation: int, first: int, value: tuple[int, ...], like: Tensor) -> RouteState:
    """Return a line on which nothing is under way."""
    return RouteState(like.new_zeros(()).expand(batch, line_steps(taps, dilation, first), *value))


def is_empty(state: DelayState | RouteState) -> bool:
    """Whether nothing is on the line, as at the beginning; a line that gradients flow into is not."""
    values = state[0]
    if values.requires_grad:
        return False
    return not bool((values[:1, :1] if not any(values.stride()) else values).any())


def delay_step(state: DelayState, p: Tensor, g: Tensor, dilation: int, first: int = 1) -> tuple[DelayState, Tensor]:
    """One step: p ``[B, …]``, g ``[B, n, …]`` → z ``[B, …]``."""
    taps = g.shape[1]
    line, gates = torch.cat([state.values, p[:, None]], 1), torch.cat([state.gates, g[:, None]], 1)
    z = p
    for tap in range(taps):
        slot = -1 - (tap + first) * dilation
        z = z + _over(gates[:, slot, tap], p) * line[:, slot]
    return DelayState(line[:, 1:], gates[:, 1:]), z


def delay_sequence(state: DelayState, p: Tensor, g: Tensor, dilation: int, first: int = 1) -> tuple[DelayState, Tensor]:
    """All steps at once: p ``[B, T, …]``, g ``[B, T, n, …]`` → z ``[B, T, …]``; equal to `delay_step` repeated."""
    steps, taps = g.shape[1], g.shape[2]
    line, gates = torch.cat([state.values, p], 1), torch.cat([state.gates, g], 1)
    after = DelayState(line[:, steps:], gates[:, steps:])
    if taps and p.ndim == 3 and g.ndim == 3 and kernels.usable(p, g):
        return after, kernels.gather(line, gates, tuple((tap + first) * dilation for tap in range(taps)))
    z = p
    for tap in range(taps):
        begin = line.shape[1] - steps - (tap + first) * dilation
        past = slice(begin, begin + steps)
        z = z + _over(gates[:, past, tap], p) * line[:, past]
    return after, z


def route_step(state: RouteState, p: Tensor, choice: Tensor, weight: Tensor, dilation: int, first: int = 1) -> tuple[RouteState, Tensor]:
    """One step: p ``[B, …]``, choice ``[B, …]`` (tap, integer), weight ``[B, …]`` → z ``[B, …]``: one write into the line."""
    steps = state.arriving.shape[1]
    line = torch.cat([state.arriving, torch.zeros_like(p)[:, None]], 1)  # the last slot is the longest delay's
    if steps == 0:
        return state, p + _over(weight, p) * p
    slot = ((choice + first) * dilation).view(len(p), 1, *choice.shape[1:], *[1] * (p.ndim - choice.ndim))
    line = line.scatter_add(1, slot.expand(-1, 1, *p.shape[1:]), (_over(weight, p) * p)[:, None])
    return RouteState(line[:, 1:]), p + line[:, 0]


def route_sequence(
    state: RouteState, p: Tensor, choice: Tensor, weight: Tensor, dilation: int, first: int = 1
) -> tuple[RouteState, Tensor]:
    """All steps at once: p ``[B, T, …]``, choice and weight ``[B, T, …]`` → z ``[B, T, …]``; equal to `route_step` repeated."""
    batch, steps = p.shape[:2]
    length = state.arriving.shape[1]
    now = torch.arange(steps, device=p.device).view(1, steps, *[1] * (choice.ndim - 2))
    slot = now + (choice + first) * dilation
    if p.ndim == 3 and kernels.usable(p, weight):
        sent = kernels.route(p, slot, weight, steps + length)
    else:
        # rows of all sequences (and channels) one after the other
        lines, parts = torch.arange(batch, device=p.device).view(batch, *[1] * (choice.ndim - 1)), choice[0, 0].numel()
        row = ((lines * (steps + length) + slot) * parts + torch.arange(parts, device=p.device).view(choice.shape[2:])).flatten()
        value = (_over(weight, p) * p).reshape(row.numel(), -1)
        sent = p.new_zeros(batch * (steps + length) * parts, value.shape[1]).index_add(0, row, value)
        sent = sent.view(batch, steps + length, *p.shape[2:])
    line = torch.cat([sent[:, :length] + state.arriving, sent[:, length:]], 1)
    return RouteState(line[:, steps:]), p + line[:, :steps]


def send_step(state: RouteState, p: Tensor, g: Tensor, dilation: int, first: int = 1) -> tuple[RouteState, Tensor]:
    """`route_step` with gates ``[B, n, …]`` written to every tap: of one-hot gates the same values, and a gradient for each of them."""
    line = torch.cat([state.arriving, torch.zeros_like(p)[:, None]], 1)
    slot = (torch.arange(g.shape[1], device=p.device) + first) * dilation
    line = line.index_add(1, slot, _over(g, p[:, None]) * p[:, None])
    return RouteState(line[:, 1:]), p + line[:, 0]


def send_sequence(state: RouteState, p: Tensor, g: Tensor, dilation: int, first: int = 1) -> tuple[RouteState, Tensor]:
    """All steps of `send_step` at once: p ``[B, T, …]``, g ``[B, T, n, …]`` → z ``[B, T, …]``."""
    steps, taps, length = p.shape[1], g.shape[2], state.arriving.shape[1]
    empty = delay_init(len(p), taps, dilation, first, tuple(p.shape[2:]), tuple(g.shape[3:]), p)
    ahead = (p.new_zeros(()).expand(len(p), length, *p.shape[2:]), g.new_zeros(()).expand(len(p), length, *g.shape[2:]))
    z = delay_sequence(empty, torch.cat([p, ahead[0]], 1), torch.cat([g, ahead[1]], 1), dilation, first)[
        1
    ]  # and what comes after the last step
    z = torch.cat([z[:, :length] + state.arriving, z[:, length:]], 1)
    return RouteState(z[:, steps:]), z[:, :steps]


def _over(gate: Tensor, p: Tensor) -> Tensor:
    """Return a gate with the axes it lacks, so that it scales `p`."""
    return gate.view(*gate.shape, *[1] * (p.ndim - gate.ndim))
