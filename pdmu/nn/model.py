"""The network of MODEL.md section 1 in torch: trained over whole sequences, stepped one instant at a time, the same numbers.

Symbols: B batch, T steps, N_x inputs, q channels, d order, n taps, τ dilation, H hidden, F mel bins, C channels, S frames per step.
State is an argument and a result, never hidden in a module.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pdmu.config import ConvConfig, FrontendConfig, ModelConfig
from pdmu.nn.layer import PDMULayer
from pdmu.nn.layers import build_layer
from pdmu.nn.noise import Dropout


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

    def forward(self, x: Tensor, state: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve a block whose length is a multiple of the time stride; return the output and the next state.

        `valid` ``[B, T/s_t]`` names the outputs that belong to their sequence; the others take no part in normalisation statistics.
        """
        full = torch.cat([state, x], 2)
        y = self.conv(nn.functional.pad(full, self.mel_pad))
        if valid is None or not self.training:
            y = self.norm(y)
        else:
            by_step = y.transpose(1, 2)
            normed = torch.zeros_like(by_step)
            normed[valid] = self.norm(by_step[valid][..., None])[..., 0]
            y = normed.transpose(1, 2)
        return torch.relu(y), full[:, :, full.shape[2] - state.shape[2] :]


def _valid(ends: Tensor | None, steps: int) -> Tensor | None:
    """Return which of `steps` steps are before each sequence's end ``[B, steps]``, or None where all are."""
    if ends is None or int(ends.min()) >= steps:
        return None
    return torch.arange(steps, device=ends.device) < ends[:, None]


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
        self.dropout = Dropout(dropout)
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
            Return the final state too, which is that after the last frame, padding or not.
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
        ends = None if lengths is None else torch.as_tensor(lengths, device=x.device)
        for conv, kept in zip(self.convs, before.conv, strict=True):
            stride = cast(CausalConv, conv).config.stride_time
            ends = None if ends is None else ends // stride
            x, after = conv(x, kept, _valid(ends, x.shape[2] // stride))
            conv_state.append(after)
        y = x.permute(0, 2, 3, 1).flatten(2)  # [B, T, F·C], bin-major
        readout, steps = self.config.readout, y.shape[1]
        ends = None if ends is None else ends.clamp(min=1)
        valid = _valid(ends, steps)
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
