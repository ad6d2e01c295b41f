"""Batch normalisation whose training statistics are those of all processes' values together.

With n values of a channel over all processes, ``μ = Σx / n`` and ``σ² = Σ(x - μ)² / n`` (Ioffe & Szegedy 2015) come from differentiable
sums over the processes, so outputs and gradients are those of one process with the whole batch. torch's own `nn.SyncBatchNorm` refuses
tensors on a CPU. Parameters, buffers and evaluation are plain batch normalisation's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverRanks(torch.autograd.Function):
    """``y = Σ_r x_r``; every process's loss depends on every ``x_r``, so the gradient is a sum over the processes too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def _shared_norm(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """Normalise ``[N, C, ...]`` by the statistics of all processes; move the running statistics as batch normalisation does.

    Squared deviations are summed about the shared mean, in a second round: the mean of squares less the square of the mean loses digits.
    """
    dims = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    count = x.new_tensor([x.numel() // x.shape[1]])
    sums = _SumOverRanks.apply(torch.cat([x.sum(dims), count]))
    n = sums[-1].detach()
    mean = sums[:-1] / n
    centred = x - mean.view(shape)
    variance = _SumOverRanks.apply(centred.square().sum(dims)) / n
    with torch.no_grad():
        assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (n / (n - 1).clamp(min=1)), norm.momentum)
    return centred * (norm.weight * torch.rsqrt(variance + norm.eps)).view(shape) + norm.bias.view(shape)


class SharedBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the values of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[N, C]`` or ``[N, C, L]``."""
        return _shared_norm(self, input) if self.training else super().forward(input)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the values of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[N, C, H, W]``."""
        return _shared_norm(self, input) if self.training else super().forward(input)


def share_statistics(net: nn.Module) -> None:
    """Make every batch normalisation below `net` one over all processes, keeping its parameters and statistics.

    All processes must then train in step: the same layers, the same number of times.
    """
    kinds: dict[type, Any] = {nn.BatchNorm1d: SharedBatchNorm1d, nn.BatchNorm2d: SharedBatchNorm2d}
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) not in kinds:
                continue
            shared = kinds[type(child)](child.num_features, eps=child.eps, momentum=child.momentum)
            shared.weight, shared.bias = child.weight, child.bias
            for buffer, value in child.named_buffers():
                setattr(shared, buffer, value)
            setattr(parent, name, shared.train(child.training))
