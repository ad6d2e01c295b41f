"""One PDMU layer of MODEL.md section 1, with every switch of section 5: LMU, PDMU and EPDMU.

`PDMULayer.step` is the definition; the other ways to run it give the same numbers for whole sequences. Symbols: B batch, T steps,
N_x inputs, q channels, d order, n taps, τ dilation, H hidden. State is an argument and a result, never hidden in a module.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pdmu.config import PDMUConfig
from pdmu.nn.delay_gate import (
    DelayState,
    RouteState,
    delay_init,
    delay_sequence,
    delay_step,
    is_empty,
    route_init,
    route_sequence,
    route_step,
    send_sequence,
    send_step,
)
from pdmu.nn.fused import can_fuse, delay_norm_relu
from pdmu.nn.noise import Gumbel
from pdmu.nn.scan import memory_at, memory_mixture, memory_parallel, memory_projected, memory_step
from pdmu.tables import lmu_matrices


class LayerState(NamedTuple):
    """State of a PDMU layer."""

    memory: Tensor  # [B, q, d]
    delay: DelayState | RouteState


def _straight_through(soft: Tensor) -> Tensor:
    """Return one-hot rows at the largest of `soft`, with the gradient of `soft`."""
    hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())  # in this order exactly one-hot


def softmax_of_few(logits: Tensor) -> Tensor:
    """Softmax over a short last axis; with that axis first it runs over long rows, several times faster on a CPU."""
    return torch.softmax(logits.movedim(-1, 0).contiguous(), 0).movedim(0, -1)


class PDMULayer(nn.Module):
    """One PDMU layer, ``[B, T, N_x] → [B, T, H]``: LMU, PDMU and EPDMU, with every switch of `PDMUConfig`.

    Parameters
    ----------
    config : PDMUConfig
    n_inputs : int
        N_x.
    """

    def __init__(self, config: PDMUConfig, n_inputs: int) -> None:
        super().__init__()
        self.config = config
        size = config.channels * config.order
        self.to_memory = nn.Linear(n_inputs, config.channels)  # W_u, b_u
        self.from_memory = nn.Linear(size, config.hidden, bias=False)  # W_m
        self.from_input = nn.Linear(n_inputs, config.hidden)  # W_x, b_h
        # The normalisation takes a bias out again and has a shift of its own, so this one stays 0 in training: its gradient is rounding
        # alone, which the optimiser would scale up to steps like any other's. Export folds the shift into it.
        nn.init.zeros_(self.from_input.bias).requires_grad_(False)
        seen = {"x": n_inputs, "xu": n_inputs + config.channels, "xm": n_inputs + size}[config.gate_input]
        gates = config.taps * (config.channels if config.gate_per_channel else 1)
        self.to_gate = nn.Linear(seen, gates) if config.gate_is_learned else None  # W_g, b_g
        self.norm = nn.BatchNorm1d(config.hidden)
        self.temperature, self.gumbel = config.gumbel_temperature[0], Gumbel()

    @property
    def routed(self) -> bool:
        """Whether each step is sent to one tap only (EPDMU)."""
        return self.config.routed

    @property
    def estimates(self) -> bool:
        """Whether every tap takes part in the gradient though one carries values: the straight-through estimate in training."""
        return self.training and self.config.gate == "straight_through"

    @property
    def delays_memory(self) -> bool:
        """Whether the delay line holds the memory, not its projection: a gate per channel does not commute with W_m."""
        return self.config.gate_per_channel

    def init_state(self, batch: int, like: Tensor) -> LayerState:
        """Empty memory and delay line."""
        c = self.config
        taps = 0 if c.gate == "off" else c.taps
        value = (c.channels, c.order) if self.delays_memory else (c.hidden,)
        line: DelayState | RouteState
        if self.routed:
            line = route_init(batch, taps, c.dilation, c.first_tap, value, like)
        else:
            line = delay_init(batch, taps, c.dilation, c.first_tap, value, (c.channels, 1) if c.gate_per_channel else (), like)
        return LayerState(like.new_zeros(batch, c.channels, c.order), line)

    def anneal(self, progress: float) -> None:
        """Set the Gumbel temperature for a part of the training done, 0 … 1 (geometric between its two ends)."""
        first, last = self.config.gumbel_temperature
        self.temperature = first * (last / first) ** min(1.0, max(0.0, progress))

    def write(self, x: Tensor) -> Tensor:
        """What is written into the memory, u ``[..., q]``."""
        u = self.to_memory(x)
        return torch.relu(u) if self.config.write == "relu" else u

    def gate(self, x: Tensor, u: Tensor, m: Tensor | None, soft: bool = False) -> Tensor:
        """Gate weights ``[..., n]`` (``[..., n, q, 1]`` per channel) of an instant; no taps when the gate is off.

        `m` ``[..., q, d]`` is needed where the gate sees the memory. `soft` keeps the weights that a router (top1) sets to zero.
        """
        c = self.config
        if self.to_gate is None:
            return x.new_full((*x.shape[:-1], c.taps), 1 / c.taps) if c.gate == "uniform" else x.new_zeros((*x.shape[:-1], 0))
        seen = {"x": (x,), "xu": (x, u), "xm": (x, m.flatten(-2) if m is not None else x)}[c.gate_input]
        logits = self.to_gate(torch.cat(seen, -1))
        logits = logits.view(*x.shape[:-1], -1, c.taps)  # [..., 1 or q, n]: softmax over taps
        logits = torch.tanh(logits) if c.gate_tanh else logits
        if c.gate == "sigmoid":
            g = torch.sigmoid(logits)
        elif c.gate == "straight_through":
            noisy = logits + self.gumbel(logits) if self.training else logits  # explores taps
            g = _straight_through(softmax_of_few(noisy / self.temperature))
        else:
            g = softmax_of_few(logits)
            if c.gate == "top1" and not soft:
                g = g * torch.zeros_like(g).scatter(-1, g.argmax(-1, keepdim=True), 1.0)
        return g.transpose(-1, -2)[..., None] if c.gate_per_channel else g[..., 0, :]

    def can_fuse(self, x: Tensor, state: LayerState) -> bool:
        """Whether `fused` gives what `forward` does: one gate for all channels that sees no memory, and nothing on the way yet."""
        c = self.config
        plain = not self.delays_memory and c.gate_input != "xm" and not c.residual
        return plain and can_fuse(self.norm, x, state.delay[0]) and is_empty(state.delay)

    def fused(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """`forward` in training by the compiled layer of `pdmu.nn.fused`."""
        c, length, steps = self.config, state.delay[0].shape[1], x.shape[1]
        u = self.write(x)
        p, end = memory_projected(c.order, c.theta, u, state.memory, self.from_memory.weight)
        g = self.gate(x, u, None, soft=True)
        delays = tuple((tap + c.first_tap) * c.dilation for tap in range(g.shape[2]))
        y = delay_norm_relu(p, g, x, self.from_input, self.norm, delays, self.routed and not self.estimates)
        kept = slice(max(0, steps - length), steps)  # nothing older is still on its way
        return y, LayerState(end, self.deliver(state.delay, p[:, kept], g[:, kept])[0])

    def forward(self, x: Tensor, state: LayerState, valid: Tensor | None = None) -> tuple[Tensor, LayerState]:
        """All steps in parallel; equal to `step` repeated (batch normalisation in evaluation mode).

        Parameters
        ----------
        x : Tensor
            ``[B, T, N_x]``.
        state : LayerState
        valid : Tensor of bool, optional
            ``[B, T]``: steps that belong to their sequence; the others take no part in normalisation statistics.
        """
        if self.training and valid is None and self.can_fuse(x, state):
            return self.fused(x, state)
        pre, after = self.currents(x, state)
        pre = self.normalise(pre, valid)
        return torch.relu(pre + x if self.config.residual else pre), after

    def currents(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Pre-activations ``[B, T, H]`` of all steps, before normalisation."""
        c = self.config
        u = self.write(x)
        if self.delays_memory or c.gate_input == "xm":
            m = memory_parallel(c.order, c.theta, u, state.memory)
            g, end = self.gate(x, u, m), m[:, -1]
            p = m if self.delays_memory else self.from_memory(m.flatten(2))
        else:
            p, end = memory_projected(c.order, c.theta, u, state.memory, self.from_memory.weight)
            g = self.gate(x, u, None)
        line, z = self.deliver(state.delay, p, g)
        return (self.from_memory(z.flatten(2)) if self.delays_memory else z) + self.from_input(x), LayerState(end, line)

    def deliver(self, line: DelayState | RouteState, p: Tensor, g: Tensor) -> tuple[DelayState | RouteState, Tensor]:
        """Send every step's value to the instants its gate names."""
        c = self.config
        if isinstance(line, DelayState):
            return delay_sequence(line, p, g, c.dilation, c.first_tap)
        if self.estimates:
            return send_sequence(line, p, g, c.dilation, c.first_tap)
        weight, choice = g.max(2)
        return route_sequence(line, p, choice, weight, c.dilation, c.first_tap)

    def normalise(self, pre: Tensor, valid: Tensor | None = None) -> Tensor:
        """Batch-normalise ``[B, T, H]`` over all steps, or those that are valid."""
        if valid is None or not self.training:
            return self.norm(pre.flatten(0, 1)).view_as(pre)
        out = torch.zeros_like(pre)
        out[valid] = self.norm(pre[valid])
        return out

    def last(self, x: Tensor, state: LayerState) -> Tensor:
        """Output ``[B, H]`` of the last step only, from the n+1 memory states that it needs or their sum (as Chilkuri & Eliasmith 2021)."""
        c, steps = self.config, x.shape[1]
        taps = 0 if c.gate == "off" else c.taps
        past = [steps - 1 - (tap + c.first_tap) * c.dilation for tap in range(taps)]
        if past and min(past) < 0:  # the line still carries what came before this sequence
            return self(x, state)[0][:, -1]
        u, own = self.write(x), torch.arange(taps, device=x.device)
        if c.gate_input == "xm":  # each gate sees its own state
            m = memory_at(c.order, c.theta, u, state.memory, (steps - 1, *past))  # [B, n + 1, q, d]
            weight = self.gate(x[:, past], u[:, past], m[:, 1:])[:, own, own]  # of every past step's gate its tap towards now
            z = m[:, 0] + (weight.view(*weight.shape, *[1] * (4 - weight.ndim)) * m[:, 1:]).sum(1)
        else:
            now = x.new_ones(len(x), 1, c.channels)
            weight = self.gate(x[:, past], u[:, past], None)[:, own, own] if taps else x.new_zeros(len(x), 0)
            weight = weight.reshape(len(x), taps, c.channels if c.gate_per_channel else 1).expand(-1, -1, c.channels)
            z = memory_mixture(c.order, c.theta, u, state.memory, (steps - 1, *past), torch.cat([now, weight], 1))
        pre = self.norm(self.from_memory(z.flatten(1)) + self.from_input(x[:, -1]))
        return torch.relu(pre + x[:, -1] if c.residual else pre)

    def begin(self, x: Tensor, state: LayerState) -> LayerState:
        """State after a sequence ``[B, T, N_x]`` as to its memory; the rest of it is at rest (truncated training)."""
        m = memory_at(self.config.order, self.config.theta, self.write(x), state.memory, (x.shape[1] - 1,))
        return self.init_state(len(x), x)._replace(memory=m[:, 0])

    def step(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """One instant, ``[B, N_x] → [B, H]``: the definition."""
        pre, after = self.current_step(x, state)
        pre = self.norm(pre)
        return torch.relu(pre + x if self.config.residual else pre), after

    def current_step(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Pre-activation ``[B, H]`` of one instant, before normalisation."""
        c = self.config
        a_bar, b_bar = (torch.as_tensor(v).to(x) for v in lmu_matrices(c.order, c.theta))
        u = self.write(x)
        m = memory_step(a_bar, b_bar, state.memory, u)
        line, z = self.deliver_step(state.delay, m if self.delays_memory else self.from_memory(m.flatten(1)), self.gate(x, u, m))
        return (self.from_memory(z.flatten(1)) if self.delays_memory else z) + self.from_input(x), LayerState(m, line)

    def deliver_step(self, line: DelayState | RouteState, p: Tensor, g: Tensor) -> tuple[DelayState | RouteState, Tensor]:
        """Send one instant's value on, and take what arrives now."""
        c = self.config
        if isinstance(line, DelayState):
            return delay_step(line, p, g, c.dilation, c.first_tap)
        if self.estimates:
            return send_step(line, p, g, c.dilation, c.first_tap)
        weight, choice = g.max(1)
        return route_step(line, p, choice, weight, c.dilation, c.first_tap)
