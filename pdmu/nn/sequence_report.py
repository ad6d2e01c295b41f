"""The report of a run of sequences: ``report.html``, one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from pdmu.data.sequence_recipe import SequenceRecipe
from pdmu.nn.report_page import confusion, curves, document, image, table


def sequence_page(recipe: SequenceRecipe, summary: dict[str, Any], history: Sequence[dict[str, Any]]) -> str:
    """Return the page: what was trained, figures of what was held out, curves, and who was taken for whom.

    Parameters
    ----------
    recipe : SequenceRecipe
    summary : dict
        Content of ``summary.json``.
    history : sequence of dict
        Lines of ``log.jsonl``.
    """
    parts = [name for name in ("validation", "test") if summary[name]]
    figures = [(name, *(summary[name][k] for k in ("sequences", "accuracy", "balanced_accuracy", "loss"))) for name in parts]
    about = f"<p>{summary['parameters']:,} parameters, {summary['train_sequences']} sequences trained on, seed {summary['seed']}, epoch "
    about += f"{summary['epoch']} of {summary['epochs']}. <small>{escape(summary['split'])}; {escape(summary['selection'])}.</small></p>"
    limits = f"<p>{escape(recipe.task.limits)}</p>" if recipe.task.limits else ""
    body = [
        f"<h1>{escape(recipe.task.name)}</h1><p>{escape(recipe.task.description)}</p>",
        about,
        limits,
        "<h2>Held out</h2>" + table(("part", "sequences", "accuracy", "balanced accuracy", "loss"), figures) if figures else "",
        "<h2>Curves</h2>" + image(curves(history)),
        *(f"<h2>Confusion, {name}</h2>" + image(confusion(summary["labels"], np.array(summary[name]["confusion"]))) for name in parts),
    ]
    return document(f"{recipe.task.name}: training report", body)
