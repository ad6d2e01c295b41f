"""Every kind of layer by its configuration: the project's own, torch's LSTM and GRU beside it, and two layers run against each other."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pdmu.config import PDMUConfig
from pdmu.errors import UserError
from pdmu.nn.layer import PDMULayer


class GatedState(NamedTuple):
    """State of an LSTM (h, c) or a GRU (h)."""

    values: tuple[Tensor, ...]  # each [1, B, H]


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

    def begin(self, x: Tensor, state: GatedState) -> GatedState:
        """State after a sequence (truncated training); these layers have no shorter way to it than through all steps."""
        return self(x, state)[1]

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
