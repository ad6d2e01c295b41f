"""The network of MODEL.md section 1 in torch: trained over whole sequences, stepped one instant at a time, the same numbers.

Symbols: B batch, T steps, N_x inputs, q channels, d order, n taps, τ dilation, H hidden, F mel bins, C channels, S frames per step.
State is an argument and a result, never hidden in a module.
"""

from __future__ import annotations

import dataclasses
from importlib import metadata
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pdmu.config import ConvConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.nn.delay_gate import (
    DelayState,
    RouteState,
    delay_init,
    delay_sequence,
    delay_step,
    route_init,
    route_sequence,
    route_step,
)
from pdmu.nn.fused import can_fuse, delay_norm_relu
from pdmu.nn.scan import memory_at, memory_mixture, memory_parallel, memory_projected, memory_step
from pdmu.tables import lmu_matrices


class LayerState(NamedTuple):
    """State of a PDMU layer."""

    memory: Tensor  # [B, q, d]
    delay: DelayState | RouteState


class GatedState(NamedTuple):
    """State of an LSTM (h, c) or a GRU (h)."""

    values: tuple[Tensor, ...]  # each [1, B, H]


class NetState(NamedTuple):
    """State of the whole network."""

    conv: tuple[Tensor, ...]  # per convolution [B, C_in, K_t - s_t, F]
    layers: tuple[Any, ...]  # one per layer, of its own kind


class CausalConv(nn.Module):
    """Causal convolution over (time, mel), batch normalisation, ReLU; ``[B, C_in, T, F] → [B, C, T/s_t, ceil(F/s_f)]``."""

    def __init__(self, config: ConvConfig, c_in: int, bins: int) -> None:
        super().__init__()
        self.config, self.c_in, self.bins = config, c_in, bins
        kernel, stride = (config.kernel_time, config.kernel_mel), (config.stride_time, config.stride_mel)
        self.conv = nn.Conv2d(c_in, config.channels, kernel, stride, groups=c_in if config.depthwise else 1, bias=False)
        self.norm = nn.BatchNorm2d(config.channels)
        bins_out = -(-bins // config.stride_mel)
        before = (config.kernel_mel - 1) // 2
        self.mel_pad = (before, max(0, (bins_out - 1) * config.stride_mel + config.kernel_mel - before - bins))

    def init_state(self, batch: int, like: Tensor) -> Tensor:
        """Zero frames before the first."""
        return like.new_zeros(batch, self.c_in, self.config.kernel_time - self.config.stride_time, self.bins)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve a block whose length is a multiple of the time stride; return the output and the next state."""
        full = torch.cat([state, x], 2)
        y = torch.relu(self.norm(self.conv(nn.functional.pad(full, self.mel_pad))))
        return y, full[:, :, full.shape[2] - state.shape[2] :]


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
        self.to_gate = nn.Linear(seen, gates) if config.gate not in ("uniform", "off") else None  # W_g, b_g
        self.norm = nn.BatchNorm1d(config.hidden)
        self.temperature = config.gumbel_temperature[0]

    @property
    def routed(self) -> bool:
        """Whether each step is sent to one tap only (EPDMU)."""
        return self.config.gate in ("top1", "straight_through")

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
            # Gumbel noise explores taps in training; -log of an exponential variate is a Gumbel variate
            noisy = logits - torch.empty_like(logits).exponential_().log() if self.training else logits
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
        return plain and can_fuse(self.norm, x, state.delay[0]) and not (state.delay[0].requires_grad or bool(state.delay[0].any()))

    def fused(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """`forward` in training by the compiled layer of `pdmu.nn.fused`."""
        c, length, steps = self.config, state.delay[0].shape[1], x.shape[1]
        u = self.write(x)
        p, end = memory_projected(c.order, c.theta, u, state.memory, self.from_memory.weight)
        g = self.gate(x, u, None, soft=True)
        delays = tuple((tap + c.first_tap) * c.dilation for tap in range(g.shape[2]))
        y = delay_norm_relu(p, g, x, self.from_input, self.norm, delays, self.routed)
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
        weight, choice = g.max(1)
        return route_step(line, p, choice, weight, c.dilation, c.first_tap)


class GatedLayer(nn.Module):
    """LSTM or GRU under the interface of `PDMULayer`: the baselines that the family is measured against."""

    def __init__(self, config: PDMUConfig, n_inputs: int) -> None:
        super().__init__()
        self.config = config
        self.rnn = (nn.LSTM if config.cell == "lstm" else nn.GRU)(n_inputs, config.hidden, batch_first=True)

    def init_state(self, batch: int, like: Tensor) -> GatedState:
        """Zeros."""
        zero = like.new_zeros(1, batch, self.config.hidden)
        return GatedState((zero, zero) if self.config.cell == "lstm" else (zero,))

    def forward(self, x: Tensor, state: GatedState, valid: Tensor | None = None) -> tuple[Tensor, GatedState]:
        """All steps, ``[B, T, N_x] → [B, T, H]``."""
        y, after = self.rnn(x, state.values if len(state.values) > 1 else state.values[0])
        return y, GatedState(after if isinstance(after, tuple) else (after,))

    def last(self, x: Tensor, state: GatedState) -> Tensor:
        """Output ``[B, H]`` of the last step."""
        return self(x, state)[0][:, -1]

    def step(self, x: Tensor, state: GatedState) -> tuple[Tensor, GatedState]:
        """One instant, ``[B, N_x] → [B, H]``."""
        y, after = self(x[:, None], state)
        return y[:, 0], after


class BidirectionalLayer(nn.Module):
    """Two layers with their own weights, one over the sequence and one over its reverse, side by side (Bi-PDMU). Not causal."""

    def __init__(self, config: PDMUConfig, n_inputs: int) -> None:
        super().__init__()
        self.config = config
        one_way = dataclasses.replace(config, bidirectional=False)
        self.ahead, self.back = cast(Any, build_layer(one_way, n_inputs)), cast(Any, build_layer(one_way, n_inputs))

    def init_state(self, batch: int, like: Tensor) -> Any:
        """State of the layer that runs forwards; the other begins at rest at the sequence's end."""
        return self.ahead.init_state(batch, like)

    def forward(self, x: Tensor, state: Any, valid: Tensor | None = None) -> tuple[Tensor, Any]:
        """All steps, ``[B, T, N_x] → [B, T, 2H]``; a sequence is reversed within its own length."""
        steps = torch.arange(x.shape[1], device=x.device)
        length = valid.sum(1, keepdim=True) if valid is not None else torch.full((len(x), 1), x.shape[1], device=x.device)
        order = torch.where(steps < length, length - 1 - steps, steps)[..., None]  # padding stays behind
        y, after = self.ahead(x, state, valid)
        z, _ = self.back(x.gather(1, order.expand_as(x)), self.back.init_state(len(x), x), valid)
        return torch.cat([y, z.gather(1, order.expand_as(z))], -1), after

    def last(self, x: Tensor, state: Any) -> Tensor:
        """Output ``[B, 2H]`` of both layers after the whole sequence: one has ended at its end, the other at its beginning."""
        return torch.cat([self.ahead.last(x, state), self.back.last(x.flip(1), self.back.init_state(len(x), x))], -1)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Refuse.

        Raises
        ------
        UserError
            Always: the layer needs the end of the sequence first.
        """
        raise UserError(
            "a bidirectional layer needs the end of a sequence before its beginning and cannot run step by step; "
            "train a causal model of the family instead (--set model.family=pdmu)"
        )


def build_layer(config: PDMUConfig, n_inputs: int) -> nn.Module:
    """Return the layer that a configuration names.

    Cells beyond this package's own come from the entry points ``pdmu.cells`` (``spiking`` is one), so that training knows nothing of them.

    Raises
    ------
    UserError
        No installed package provides the cell.
    """
    if config.bidirectional:
        return BidirectionalLayer(config, n_inputs)
    own = {"pdmu": PDMULayer, "lstm": GatedLayer, "gru": GatedLayer}
    if config.cell in own:
        return own[config.cell](config, n_inputs)
    found = list(metadata.entry_points(group="pdmu.cells", name=config.cell))
    if not found:
        raise UserError(f'cell = "{config.cell}": no installed package provides it; install the project anew: pip install -e ".[train]"')
    return cast(nn.Module, found[0].load()(config, n_inputs))


class PDMUNet(nn.Module):
    """Convolutions, recurrent layers and a dense head.

    Parameters
    ----------
    model : ModelConfig
    frontend : FrontendConfig or int
        Where the features come from, or their number for sequences that no front end makes.
    dropout : float
        On the layers' inputs and outputs, in training only.
    """

    def __init__(self, model: ModelConfig, frontend: FrontendConfig | int, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.frontend = model, frontend
        n_inputs = frontend if isinstance(frontend, int) else frontend.n_mels
        shapes, widths = model.conv_shapes(n_inputs), model.layer_inputs(n_inputs)
        self.convs = nn.ModuleList([CausalConv(c, shapes[i][1], shapes[i][0]) for i, c in enumerate(model.conv)])
        self.layers = nn.ModuleList([build_layer(p, widths[i]) for i, p in enumerate(model.layers)])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], len(model.labels))

    def init_state(self, batch: int, like: Tensor) -> NetState:
        """State before the first frame."""
        return NetState(
            tuple(cast(CausalConv, c).init_state(batch, like) for c in self.convs),
            tuple(cast(Any, p).init_state(batch, like) for p in self.layers),
        )

    def anneal(self, progress: float) -> None:
        """Tell every layer how much of the training is done, 0 … 1."""
        for module in self.modules():
            if isinstance(module, PDMULayer):
                module.anneal(progress)

    def forward(
        self,
        features: Tensor,
        state: NetState | None = None,
        *,
        lengths: Tensor | None = None,
        return_state: bool = False,
        tail: int = 0,
    ) -> Tensor | tuple[Tensor, NetState]:
        """Run over whole sequences.

        Parameters
        ----------
        features : Tensor
            ``[B, frames, n_inputs]``; frames beyond a multiple of S are not used.
        state : NetState, optional
            Fresh when absent.
        lengths : Tensor of int64, optional
            ``[B]`` frames of each sequence where they differ; what follows is padding.
        return_state : bool
            Return the final state too.
        tail : int
            Run the layers over the last `tail` steps only (and those that fill their delay lines), the first from the memory it then has,
            the others and all neurons from rest: truncated training of networks whose upper layers and readout look back less far. 0 runs
            everything, as evaluation does.

        Returns
        -------
        logits : Tensor
            ``[B, frames // S, n_labels]`` of every step, or ``[B, n_labels]`` where the readout gives one vector a sequence.
        """
        s = self.config.frames_per_step
        features = features[:, : features.shape[1] // s * s]
        before = state or self.init_state(len(features), features)
        x, conv_state, layer_state = features[:, None], [], []
        for conv, kept in zip(self.convs, before.conv, strict=True):
            x, after = conv(x, kept)
            conv_state.append(after)
        y = x.permute(0, 2, 3, 1).flatten(2)  # [B, T, F·C], bin-major
        readout, steps = self.config.readout, y.shape[1]
        ends = None if lengths is None else (torch.as_tensor(lengths, device=y.device) // s).clamp(min=1)
        valid = None if ends is None or int(ends.min()) == steps else torch.arange(steps, device=y.device) < ends[:, None]
        whole = valid is None and not return_state  # then not every step need be run
        skipped = steps - tail - sum(layer.delay_steps for layer in self.config.layers) if tail and whole else 0
        done = False
        for i, (layer, line) in enumerate(zip(self.layers, before.layers, strict=True)):
            y = self.dropout(y) if i or self.convs else y  # never on raw input
            top = whole and i == len(self.layers) - 1
            if i == 0 and skipped > 0:
                line = cast(Any, layer).begin(y[:, :skipped], line)
                y, ends = y[:, skipped:], None  # whole sequences, so all of them end with the last step
            if top and readout == "last":
                y, done = cast(Any, layer).last(y, line), True
            else:
                y, moved = layer(y, line, valid)
                layer_state.append(moved)
        y = self.dropout(y if done else self._read(y, ends))
        logits = self.head(y)  # linear, so the mean of the logits
        return (logits, NetState(tuple(conv_state), tuple(layer_state))) if return_state else logits

    def _read(self, y: Tensor, ends: Tensor | None) -> Tensor:
        """What the head reads of the top layer's outputs ``[B, T, H]``: every step, or one vector a sequence ``[B, H]``."""
        kind, top = self.config.readout, self.config.layers[-1]
        if kind == "step":
            return y
        if kind == "last":
            at_end = y[:, -1] if ends is None else y[torch.arange(len(y), device=y.device), ends - 1]
            # a layer that ran backwards has its last step at the beginning
            return torch.cat([at_end[:, : top.hidden], y[:, 0, top.hidden :]], 1) if top.bidirectional else at_end
        steps = torch.arange(y.shape[1], device=y.device)
        age = (y.shape[1] if ends is None else ends[:, None]) - 1 - steps  # [T] or [B, T]; negative in the padding
        weight = torch.where(age >= 0, self.config.readout_decay ** age.clamp(min=0).to(y) if kind == "leaky" else 1.0, 0.0).to(y)
        return (weight / weight.sum(-1, keepdim=True)).unsqueeze(-2).matmul(y).squeeze(-2)

    def step(self, frames: Tensor, state: NetState) -> tuple[Tensor, NetState]:
        """One model step: frames ``[B, S, n_inputs]`` → this step's logits ``[B, n_labels]`` and the next state.

        What the readout asks of a whole sequence (its last logits, or their mean) is the caller's to keep.
        """
        x, conv_state, layer_state = frames[:, None], [], []
        for conv, kept in zip(self.convs, state.conv, strict=True):
            x, after = conv(x, kept)
            conv_state.append(after)
        y = x.permute(0, 2, 3, 1).flatten(2)[:, 0]
        for layer, line in zip(self.layers, state.layers, strict=True):
            y, moved = cast(Any, layer).step(y, line)
            layer_state.append(moved)
        return self.head(y), NetState(tuple(conv_state), tuple(layer_state))
