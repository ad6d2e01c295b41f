"""What a bundle's scores and events are worth, against the labels of recordings and the event lists of streams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.channel import Listener
from pdmu.metrics import auc, balanced_accuracy, clip_pooling, confusion_matrix, event_score, false_alarms_per_hour, recall_at_fpr


@dataclass(frozen=True)
class Row:
    """One recording of the manifest."""

    path: str
    label: str
    source: str = ""


@dataclass(frozen=True)
class Clip:
    """A recording with its clip scores."""

    row: Row
    scores: NDArray[np.float64]  # [n_labels]
    duration_s: float


@dataclass(frozen=True)
class Stream:
    """A recording with its event list and what was detected, onsets in seconds by label."""

    row: Row
    duration_s: float
    reference_s: dict[str, list[float]]
    detected_s: dict[str, list[float]]


def wanted_labels(listener: Listener) -> list[str]:
    """Return the labels that make events."""
    return [x for x in listener.bundle.labels if x not in listener.bundle.detector.reject_labels]


def judge_clips(clips: Sequence[Clip], listener: Listener) -> dict[str, Any]:
    """Return clip-level measures per label and source, and for several classes accuracy and confusion."""
    labels = listener.bundle.labels
    scores = np.array([c.scores for c in clips])
    truth = np.array([c.row.label for c in clips])
    sources = np.array([c.row.source for c in clips])
    per_label = {}
    for label in wanted_labels(listener):
        i = labels.index(label)
        accepted = scores[:, i] >= listener.threshold(i)
        per_label[label] = _binary(truth == label, scores[:, i], accepted) | {
            "threshold": listener.threshold(i), "by_source": _by_source(truth == label, accepted, sources),
        }  # fmt: skip
    result: dict[str, Any] = {"n": len(clips), "duration_s": round(sum(c.duration_s for c in clips), 1), "labels": per_label}
    if listener.bundle.model.head == "softmax" and len(labels) > 1:
        result |= _classes(truth, _decisions(scores, listener), labels)
    return result


def _binary(y: NDArray[np.bool_], scores: NDArray[np.float64], accepted: NDArray[np.bool_]) -> dict[str, Any]:
    recall_3, threshold_3 = recall_at_fpr(y, scores, 0.03)
    recall_1, threshold_1 = recall_at_fpr(y, scores, 0.01)
    return {
        "positives": int(y.sum()), "negatives": int((~y).sum()), "auc": auc(y, scores), "recall": _mean(accepted[y]),
        "false_alarm_rate": _mean(accepted[~y]), "recall_at_3_percent": recall_3, "threshold_at_3_percent": threshold_3,
        "recall_at_1_percent": recall_1, "threshold_at_1_percent": threshold_1,
    }  # fmt: skip


def _by_source(y: NDArray[np.bool_], accepted: NDArray[np.bool_], sources: NDArray[np.str_]) -> dict[str, Any]:
    parts = {str(s): sources == s for s in sorted(set(sources.tolist()))}
    return {
        name: {"positives": int((y & at).sum()), "recall": _mean(accepted[y & at]), "negatives": int((~y & at).sum()),
               "false_alarm_rate": _mean(accepted[~y & at])}
        for name, at in parts.items()
    }  # fmt: skip


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _decisions(scores: NDArray[np.float64], listener: Listener) -> NDArray[np.int64]:
    """Return the class of each clip: the best score, or where scores are maxima over time, the best above its threshold, else "other".

    Maxima of different labels come from different moments: "other" nearly always has one.
    """
    bundle = listener.bundle
    if clip_pooling({"head": bundle.model.head, **bundle.info}) == "mean_logit" or "other" not in bundle.labels:
        return scores.argmax(axis=1)
    wanted = np.array([bundle.labels.index(x) for x in wanted_labels(listener)])
    margins = scores[:, wanted] - np.array([listener.threshold(int(i)) for i in wanted])
    return np.where(margins.max(axis=1) >= 0, wanted[margins.argmax(axis=1)], bundle.labels.index("other"))


def _classes(truth: NDArray[np.str_], decisions: NDArray[np.int64], labels: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy over the clips whose label the bundle knows, or may call "other"."""
    fallback = labels.index("other") if "other" in labels else -1
    index = np.array([labels.index(t) if t in labels else fallback for t in truth])
    known = index >= 0
    if not known.any():
        return {"classified": 0}
    matrix = confusion_matrix(index[known], decisions[known], len(labels))
    return {
        "classified": int(known.sum()), "accuracy": float(np.trace(matrix) / matrix.sum()), "balanced_accuracy": balanced_accuracy(matrix),
        "confusion": {"labels": list(labels), "rows_true_columns_predicted": matrix.tolist()},
    }  # fmt: skip


def judge_streams(streams: Sequence[Stream], listener: Listener, tolerance_s: float) -> dict[str, Any]:
    """Return event-based measures per label over all streams together."""
    duration_s = sum(s.duration_s for s in streams)
    result: dict[str, Any] = {"n": len(streams), "duration_s": round(duration_s, 1), "onset_tolerance_s": tolerance_s, "labels": {}}
    for label in wanted_labels(listener):
        scores = [event_score(s.reference_s.get(label, []), s.detected_s.get(label, []), tolerance_s) for s in streams]
        total = type(scores[0])(*(sum(column) for column in zip(*scores, strict=True)))
        result["labels"][label] = total._asdict() | {
            "precision": total.precision, "recall": total.recall, "f1": total.f1,
            "false_alarms_per_hour": false_alarms_per_hour(total.false_alarms, duration_s),
        }  # fmt: skip
    return result


def text_report(result: Mapping[str, Any]) -> str:
    """Return the result as lines for people."""
    lines = [f"{result['bundle']}  backend {result['backend']}"]
    clips, streams = result["clips"], result["streams"]
    if clips:
        titles = ("AUC", "thresh", "recall", "false", "rec@3%", "rec@1%")
        lines.append(f"\n{clips['n']} clips, {clips['duration_s']:.0f} s")
        lines.append(f"{'label':<24}{'pos':>6}{'neg':>6}" + "".join(f"{t:>8}" for t in titles))
        for label, m in clips["labels"].items():
            lines.append(
                f"{label:<24}{m['positives']:>6}{m['negatives']:>6}{m['auc']:>8.4f}{m['threshold']:>8.3f}{m['recall']:>8.3f}"
                f"{m['false_alarm_rate']:>8.3f}{m['recall_at_3_percent']:>8.3f}{m['recall_at_1_percent']:>8.3f}"
            )
            lines += [_source_line(source or "(no source)", s) for source, s in m["by_source"].items()]
        if clips.get("classified"):
            lines.append(f"accuracy {clips['accuracy']:.3f}, balanced {clips['balanced_accuracy']:.3f}; rows true, columns predicted:")
            names, rows = clips["confusion"]["labels"], clips["confusion"]["rows_true_columns_predicted"]
            lines += [f"  {name:<24}" + "".join(f"{n:>6}" for n in row) for name, row in zip(names, rows, strict=True)]
    if streams:
        lines.append(f"\n{streams['n']} streams, {streams['duration_s']:.0f} s, onset tolerance {streams['onset_tolerance_s']} s")
        for label, m in streams["labels"].items():
            rates = f"precision {m['precision']:.3f}  recall {m['recall']:.3f}  F1 {m['f1']:.3f}"
            counts = f"hits {m['hits']}  misses {m['misses']}  false alarms {m['false_alarms']} ({m['false_alarms_per_hour']:.1f}/h)"
            lines.append(f"{label:<24} {rates}  {counts}")
    return "\n".join(lines)


def _source_line(source: str, measures: Mapping[str, Any]) -> str:
    columns = (("recall", "recall", "positives"), ("false", "false_alarm_rate", "negatives"))
    parts = [f"{name} {measures[rate]:.3f} of {measures[of]}" for name, rate, of in columns if measures[of]]
    return f"  {source:<40} " + ", ".join(parts)


def finite(value: Any) -> Any:
    """Replace what JSON cannot say (NaN, infinities) by None, at any depth."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
