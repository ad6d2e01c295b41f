"""The report of a training run: ``report.json``, and ``report.html``, one page that needs nothing beside it.

Everything is read from the run's folder, so a report can be made again at any time (``python -m pdmu.nn.report RUN``), for instance when
export has measured what quantisation cost.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdmu.config import from_dict
from pdmu.data.corpus import Clips
from pdmu.data.recipe import Recipe
from pdmu.errors import UserError
from pdmu.files import write_text
from pdmu.metrics import det_points, recall_at_fpr
from pdmu.nn import checkpoint
from pdmu.nn.evaluate import number
from pdmu.nn.report_page import page
from pdmu.nn.snapshot import read_features

FALSE_ALARM_RATES = (0.10, 0.05, 0.03, 0.01, 0.005)
WORST = 8  # pictures of misses, and of false alarms
DET_POINTS = 200  # of a curve in report.json


def scores_csv(recipe: Recipe, sets: Sequence[tuple[str, Clips, np.ndarray]]) -> str:
    """Return clip scores as CSV: path, set, class, label, source, then one column per label of the model."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("path", "set", "class", "label", "source", *(f"score_{label}" for label in recipe.model.labels)))
    for name, clips, scores in sets:
        for row, target, values in zip(clips.rows, clips.target, scores, strict=True):
            writer.writerow((row.path, name, recipe.classes[target], row.label, row.source, *(f"{v:.6f}" for v in values)))
    return text.getvalue()


def write_report(run: Path) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html`` of a finished run; return the former's content.

    Raises
    ------
    UserError
        The folder holds no finished run, or one of its files is damaged.
    """
    recipe = from_dict(Recipe, json.loads(checkpoint.load(run / "model.pt", needs=("recipe",))["recipe"]), f"{run / 'model.pt'} recipe")
    rows = _table(run / "scores.csv")
    validation = [r for r in rows if r["set"] == "validation"]
    report: dict[str, Any] = {
        "summary": _json(run / "summary.json"),
        "history": [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()],
        "labels": {label: _label_report(recipe, label, validation) for label in recipe.model.labels} if validation else {},
        "sources": {name: _sources(recipe, [r for r in rows if r["set"] == name], validation) for name in ("validation", "extra")},
        "worst": _worst(recipe, validation),
        "rejected": _table(run / "rejected.csv"),
        "quantisation": _json(run / "quantisation.json") if (run / "quantisation.json").exists() else None,
    }
    features = read_features(run / "validation.npz")
    wanted = {w["path"] for kind in report["worst"].values() for w in kind}
    pictures = {p: clip for p, clip in zip(features.path, features.clips(), strict=True) if p in wanted}
    write_text(run / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(run / "report.html", page(recipe, report, pictures))
    return report


def _table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run pdmu-train to its end again") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run pdmu-train to its end again") from None


def _scores(rows: Sequence[dict[str, str]], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are of `label`, and their scores for it."""
    return np.array([r["class"] == label for r in rows], bool), np.array([float(r[f"score_{label}"]) for r in rows])


def threshold(recipe: Recipe, label: str, validation: Sequence[dict[str, str]]) -> float:
    """Return the clip score above which the recipe's part of validation negatives is accepted; NaN without both kinds of clips."""
    return recall_at_fpr(*_scores(validation, label), recipe.train.false_alarm_rate)[1]


def _label_report(recipe: Recipe, label: str, validation: Sequence[dict[str, str]]) -> dict[str, Any]:
    y, s = _scores(validation, label)
    table = []
    for rate in FALSE_ALARM_RATES:
        recall, at = recall_at_fpr(y, s, rate)
        false_alarms = float((s[~y] > at).mean()) if np.isfinite(at) and (~y).any() else None
        table.append({"allowed": rate, "threshold": number(at), "recall": number(recall), "false_alarms": false_alarms})
    det: dict[str, list[float]] = {"false_alarms": [], "misses": []}
    if y.any() and not y.all():  # else there is nothing to miss, or nothing to take for it
        _, accepts, misses = det_points(y, s)
        kept = np.unique(np.linspace(0, len(accepts) - 1, DET_POINTS).round().astype(int))
        det = {"false_alarms": accepts[kept].round(5).tolist(), "misses": misses[kept].round(5).tolist()}
    return {"threshold": number(threshold(recipe, label, validation)), "thresholds": table, "det": det}


def _sources(recipe: Recipe, rows: Sequence[dict[str, str]], validation: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Return, per source and class, how many clips are accepted at each label's threshold."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["source"] or "(none)", row["class"]].append(row)
    result = []
    for (source, name), members in sorted(groups.items()):
        accepted = {}
        for label in recipe.model.labels:
            at = threshold(recipe, label, validation) if validation else float("nan")
            accepted[label] = float((_scores(members, label)[1] > at).mean()) if np.isfinite(at) else None
        result.append({"source": source, "class": name, "clips": len(members), "accepted": accepted})
    return result


def _worst(recipe: Recipe, validation: Sequence[dict[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Return the clips scored worst: of a label with the lowest score for it, and of others with the highest."""
    misses: list[dict[str, Any]] = []
    alarms: list[dict[str, Any]] = []
    for label in recipe.model.labels:
        if label == recipe.task.other:
            continue
        for row in validation:
            entry = {"path": row["path"], "class": row["class"], "label": label, "score": float(row[f"score_{label}"])}
            (misses if row["class"] == label else alarms).append(entry)
    misses.sort(key=lambda e: e["score"])
    alarms.sort(key=lambda e: -e["score"])
    return {"misses": misses[:WORST], "false_alarms": alarms[:WORST]}


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report of a finished run again; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pdmu.nn.report", description="Make report.json and report.html of a training run again."
    )
    parser.add_argument("run", type=Path, help="folder that pdmu-train wrote")
    args = parser.parse_args(argv)
    try:
        write_report(args.run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(args.run / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
