"""From a finished training run to a bundle: quantise, set thresholds on validation, and measure what quantisation cost."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.quantize import FEATURE_SCALE, quantize
from pdmu import __version__
from pdmu.bundle import Bundle, int_model
from pdmu.config import DetectorConfig
from pdmu.data.recipe import Recipe
from pdmu.errors import UserError
from pdmu.files import write_text
from pdmu.int_model import model_init, model_step
from pdmu.metrics import auc, clip_scores, recall_at_fpr
from pdmu.nn.evaluate import number, scores_q15
from pdmu.nn.model import PDMUNet
from pdmu.nn.report import write_report
from pdmu.nn.results import load_run
from pdmu.nn.snapshot import Features, read_features

MIN_THRESHOLD, MAX_THRESHOLD = 1638, 32440  # 0.05 and 0.99 in Q15: few validation clips must not make a detector that never or always fires
Scores = list[NDArray[np.int16]]


def quantize_run(run_dir: Path, name: str | None = None, version: str = "1.0.0") -> Bundle:
    """Quantise the network of a finished run and describe it.

    Also writes ``quantisation.json`` into the run, the same validation recordings through the float network and through the integer
    law, and the run's report anew.

    Parameters
    ----------
    run_dir : Path
        What ``pdmu-train --out`` wrote.
    name, version : str
        For the bundle's info; the name defaults to the task's.

    Raises
    ------
    UserError
        Not a finished run, or a network that cannot be quantised.
    """
    net, recipe, summary = load_run(run_dir)
    calibration, validation = read_features(run_dir / "calibration.npz"), read_features(run_dir / "validation.npz")
    detector = recipe.detector or DetectorConfig((16384,) * len(recipe.model.labels))
    info = _describe(run_dir, recipe, summary) | {"name": name or recipe.task.name, "version": version}
    bundle = quantize(net, (clip * FEATURE_SCALE for clip in calibration.clips()), detector, info)
    if len(validation.length) == 0:
        return bundle
    integer, floating = integer_scores(bundle, validation), float_scores(net, validation)
    bundle = replace(bundle, detector=replace(detector, threshold_q15=thresholds(recipe, detector, validation, integer)))
    result = {
        "recordings": len(validation.length),
        "float": _measure(recipe, info, validation, floating),
        "integer": _measure(recipe, info, validation, integer),
        "largest_step_difference": max(int(np.abs(a.astype(np.int64) - b).max(initial=0)) for a, b in zip(integer, floating, strict=True))
        / 32768,
        "threshold_q15": dict(zip(bundle.labels, bundle.detector.threshold_q15, strict=True)),
    }
    write_text(run_dir / "quantisation.json", json.dumps(result, indent=1) + "\n")
    write_report(run_dir)
    info["metrics"] = {"protocol": summary["selection"], "validation": {k: result[k] for k in ("recordings", "float", "integer")}}
    return replace(bundle, info=info)


def integer_scores(bundle: Bundle, recordings: Features) -> Scores:
    """Return each recording's step scores by the integer law."""
    model = int_model(bundle)
    return [model_step(model, model_init(model), clip)[1] for clip in recordings.clips()]


@torch.no_grad()
def float_scores(net: PDMUNet, recordings: Features) -> Scores:
    """Return each recording's step scores by the float network, rounded to Q15."""
    out = []
    for clip in recordings.clips():
        logits = net(torch.as_tensor(clip * FEATURE_SCALE, dtype=torch.float32)[None])
        assert isinstance(logits, torch.Tensor)
        out.append(scores_q15(logits[0], net.config.head))
    return out


def thresholds(recipe: Recipe, detector: DetectorConfig, recordings: Features, scores: Scores) -> tuple[int, ...]:
    """Return each label's threshold in Q15: the smoothed score that the recipe's part of the other recordings passes.

    Scores are smoothed as the detector smooths them; a recording counts by its largest. Labels without other recordings keep the
    recipe's threshold.
    """
    n = detector.smooth_steps
    peaks = np.array([_smoothed_peak(s, n) for s in scores])
    found = []
    for i, default in enumerate(detector.threshold_q15):
        _, threshold = recall_at_fpr(recordings.target == i, peaks[:, i], recipe.train.false_alarm_rate)
        found.append(default if not np.isfinite(threshold) else int(np.clip(np.floor(threshold) + 1, MIN_THRESHOLD, MAX_THRESHOLD)))
    return tuple(found)


def _smoothed_peak(scores: NDArray[np.int16], n: int) -> NDArray[np.float64]:
    sums = np.cumsum(np.vstack([np.zeros((n, scores.shape[1])), scores.astype(np.float64)]), axis=0)
    return np.asarray((sums[n:] - sums[:-n]).max(axis=0) / n)


def _measure(recipe: Recipe, info: dict[str, Any], recordings: Features, scores: Scores) -> dict[str, Any]:
    pooled = np.array([clip_scores(s, info) for s in scores])
    out: dict[str, Any] = {}
    for i, label in enumerate(recipe.model.labels):
        y = recordings.target == i
        rates = {"auc": auc(y, pooled[:, i])} | {f"recall_at_{p}pct": recall_at_fpr(y, pooled[:, i], p / 100)[0] for p in (3, 1)}
        out[label] = {k: number(round(v, 4)) for k, v in rates.items()}
    if recipe.model.head == "softmax":
        out["accuracy"] = round(float((pooled.argmax(1) == recordings.target).mean()), 4)
    return out


def _describe(run_dir: Path, recipe: Recipe, summary: dict[str, Any]) -> dict[str, Any]:
    """Everything a bundle says of itself that its tensors do not."""
    try:
        with (run_dir / "recordings.csv").open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if r["set"] == "train"]
    except (OSError, KeyError, csv.Error) as error:
        raise UserError(f"{run_dir}/recordings.csv: cannot be read ({error}); run pdmu-train to its end again") from None
    aliases = {label: name for name in recipe.model.labels for label in recipe.task.mapping.get(name, ()) if label not in ("*", name)}
    return {
        "task": recipe.task.name,
        "description": recipe.task.description,
        "limits": recipe.task.limits,
        "licence": recipe.task.licence,
        "head": recipe.model.head,
        "clip_pooling": recipe.train.pooling,
        "aliases": aliases,
        "provenance": {
            "made_with": f"pdmu {__version__}",
            "seed": summary["seed"],
            "epochs": summary["epochs"],
            "epoch": summary["epoch"],
            "parameters": summary["parameters"],
            "recordings": dict(sorted(Counter(r["source"] for r in rows).items())),
        },
    }
