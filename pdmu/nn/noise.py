"""What is drawn inside a network in training: dropout masks and Gumbel noise, of the batch of all processes in each of them.

Every process draws for all rows from the same seed and takes its own, so that several processes train as one does.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class BatchNoise(nn.Module):
    """Base of modules that draw: which rows of the whole batch are this process's."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: tuple[slice, int] | None = None  # this process's rows and their number in all processes; None: all are here

    def draw(self, like: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
        """Return noise of the shape of `like` ``[B, …]``; `fill` draws into a tensor of all rows."""
        part, total = self.rows or (slice(None), len(like))
        return fill(like.new_empty(total, *like.shape[1:]))[part]


def share_rows(net: nn.Module, part: slice, total: int) -> None:
    """Tell everything below `net` that draws which rows of a batch of `total` are this process's."""
    for module in net.modules():
        if isinstance(module, BatchNoise):
            module.rows = part, total


class Dropout(BatchNoise):
    """Set values to zero with probability `p` in training, and scale up the others to keep the mean (Srivastava et al. 2014)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape ``[B, …]``."""
        if not self.training or self.p == 0:
            return x
        return x * self.draw(x, lambda mask: mask.bernoulli_(1 - self.p)) / (1 - self.p)


class Gumbel(BatchNoise):
    """Standard Gumbel noise."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return noise of the shape of the logits ``[B, …]``; -log of an exponential variate is a Gumbel variate."""
        return -self.draw(logits.detach(), lambda noise: noise.exponential_()).log()


