"""The folder of a training run: what is written when training begins and ends, and read again for export."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdmu.config import from_dict, to_dict
from pdmu.data.manifest import Rejected
from pdmu.data.recipe import Recipe
from pdmu.errors import UserError
from pdmu.files import write_text
from pdmu.nn import checkpoint
from pdmu.nn.evaluate import clip_probabilities, prepare, summarise
from pdmu.nn.model import PDMUNet
from pdmu.nn.report import scores_csv, write_report
from pdmu.nn.snapshot import write_snapshot

if TYPE_CHECKING:
    from pdmu.nn.recordings import Trainer

# Everything a run leaves, and what export adds: none of it may outlive the training it belongs to.
FILES = (
    "checkpoint.pt", "model.pt", "log.jsonl", "log.csv", "rejected.csv", "recordings.csv", "scores.csv", "summary.json", "calibration.npz",
    "validation.npz", "quantisation.json", "report.json", "report.html",
)  # fmt: skip


def clear_run(out: Path) -> None:
    """Remove an earlier run from the folder.

    Raises
    ------
    UserError
        A file cannot be removed.
    """
    for name in FILES:
        try:
            (out / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{out / name}: cannot be removed: {error.strerror or error}; give another --out") from None


def claim_folder(out: Path) -> None:
    """Make the folder of a run, and see that a file can be written there.

    Raises
    ------
    UserError
        It can't.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".claimed").touch()
        (out / ".claimed").unlink()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}; give another --out") from None


def write_rejected(out: Path, rejected: Sequence[Rejected]) -> None:
    """Write ``rejected.csv``: each recording that cannot be used, and why."""
    text = io.StringIO()
    csv.writer(text).writerows([("path", "reason"), *((r.path, r.reason) for r in rejected)])
    write_text(out / "rejected.csv", text.getvalue())


def finish(trainer: Trainer, rejected: Sequence[Rejected]) -> dict[str, Any]:
    """Evaluate the last epoch's averaged weights, write the run's results, model.pt last, and the report; return the summary."""
    recipe, corpus, out = trainer.recipe, trainer.corpus, trainer.run.out
    summary: dict[str, Any] = {
        "task": recipe.task.name,
        "labels": list(recipe.model.labels),
        "epoch": len(trainer.history),
        "epochs": recipe.train.epochs,
        "seed": recipe.train.seed,
        "parameters": sum(p.numel() for p in trainer.net.parameters()),
        "train_clips": len({r.path for r in corpus.train.rows}),
        "rejected": len(rejected),
        "excluded": corpus.excluded,
        "selection": "averaged weights of the last epoch: the validation recordings chose neither weights nor epoch",
    }
    scored = []
    for name, clips in (("validation", corpus.validation), ("extra", corpus.extra)):
        scores, _ = clip_probabilities(recipe, trainer.average, prepare(recipe, clips, trainer.run.device))
        summary[name] = summarise(recipe, clips, scores) if len(clips) else None
        scored.append((name, clips, scores))
    write_text(out / "scores.csv", scores_csv(recipe, scored))
    write_text(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    average = {k: v.detach().cpu() for k, v in trainer.average.state_dict().items()}
    content = {"average": average, "recipe": json.dumps(to_dict(recipe)), "summary": json.dumps(summary)}
    write_snapshot(out, recipe, corpus)
    checkpoint.save(out / "model.pt", content)
    write_report(out)
    return summary


def load_run(out: Path) -> tuple[PDMUNet, Recipe, dict[str, Any]]:
    """Return the network of a finished run in evaluation mode, its recipe, and its summary.

    Raises
    ------
    UserError
        The folder holds no finished run, or one of sequences.
    """
    path = out / "model.pt"
    if not path.exists():
        raise UserError(f"{path}: no such file; train first: pdmu-train RECIPE --manifest M --root DIR --out {out}")
    saved = checkpoint.load(path, needs=("average", "recipe", "summary"))
    if "shift" in saved:
        raise UserError(
            f"{path}: was trained on sequences that no front end makes, and an audio bundle needs one; train a recipe of recordings "
            "(cough, birds …) to export, or write a spiking network as NIR: python -m spiking.nir_export"
        )
    recipe = from_dict(Recipe, json.loads(saved["recipe"]), f"{path} recipe")
    net = PDMUNet(recipe.model, recipe.frontend)
    net.load_state_dict(saved["average"])
    return net.eval(), recipe, json.loads(saved["summary"])
