"""Cross-validate a recipe over groups: every recording is judged by a network that heard no recording of its group.

    python -m benchmarks.cross_validation esc10 --manifest M --root DIR --folds 4

Trains one network a fold (each run can be killed and continued), pools the validation scores of all folds and prints the figures as JSON.
The recipe's settings were not chosen on any one fold, but were chosen on these recordings: figures on strangers' recordings may differ.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT, report
from pdmu.metrics import auc, balanced_accuracy, confusion_matrix, recall_at_fpr


def train_fold(options: argparse.Namespace, fold: int) -> Path:
    """Train one fold, or go on with it, and return its folder."""
    out = options.work / f"{options.recipe}-{fold}"
    command = [sys.executable, "-m", "pdmu.nn.train", options.recipe, "--manifest", options.manifest, "--root", options.root, "--out", out]
    command += ["--folds", str(options.folds), "--fold", str(fold), "--threads", str(options.threads)]
    done = subprocess.run([*map(str, command)], cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"error: fold {fold} ended with status {done.returncode}; the same command goes on from where it was")
    return Path(out)


def validation_scores(run: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Return (labels of the model, true class of each validation recording, scores ``[n, labels]``)."""
    with (run / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["set"] == "validation"]
    labels = [key.removeprefix("score_") for key in rows[0] if key.startswith("score_")]
    return labels, [r["class"] for r in rows], np.array([[float(r[f"score_{label}"]) for label in labels] for r in rows])


def figures(labels: list[str], classes: list[str], scores: np.ndarray) -> dict[str, Any]:
    """Return the pooled figures: per label AUC and recall at 3 % and 1 % of the others; accuracy where labels compete."""
    true = np.array(classes)
    out: dict[str, Any] = {"recordings": len(true), "labels": {}}
    for i, label in enumerate(labels):
        y = true == label
        rates = {"auc": auc(y, scores[:, i])} | {f"recall_at_{p}pct": recall_at_fpr(y, scores[:, i], p / 100)[0] for p in (3, 1)}
        out["labels"][label] = {"recordings": int(y.sum())} | {k: round(float(v), 4) for k, v in rates.items()}
    if len(labels) > 1:
        confusion = confusion_matrix([labels.index(c) for c in classes], scores.argmax(1), len(labels))
        out |= {"accuracy": round(float(np.trace(confusion) / confusion.sum()), 4), "confusion": confusion.tolist()}
        out["balanced_accuracy"] = round(balanced_accuracy(confusion), 4)
        out["recall"] = {label: round(float(confusion[i, i] / max(1, confusion[i].sum())), 4) for i, label in enumerate(labels)}
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description="Cross-validate a recipe over groups of recordings.")
    parser.add_argument("recipe", help="name of a shipped recipe")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "cv", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/cv_RECIPE.json)")
    options = parser.parse_args()
    options.manifest, options.root = options.manifest.resolve(), options.root.resolve()
    parts = [validation_scores(train_fold(options, fold)) for fold in range(options.folds)]
    labels, classes, scores = parts[0][0], [c for _, found, _ in parts for c in found], np.concatenate([s for _, _, s in parts])
    result = {"recipe": options.recipe, "folds": options.folds, **figures(labels, classes, scores)}
    report("cross_validation", result, options.out or RESULTS / f"cv_{options.recipe}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
