"""Evaluation of a float network on whole clean recordings, with the pooling and the metrics of the deployed system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pdmu.data.corpus import Clips
from pdmu.data.recipe import Recipe
from pdmu.metrics import auc, balanced_accuracy, clip_scores, confusion_matrix, recall_at_fpr
from pdmu.nn.features import compress_torch

BATCH_FRAMES = 40_000  # frames of a batch of clips, padding included


@dataclass(frozen=True)
class PreparedClips:
    """Features of recordings, batched by like length once for all epochs."""

    clips: Clips
    order: tuple[np.ndarray, ...]  # per batch: positions in `clips`
    features: tuple[torch.Tensor, ...]  # per batch: [n, longest, n_mels]


def prepare(recipe: Recipe, clips: Clips, device: torch.device) -> PreparedClips:
    """Compress whole recordings, each from a fresh front-end state, as a stream that begins with it."""
    by_length = np.argsort(clips.length, kind="stable")
    order: list[np.ndarray] = []
    features: list[torch.Tensor] = []
    first = 0
    while first < len(by_length):
        last = first + 1
        while last < len(by_length) and clips.length[by_length[last]] * (last + 1 - first) <= BATCH_FRAMES:
            last += 1
        chosen = by_length[first:last]
        energies = np.zeros((len(chosen), int(clips.length[chosen].max()), clips.energies.shape[1]), np.float32)
        for row, i in enumerate(chosen):
            energies[row, : clips.length[i]] = clips.energies[clips.start[i] : clips.start[i] + clips.length[i]]
        order.append(chosen)
        features.append(compress_torch(recipe.frontend, torch.from_numpy(energies)).to(device))
        first = last
    return PreparedClips(clips, tuple(order), tuple(features))


def scores_q15(logits: torch.Tensor, head: str) -> np.ndarray:
    """Return a float network's step scores as a bundle gives them: int16 Q15, of logits of any shape ``[..., labels]``."""
    scores = torch.sigmoid(logits) if head == "sigmoid" else torch.softmax(logits, -1)
    return (scores * 32768).round().clamp(max=32767).cpu().numpy().astype(np.int16)


@torch.no_grad()
def clip_probabilities(recipe: Recipe, net: nn.Module, prepared: PreparedClips) -> tuple[np.ndarray, float]:
    """Score every recording.

    Returns
    -------
    scores : ndarray of float64, shape (n, labels)
        Pooled by :func:`pdmu.metrics.clip_scores`, from step scores rounded to Q15 as in the bundle.
    loss : float
        Mean cross-entropy of the clip scores.
    """
    net.eval()
    info = {"clip_pooling": recipe.train.pooling, "head": recipe.model.head, "task": recipe.task.name}
    stride = recipe.model.frames_per_step
    scores = np.zeros((len(prepared.clips), len(recipe.model.labels)))
    for chosen, features in zip(prepared.order, prepared.features, strict=True):
        lengths = torch.from_numpy(prepared.clips.length[chosen])  # a layer that runs backwards begins at each recording's end
        q15 = scores_q15(net(features, lengths=lengths), recipe.model.head)
        for row, i in enumerate(chosen):
            scores[i] = clip_scores(q15[row, : prepared.clips.length[i] // stride], info)
    targets = one_hot(recipe, prepared.clips.target)
    bounded = np.clip(scores, 1e-5, 1 - 1e-5)
    if recipe.model.head == "sigmoid":
        loss = -(targets * np.log(bounded) + (1 - targets) * np.log(1 - bounded))
    else:
        loss = -targets * np.log(bounded) * targets.shape[1]
    return scores, float(loss.mean()) if loss.size else float("nan")


def one_hot(recipe: Recipe, target: np.ndarray) -> np.ndarray:
    """Return class indices as label targets, float64 ``[n, labels]``; a class that is no label has zeros."""
    labels = len(recipe.model.labels)
    return np.concatenate([np.eye(labels), np.zeros((1, labels))])[np.minimum(target, labels)]


def summarise(recipe: Recipe, clips: Clips, scores: np.ndarray) -> dict[str, Any]:
    """Return clip-level metrics as JSON types: per label AUC and recall at 3 % and 1 % false alarms; accuracy where classes compete."""
    targets = one_hot(recipe, clips.target)
    per_label: dict[str, Any] = {}
    for index, label in enumerate(recipe.model.labels):
        y, s = targets[:, index] > 0.5, scores[:, index]
        per_label[label] = {
            "clips": int(y.sum()),
            "auc": number(auc(y, s)),
            "recall_at_3pct": number(recall_at_fpr(y, s, 0.03)[0]),
            "recall_at_1pct": number(recall_at_fpr(y, s, 0.01)[0]),
        }
    result: dict[str, Any] = {"clips": len(clips), "labels": per_label}
    aucs = [v["auc"] for v in per_label.values() if v["auc"] is not None]
    result["auc"] = float(np.mean(aucs)) if aucs else None
    if recipe.model.head == "softmax":
        confusion = confusion_matrix(clips.target, scores.argmax(1), len(recipe.model.labels))
        result["accuracy"] = number(float((scores.argmax(1) == clips.target).mean())) if len(clips) else None
        result["balanced_accuracy"] = number(balanced_accuracy(confusion))
        result["confusion"] = confusion.tolist()
    return result


def number(value: float) -> float | None:
    """Return a float for JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None
