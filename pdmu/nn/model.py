"""The network of MODEL.md section 1 in torch: trained over whole sequences, stepped one instant at a time, the same numbers.

Symbols: B batch, T steps, N_x inputs, q channels, d order, n taps, τ dilation, H hidden, F mel bins, C channels, S frames per step.
State is an argument and a result, never hidden in a module.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pdmu.config import ConvConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.nn.delay_gate import DelayState, delay_init, delay_sequence, delay_step
from pdmu.nn.scan import memory_chunked, memory_step
from pdmu.tables import lmu_matrices


class LayerState(NamedTuple):
    """State of a PDMU layer."""

    memory: Tensor  # [B, q, d]
    delay: DelayState


class NetState(NamedTuple):
    """State of the whole network."""

    conv: tuple[Tensor, ...]  # per convolution [B, C_in, K_t - s_t, F]
    layers: tuple[LayerState, ...]


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


class PDMULayer(nn.Module):
    """One PDMU layer, ``[B, T, N_x] → [B, T, H]``.

    Parameters
    ----------
    config : PDMUConfig
    n_inputs : int
        N_x.
    """

    def __init__(self, config: PDMUConfig, n_inputs: int) -> None:
        super().__init__()
        self.config = config
        self.to_memory = nn.Linear(n_inputs, config.channels)  # W_u, b_u
        self.from_memory = nn.Linear(config.channels * config.order, config.hidden, bias=False)  # W_m
        self.from_input = nn.Linear(n_inputs, config.hidden)  # W_x, b_h
        self.to_gate = nn.Linear(n_inputs, config.taps) if config.gate == "softmax" else None  # W_g, b_g
        self.norm = nn.BatchNorm1d(config.hidden)

    def init_state(self, batch: int, like: Tensor) -> LayerState:
        """Empty memory and delay line."""
        c = self.config
        taps = 0 if c.gate == "off" else c.taps
        return LayerState(like.new_zeros(batch, c.channels, c.order), delay_init(batch, taps, c.dilation, c.hidden, like))

    def gate(self, x: Tensor) -> Tensor:
        """Gate weights ``[..., n]`` of inputs ``[..., N_x]``; no taps when the gate is off."""
        if self.to_gate is not None:
            return torch.softmax(self.to_gate(x), -1)
        if self.config.gate == "uniform":
            return x.new_full((*x.shape[:-1], self.config.taps), 1 / self.config.taps)
        return x.new_zeros((*x.shape[:-1], 0))

    def forward(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """All steps in parallel; equal to `step` repeated (batch normalisation in evaluation mode)."""
        c = self.config
        m = memory_chunked(c.order, c.theta, self.to_memory(x), state.memory)
        delay, z = delay_sequence(state.delay, self.from_memory(m.flatten(2)), self.gate(x), c.dilation)
        pre = self.norm((z + self.from_input(x)).flatten(0, 1)).view(*z.shape)
        return torch.relu(pre + x if c.residual else pre), LayerState(m[:, -1], delay)

    def step(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """One instant, ``[B, N_x] → [B, H]``: the definition."""
        c = self.config
        a_bar, b_bar = (torch.as_tensor(v).to(x) for v in lmu_matrices(c.order, c.theta))
        m = memory_step(a_bar, b_bar, state.memory, self.to_memory(x))
        delay, z = delay_step(state.delay, self.from_memory(m.flatten(1)), self.gate(x), c.dilation)
        pre = self.norm(z + self.from_input(x))
        return torch.relu(pre + x if c.residual else pre), LayerState(m, delay)


class PDMUNet(nn.Module):
    """Convolutions, PDMU layers and a dense head; logits per model step.

    Parameters
    ----------
    model : ModelConfig
    frontend : FrontendConfig
    dropout : float
        On the layers' outputs, in training only.
    """

    def __init__(self, model: ModelConfig, frontend: FrontendConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.frontend = model, frontend
        shapes, widths = model.conv_shapes(frontend.n_mels), model.layer_inputs(frontend.n_mels)
        self.convs = nn.ModuleList([CausalConv(c, shapes[i][1], shapes[i][0]) for i, c in enumerate(model.conv)])
        self.layers = nn.ModuleList([PDMULayer(p, widths[i]) for i, p in enumerate(model.layers)])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], len(model.labels))

    def init_state(self, batch: int, like: Tensor) -> NetState:
        """State before the first frame."""
        return NetState(
            tuple(cast(CausalConv, c).init_state(batch, like) for c in self.convs),
            tuple(cast(PDMULayer, p).init_state(batch, like) for p in self.layers),
        )

    def forward(self, features: Tensor, state: NetState | None = None, *, return_state: bool = False) -> Tensor | tuple[Tensor, NetState]:
        """Run over whole sequences.

        Parameters
        ----------
        features : Tensor
            ``[B, frames, n_mels]``; frames beyond a multiple of S are not used.
        state : NetState, optional
            Fresh when absent.
        return_state : bool
            Return the final state too.

        Returns
        -------
        logits : Tensor
            ``[B, frames // S, n_labels]``.
        """
        s = self.config.frames_per_step
        features = features[:, : features.shape[1] // s * s]
        before = state or self.init_state(len(features), features)
        x, conv_state, layer_state = features[:, None], [], []
        for conv, kept in zip(self.convs, before.conv, strict=True):
            x, after = conv(x, kept)
            conv_state.append(after)
        y = x.permute(0, 2, 3, 1).flatten(2)  # [B, T, F·C], bin-major
        for layer, line in zip(self.layers, before.layers, strict=True):
            y, moved = layer(self.dropout(y), line)
            layer_state.append(moved)
        logits = self.head(self.dropout(y))
        return (logits, NetState(tuple(conv_state), tuple(layer_state))) if return_state else logits

    def step(self, frames: Tensor, state: NetState) -> tuple[Tensor, NetState]:
        """One model step: frames ``[B, S, n_mels]`` → logits ``[B, n_labels]`` and the next state."""
        x, conv_state, layer_state = frames[:, None], [], []
        for conv, kept in zip(self.convs, state.conv, strict=True):
            x, after = conv(x, kept)
            conv_state.append(after)
        y = x.permute(0, 2, 3, 1).flatten(2)[:, 0]
        for layer, line in zip(self.layers, state.layers, strict=True):
            y, moved = cast(PDMULayer, layer).step(y, line)
            layer_state.append(moved)
        return self.head(y), NetState(tuple(conv_state), tuple(layer_state))
