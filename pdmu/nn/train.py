"""``pdmu-train``: a recipe and recordings or sequences in, a trained network and a report out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pdmu.config import FAMILIES
from pdmu.data.recipe import parse_recipe, read_table
from pdmu.data.sequences import LOADERS
from pdmu.errors import UserError
from pdmu.nn.distributed import Ranks, join, leave
from pdmu.nn.recordings import train_recordings
from pdmu.nn.sequence_run import train_sequences


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``pdmu-train``."""
    parser = argparse.ArgumentParser(
        prog="pdmu-train",
        description="Train a network of the PDMU family from a recipe, on the recordings of a manifest or on a data set of sequences.",
        epilog="examples:\n"
        "  pdmu-train cough --manifest data/manifest.csv --root data --out runs/cough --set train.epochs=40\n"
        "  pdmu-train psmnist --root data/mnist --out runs/psmnist --family epdmu --seed 2\n"
        "  torchrun --nproc-per-node 2 -m pdmu.nn.train fsdd --root data/fsdd --out runs/fsdd\n"
        f"families: {', '.join(FAMILIES)}\ndata sets of sequences: {', '.join(LOADERS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="name of a shipped recipe (cough, birds, esc10, psmnist, fsdd …) or a .toml file")
    parser.add_argument("--manifest", type=Path, help="CSV with path,label[,group,source,licence]; default: class folders below --root")
    parser.add_argument("--root", type=Path, required=True, help="folder of the recordings or of the data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted run in it is continued")
    parser.add_argument("--family", help="model of the family, instead of the recipe's; the same as --set model.family=…")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda …")
    parser.add_argument("--folds", type=int, help="k-fold validation: number of parts (of sequences: the part is the test set)")
    parser.add_argument("--fold", type=int, help="with --folds, or a recipe that has them: part to hold out, from 0 (default: 0)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting of the recipe")
    parser.add_argument("--cache", type=Path, default=None, help="folder of cached features")
    parser.add_argument("--no-test", action="store_true", help="leave the test set of sequences unread, while settings are being tuned")
    parser.add_argument("--fresh", action="store_true", help="start over where the folder holds a run")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def train(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Train as the command line says; return the summary."""
    changes = [f"train.{key}={getattr(args, key)}" for key in ("epochs", "seed") if getattr(args, key) is not None]
    family = [f"model.family={args.family}"] if args.family else []
    if args.threads:
        torch.set_num_threads(args.threads)
    table = read_table(args.recipe, (*family, *args.set, *changes))
    if args.fold is not None and args.folds is None and not table.data.get("sequence", {}).get("folds"):
        raise UserError("--fold chooses one of several parts: give their number with --folds")
    if not table.of_sequences:
        return train_recordings(parse_recipe(table), args, device, ranks)
    if args.manifest is not None:
        raise UserError(f"--manifest: {table.where} trains on a data set of sequences, which brings its own list; leave it out")
    for key in ("folds", "fold"):
        if getattr(args, key) is not None:
            table.data["sequence"][key] = getattr(args, key)
    return train_sequences(table, args, device, ranks)


def _figures(summary: dict[str, Any]) -> str:
    """Return the figures of what was held out in a few words."""
    if "test" in summary:
        parts = ((name, summary[name]) for name in ("validation", "test"))
        accuracies = [f"{name} accuracy {100 * f['accuracy']:.2f} % of {f['sequences']}" for name, f in parts if f]
        return ", ".join(accuracies) or "nothing held out"
    validation = summary["validation"]
    if validation is None:
        return "no recording held out"
    figures = {"AUC": validation["auc"], "accuracy": validation.get("accuracy")}
    return ", ".join([f"{validation['clips']} recordings held out", *(f"{k} {v:.3f}" for k, v in figures.items() if v is not None)])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``pdmu-train``; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.threads < 0:
        parser.error("--threads needs a number of CPU threads, or 0 for torch's choice")
    ranks = Ranks()
    try:
        ranks, device = join(args.device)
        summary = train(args, device, ranks)
        leave()
    except UserError as error:
        ranks.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        without = " without --fresh" if args.fresh else ""
        ranks.say(f"stopped; the same command{without} goes on from the last finished epoch in {args.out}")
        return 1
    if not ranks.first:
        return 0
    if args.json:
        print(json.dumps(summary))
    else:
        print(f"{summary['task']}: {summary['parameters']:,} parameters, {_figures(summary)}; see {args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
