"""The report as one HTML page with its plots inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from pdmu.data.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}h2{margin-top:2.2rem}small{color:#666}"""
RATE_TICKS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


def page(recipe: Recipe, report: dict[str, Any], pictures: Mapping[str, np.ndarray]) -> str:
    """Return the page.

    Parameters
    ----------
    recipe : Recipe
    report : dict
        Content of ``report.json``.
    pictures : mapping
        Features ``[frames, n_mels]`` of the worst clips, by path.
    """
    summary = report["summary"]
    parts = [
        f"<h1>{escape(recipe.task.name)}</h1><p>{escape(recipe.task.description)}</p>",
        f"<p>{summary['parameters']:,} parameters, {summary['train_clips']} recordings trained on, weights of epoch {summary['epoch']} of "
        f"{summary['epochs']}, seed {summary['seed']}. <small>{escape(summary['selection'])}.</small></p>",
        _validation(recipe, report),
        "<h2>Curves</h2>" + image(curves(report["history"])),
        _sources("Validation by source", recipe, report["sources"]["validation"]),
        _sources("Recordings kept apart (never trained on, chose nothing)", recipe, report["sources"]["extra"]),
        _quantisation(report["quantisation"]),
        _worst("Worst misses", report["worst"]["misses"], pictures),
        _worst("Worst false alarms", report["worst"]["false_alarms"], pictures),
        _rejected(report),
    ]
    return document(f"{recipe.task.name}: training report", parts)


def document(title: str, parts: Iterable[str]) -> str:
    """Return a page of HTML parts that needs nothing beside it; empty parts are left out."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>\n'
        + "\n".join(p for p in parts if p)
        + "\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; what is not a string is a number, or None."""
    lines = []
    for row in rows:
        cells = (f'<td class="n">{_number(v)}</td>' if not isinstance(v, str) else f"<td>{escape(v)}</td>" for v in row)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>{''.join(lines)}</table>"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _validation(recipe: Recipe, report: dict[str, Any]) -> str:
    metrics = report["summary"]["validation"]
    if not metrics:
        return "<h2>Validation</h2><p>No recording was held out.</p>"
    names = {"clips": "clips", "auc": "AUC", "recall_at_3pct": "recall at 3 % false alarms", "recall_at_1pct": "recall at 1 %"}
    rows = [(label, *(values[k] for k in names)) for label, values in metrics["labels"].items()]
    parts = [f"<h2>Validation</h2><p>{metrics['clips']} recordings.</p>", table(("label", *names.values()), rows)]
    if "confusion" in metrics:
        parts.append(f"<p>Accuracy {_number(metrics['accuracy'])}, balanced {_number(metrics['balanced_accuracy'])}.</p>")
        parts.append(image(confusion(recipe.model.labels, np.array(metrics["confusion"]))))
    parts.append("<h2>Thresholds of the clip score</h2>")
    for label, values in report["labels"].items():
        rows = [(label, f"{t['allowed']:.1%}", t["threshold"], t["recall"], t["false_alarms"]) for t in values["thresholds"]]
        parts.append(table(("label", "false alarms allowed", "threshold", "recall", "false alarms"), rows))
    curves = {label: values["det"] for label, values in report["labels"].items() if values["det"]["misses"]}
    if curves:
        parts.append("<h2>Misses against false alarms (DET)</h2>" + image(_det(curves)))
    return "".join(parts)


def _sources(title: str, recipe: Recipe, rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    labels = recipe.model.labels
    note = f"<p>Part of the clips accepted at each label's threshold ({recipe.train.false_alarm_rate:.1%} false alarms on validation).</p>"
    lines = [(r["source"], r["class"], r["clips"], *(r["accepted"][label] for label in labels)) for r in rows]
    return f"<h2>{escape(title)}</h2>{note}" + table(("source", "class", "clips", *labels), lines)


def _quantisation(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    rows = []
    for label in result["threshold_q15"]:
        before, after = result["float"][label], result["integer"][label]
        rows += [(label, kind, before[kind], after[kind]) for kind in before]
    if "accuracy" in result["float"]:
        rows.append(("all", "accuracy", result["float"]["accuracy"], result["integer"]["accuracy"]))
    note = f"<p>Largest difference of a step's score: {result['largest_step_difference']:.4f}.</p>"
    return "<h2>Accuracy lost by quantisation</h2>" + table(("label", "figure", "float", "integer"), rows) + note


def _worst(title: str, entries: Sequence[dict[str, Any]], pictures: Mapping[str, np.ndarray]) -> str:
    shown = [e for e in entries if e["path"] in pictures]
    return f"<h2>{title}</h2>" + image(_spectrograms(shown, pictures)) if shown else ""


def _rejected(report: dict[str, Any]) -> str:
    parts = []
    if report["rejected"]:
        parts.append(f"<h2>{len(report['rejected'])} recordings that could not be used</h2>")
        parts.append(table(("path", "reason"), [(r["path"], r["reason"]) for r in report["rejected"]]))
    if report["summary"]["excluded"]:
        parts.append("<h2>Recordings the recipe leaves out</h2>")
        parts.append(table(("reason", "recordings"), sorted(report["summary"]["excluded"].items())))
    return "".join(parts)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    return Figure(figsize=(width, height), layout="constrained")


def image(figure: Figure) -> str:
    """Return a figure as a picture inside the page."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"></p>'


def curves(history: Sequence[dict[str, Any]]) -> Figure:
    """Plot loss and validation figures over the epochs; an epoch may lack the latter."""
    names = list(dict.fromkeys(key for line in history for key in line))
    losses = [n for n in names if n in ("train_loss", "val_loss")]
    groups = [losses, [n for n in names if n.startswith("val_") and n != "val_loss"]]
    groups = [group for group in groups if group]  # without validation there is a loss alone
    figure = _figure(4.5 * len(groups), 3.2)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for name in group:
            there = [line for line in history if name in line]
            axes.plot(
                [line["epoch"] for line in there],
                [np.nan if (v := line[name]) is None else v for line in there],
                label=name.replace("_", " "),
            )
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def confusion(labels: Sequence[str], counts: np.ndarray) -> Figure:
    """Plot a confusion matrix ``[true, predicted]`` of counts."""
    size = 2.5 + 0.55 * len(labels)
    figure = _figure(size + 1, size)
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(1, counts.sum(1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            axes.text(j, i, str(count), ha="center", va="center", color="white" if count > counts[i].sum() / 2 else "black")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _det(curves: Mapping[str, dict[str, Any]]) -> Figure:
    """Plot misses against false alarms on normal-deviate axes."""
    deviate = np.vectorize(NormalDist().inv_cdf, otypes=[float])
    low, high = RATE_TICKS[0] / 2, 0.6
    figure = _figure(6, 5.2)
    axes = figure.subplots()
    for label, values in curves.items():
        x, y = (np.clip(values[k], low, high) for k in ("false_alarms", "misses"))
        axes.step(deviate(x), deviate(y), where="post", label=label)
    ticks = deviate(np.array(RATE_TICKS))
    names = [f"{t:.1%}" if t < 0.01 else f"{t:.0%}" for t in RATE_TICKS]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set_xlabel("false alarms (of other clips)")
    axes.set_ylabel("misses")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _spectrograms(entries: Sequence[dict[str, Any]], pictures: Mapping[str, np.ndarray]) -> Figure:
    rows = -(-len(entries) // 4)
    figure = _figure(11, 2.3 * rows)
    grid = figure.subplots(rows, 4, squeeze=False).ravel()
    for axes, entry in zip(grid, entries, strict=False):
        axes.imshow(pictures[entry["path"]].T, aspect="auto", origin="lower", cmap="magma")
        axes.set_title(f"{entry['label']} {entry['score']:.2f} ({entry['class']})\n{entry['path'][-38:]}", fontsize=7)
    for axes in grid:
        axes.set_axis_off()
    return figure
