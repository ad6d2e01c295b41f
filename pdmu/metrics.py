"""Measures of clip scores and event lists, numpy only: each is defined once, here.

Labels are 0/1 arrays, scores any real numbers where more means "yes"; times are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdmu.errors import UserError

POOL_STEPS = 8  # a clip's "max" score is the best mean over this many model steps: one loud step alone decides nothing


def clip_pooling(info: Mapping[str, Any]) -> str:
    """Return which pooling `clip_scores` uses for a bundle's ``info``; raises `UserError` for an unknown one."""
    pooling = info.get("clip_pooling") or ("max" if info.get("task") == "cough" or info.get("head") == "sigmoid" else "mean_logit")
    if pooling not in ("max", "mean_logit"):
        raise UserError(f"the bundle's clip_pooling is {pooling!r}, known are max and mean_logit; export it with one of them")
    return str(pooling)


def clip_scores(scores_q15: ArrayLike, info: Mapping[str, Any]) -> NDArray[np.float64]:
    """Pool the scores of one recording into one score a label.

    ``info["clip_pooling"]`` chooses: ``"max"``, the largest mean over 8 consecutive steps (events somewhere in the clip), or
    ``"mean_logit"``, the softmax of the mean log-score over all steps (one class a clip). Without it: ``"max"`` for the task
    ``"cough"`` and for sigmoid heads (``info["head"]``), otherwise ``"mean_logit"``.

    Parameters
    ----------
    scores_q15 : int16 [T, L]
        Scores of the model steps. No steps at all pool to zeros.
    info : mapping
        The bundle's ``info``.

    Returns
    -------
    float64 [L]
        0 … 1.

    Raises
    ------
    UserError
        Unknown pooling.
    """
    scores = np.asarray(scores_q15, np.float64) / 32768
    pooling = clip_pooling(info)
    if not len(scores):
        return np.zeros(scores.shape[1])
    if pooling == "max":
        n = min(POOL_STEPS, len(scores))
        sums = np.cumsum(np.vstack([np.zeros((1, scores.shape[1])), scores]), axis=0)
        return (sums[n:] - sums[:-n]).max(axis=0) / n
    logits = np.log(np.maximum(scores, 0.5 / 32768)).mean(axis=0)  # half a count stands for a score that rounded to zero
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half; NaN when only one class is present."""
    y, s = _pair(labels, scores)
    n_pos, n_neg = int(y.sum()), int((~y).sum())
    if not n_pos or not n_neg:
        return float("nan")
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each distinct score, from 1
    return float((ranks[inverse][y].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def recall_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> tuple[float, float]:
    """Return (recall, threshold) where at most the part `fpr` of the negatives is accepted.

    Accepted means a score strictly above the threshold, which is the highest negative score that must be refused.
    NaN for both when only one class is present.
    """
    y, s = _pair(labels, scores)
    if y.all() or not y.any():
        return float("nan"), float("nan")
    negatives = np.sort(s[~y])[::-1]
    allowed = int(np.floor(fpr * len(negatives) + 1e-9))
    if allowed >= len(negatives):
        return 1.0, float("-inf")
    threshold = float(negatives[allowed])
    return float((s[y] > threshold).mean()), threshold


def det_points(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (thresholds, false-accept rates, miss rates) of a DET curve, one point a distinct score, thresholds rising.

    At a threshold, scores at or above it are accepted.
    """
    y, s = _pair(labels, scores)
    thresholds = np.unique(s)
    positives, negatives = np.sort(s[y]), np.sort(s[~y])
    misses = np.searchsorted(positives, thresholds, side="left") / max(1, len(positives))
    accepts = 1 - np.searchsorted(negatives, thresholds, side="left") / max(1, len(negatives))
    return thresholds, accepts, misses


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Return counts [n_classes, n_classes]: rows the true class, columns the predicted one (indices)."""
    matrix = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(matrix, (np.asarray(true, np.int64), np.asarray(predicted, np.int64)), 1)
    return matrix


def balanced_accuracy(confusion: ArrayLike) -> float:
    """Mean recall over the classes that occur; NaN when none does."""
    counts = np.asarray(confusion, np.float64)
    occurring = counts.sum(axis=1) > 0
    return float((np.diag(counts)[occurring] / counts.sum(axis=1)[occurring]).mean()) if occurring.any() else float("nan")


class EventScore(NamedTuple):
    """Counts of matched events, with the rates made of them."""

    hits: int
    false_alarms: int
    misses: int

    @property
    def precision(self) -> float:
        """Part of the detections that are right; NaN without detections."""
        return self.hits / (self.hits + self.false_alarms) if self.hits + self.false_alarms else float("nan")

    @property
    def recall(self) -> float:
        """Part of the reference events that were found; NaN without reference events."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN when there is nothing on either side."""
        total = 2 * self.hits + self.false_alarms + self.misses
        return 2 * self.hits / total if total else float("nan")


def match_events(reference_s: Sequence[float], detected_s: Sequence[float], tolerance_s: float = 0.2) -> list[tuple[int, int]]:
    """Match detected onsets to reference onsets one to one, as many as possible, no further apart than `tolerance_s`.

    Returns
    -------
    list of (int, int)
        Index into `reference_s`, index into `detected_s`.
    """
    refs, dets = np.argsort(reference_s, kind="stable"), np.argsort(detected_s, kind="stable")
    pairs, i, j = [], 0, 0
    while i < len(refs) and j < len(dets):  # with one tolerance for all, taking the earliest possible pair is optimal
        gap = detected_s[dets[j]] - reference_s[refs[i]]
        if abs(gap) <= tolerance_s + 1e-9:
            pairs.append((int(refs[i]), int(dets[j])))
            i, j = i + 1, j + 1
        elif gap < 0:
            j += 1
        else:
            i += 1
    return pairs


def event_score(reference_s: Sequence[float], detected_s: Sequence[float], tolerance_s: float = 0.2) -> EventScore:
    """Count hits, false alarms and misses of :func:`match_events`."""
    hits = len(match_events(reference_s, detected_s, tolerance_s))
    return EventScore(hits, len(detected_s) - hits, len(reference_s) - hits)


def false_alarms_per_hour(false_alarms: int, duration_s: float) -> float:
    """Return false alarms an hour; NaN for no time at all."""
    return false_alarms * 3600 / duration_s if duration_s > 0 else float("nan")


def _pair(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    y, s = np.asarray(labels).astype(bool), np.asarray(scores, np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"labels {y.shape} and scores {s.shape} must be one-dimensional and equally long")
    if np.isnan(s).any():
        raise ValueError("scores contain NaN")
    return y, s
