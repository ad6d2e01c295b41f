"""A model card from a bundle and its run: what it was trained on, under which terms, how it was measured, and where it ends."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pdmu.bundle import Bundle
from pdmu.data.cards import data_set_cards
from pdmu.errors import UserError

Row = Mapping[str, str]
UNMEASURED = """## Measured

No recording was held out of this training, so nothing was measured here: judge the recipe by cross-validation (`pdmu-train … --folds`), and
the model on recordings that it was not trained on (`pdmu-eval`)."""


def model_card(bundle: Bundle, run_dir: Path) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    bundle : Bundle
        As written, with its SHA-256.
    run_dir : Path
        The training run the bundle was just made from: ``recordings.csv`` and, where there was a validation, ``quantisation.json``.

    Raises
    ------
    UserError
        The run's list of recordings cannot be read.
    """
    try:
        with (run_dir / "recordings.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise UserError(f"{run_dir}/recordings.csv: cannot be read ({error}); run pdmu-train to its end again") from None
    trained = [r for r in rows if r["set"] == "train"]
    limits, measured = bundle.info.get("limits", ""), _protocol(bundle, run_dir) if "metrics" in bundle.info else UNMEASURED
    parts = [_head(bundle), _data(rows), measured, _limits(limits), _data_sets(trained), _attribution(trained)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _head(bundle: Bundle) -> str:
    info, model, made = bundle.info, bundle.model, bundle.info["provenance"]
    thresholds = ", ".join(
        f"{label} {t / 32768:.3f}" for label, t in zip(bundle.labels, bundle.detector.threshold_q15, strict=True)
        if label not in bundle.detector.reject_labels
    )  # fmt: skip
    return f"""# {info["name"]} {info["version"]}

{info["description"] or info["task"]}.

| | |
|---|---|
| labels | {", ".join(bundle.labels)} ({model.head}) |
| parameters | {made["parameters"]:,} |
| one score vector every | {1000 * bundle.samples_per_step / bundle.frontend.sample_rate_hz:.0f} ms |
| thresholds as shipped | {thresholds} |
| licence of the model | {info["licence"] or "not stated"} |
| made with | {made["made_with"]}, seed {made["seed"]}, epoch {made["epoch"]} of {made["epochs"]} |
| SHA-256 | `{bundle.sha256}` |"""


def _data(rows: Iterable[Row]) -> str:
    counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for r in rows:
        counts[r["source"], r["class"], _terms(r["licence"])][("train", "validation", "extra").index(r["set"])] += 1
    lines = [f"| {s} | {c} | {licence} | {a} | {b} | {e} |" for (s, c, licence), (a, b, e) in sorted(counts.items())]
    return "\n".join(
        ["## Recordings", "", "`extra` recordings were neither trained on nor used to choose anything.", "",
         "| source | class | terms | trained on | validation | extra |", "|---|---|---|---|---|---|", *lines]
    )  # fmt: skip


def _terms(licence: str) -> str:
    """The licence without the recording's own attribution."""
    return licence.split(" (freesound")[0].replace("|", "/") or "not stated"


def _protocol(bundle: Bundle, run_dir: Path) -> str:
    result = json.loads((run_dir / "quantisation.json").read_text(encoding="utf-8"))
    columns = {"auc": "AUC", "recall_at_3pct": "recall at 3 % false alarms", "recall_at_1pct": "recall at 1 %"}
    lines = []
    for label in bundle.labels:
        for kind in ("float", "integer"):
            lines.append(f"| {label} | {kind} | " + " | ".join(_number(result[kind][label][c]) for c in columns) + " |")
    accuracy = "".join(f" Accuracy, {k}: {_number(result[k]['accuracy'])}." for k in ("float", "integer") if "accuracy" in result[k])
    setting = (
        f"{result['recordings']} validation recordings, of groups that were not trained on ({bundle.info['metrics']['protocol']}). "
        f"Each is heard from a fresh state; its score is pooled by `{bundle.info['clip_pooling']}`.{accuracy}"
    )
    head = ["| label | arithmetic | " + " | ".join(columns.values()) + " |", "|---|---|---|---|---|"]
    difference = f"Largest difference of a score between float and integer arithmetic: {result['largest_step_difference']:.4f}."
    return "\n".join(["## Measured", "", setting, "", *head, *lines, "", difference])


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"


def _limits(limits: str) -> str:
    return f"## Limits\n\n{limits.strip()}" if limits.strip() else ""


def _data_sets(trained: Iterable[Row]) -> str:
    """Whom the data sets' terms ask to name, from their cards."""
    rows = list(trained)
    cards = [c for c in data_set_cards().values() if any(c.holds(r["path"], r["source"]) for r in rows)]
    lines = [f"- **{c.title}**: {c.citation}. {c.source} at {c.commit}. {c.licence}. Use: {c.use}." for c in cards]
    return "\n".join(["## Data sets", "", *lines]) if lines else ""


def _attribution(trained: Iterable[Row]) -> str:
    """Recordings whose terms ask for attribution one by one: Freesound's by name, xeno-canto's by catalogue number."""
    rows = list(trained)
    names = sorted({r["licence"] for r in rows if "(freesound" in r["licence"] and not r["licence"].startswith("CC0")})
    numbers = {number for r in rows if "xeno-canto" in r["source"] for number in re.findall(r"XC\d+", r["path"])}
    if numbers:
        names.append("xeno-canto.org: " + ", ".join(sorted(numbers, key=lambda n: int(n[2:]))))
    if not names:
        return ""
    return "\n".join(["## Attribution", "", "Trained on these recordings among others, with thanks:", "", *(f"- {n}" for n in names)])
