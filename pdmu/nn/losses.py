"""Losses over step logits ``[B, T, labels]``: every step, and the pooled clip score as evaluation pools it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pdmu.metrics import POOL_STEPS

EPS = 1e-5


def smoothed(target: Tensor, head: str, smoothing: float) -> Tensor:
    """Return targets moved towards even chances by `smoothing`."""
    even = 0.5 if head == "sigmoid" else 1 / target.shape[-1]
    return target * (1 - smoothing) + smoothing * even


def step_loss(logits: Tensor, target: Tensor, weight: Tensor, head: Literal["softmax", "sigmoid"], judged: float | None = None) -> Tensor:
    """Mean cross-entropy of the steps.

    Parameters
    ----------
    logits, target : Tensor [B, T, labels]
    weight : Tensor [B, T]
        0 leaves a step out.
    head : {"softmax", "sigmoid"}
    judged : float, optional
        Sum of the weights that the loss is divided by, where these steps are a part of a batch; theirs when absent.
    """
    if head == "sigmoid":
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1)
    else:
        each = -(target * F.log_softmax(logits, -1)).sum(-1)
    return (each * weight).sum() / max(1.0, float(weight.sum()) if judged is None else judged)


def clip_loss(logits: Tensor, target: Tensor, head: Literal["softmax", "sigmoid"], pooling: Literal["max", "mean_logit"]) -> Tensor:
    """Mean cross-entropy of pooled clip scores.

    ``max`` pools to the largest mean score over consecutive steps, ``mean_logit`` to the softmax of the mean log-score, both as
    :func:`pdmu.metrics.clip_scores` does.

    Parameters
    ----------
    logits : Tensor [B, T, labels]
    target : Tensor [B, labels]
    """
    if pooling == "mean_logit":
        log_scores = F.logsigmoid(logits) if head == "sigmoid" else F.log_softmax(logits, -1)
        return -(target * F.log_softmax(log_scores.mean(1), -1)).sum(-1).mean()
    scores = torch.sigmoid(logits) if head == "sigmoid" else torch.softmax(logits, -1)
    window = min(POOL_STEPS, scores.shape[1])
    pooled = F.avg_pool1d(scores.transpose(1, 2), window, 1).amax(-1).clamp(EPS, 1 - EPS)
    # written out: torch's own refuses NaN with an exception, and the trainer reports a diverged loss itself
    return -(target * pooled.log() + (1 - target) * (1 - pooled).log()).mean()
