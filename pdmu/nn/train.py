"""``pdmu-train``: a recipe and a manifest in, a trained network and a report out."""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pdmu.config import to_dict
from pdmu.data.batches import Batch, Sampler
from pdmu.data.cache import default_cache_dir
from pdmu.data.corpus import Corpus, load_corpus
from pdmu.data.manifest import read_manifest
from pdmu.data.recipe import Recipe, load_recipe
from pdmu.errors import UserError
from pdmu.files import write_text
from pdmu.nn import checkpoint
from pdmu.nn.evaluate import PreparedClips, clip_probabilities, number, prepare, summarise
from pdmu.nn.features import compress_torch
from pdmu.nn.losses import clip_loss, smoothed, step_loss
from pdmu.nn.model import PDMUNet
from pdmu.nn.results import clear_run, finish, write_rejected

FORMAT = 1


@dataclass(frozen=True)
class RunConfig:
    """Where a run reads and writes, and what is not in the recipe."""

    out: Path
    device: torch.device
    identity: dict[str, Any]  # what must be the same for a run to be continued
    quiet: bool = False  # no progress bars


class Trainer:
    """Trains one network, an epoch at a time, with everything needed to go on in `checkpoint.pt`.

    The batches of an epoch come from (seed, epoch) alone and torch is seeded the same way, so a continued run computes what an
    uninterrupted one does.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus, run: RunConfig) -> None:
        self.recipe, self.corpus, self.run = recipe, corpus, run
        torch.manual_seed(recipe.train.seed)
        self.net = PDMUNet(recipe.model, recipe.frontend, recipe.train.dropout).to(run.device)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        plain = [p for p in self.net.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.train.weight_decay}, {"params": plain, "weight_decay": 0.0}], lr=recipe.train.lr
        )
        self.sampler = Sampler(recipe, corpus.train)
        self.validation: PreparedClips = prepare(recipe, corpus.validation, run.device)
        self.step = 0
        self.history: list[dict[str, Any]] = []

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from what `read_checkpoint` returned."""
        self.net.load_state_dict(saved["net"])
        self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.history = saved["step"], saved["history"]

    def save(self) -> None:
        """Write the checkpoint and the logs."""
        content = {
            "format": FORMAT,
            "identity": self.run.identity,
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "history": self.history,
        }
        checkpoint.save(self.run.out / "checkpoint.pt", content)
        write_text(self.run.out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.history[0]))
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.run.out / "log.csv", text.getvalue())

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a thousandth."""
        cfg = self.recipe.train
        total = cfg.epochs * self.sampler.batches
        warm = max(1, round(cfg.warmup_share * total))
        if step < warm:
            return cfg.lr * (step + 1) / warm
        return cfg.lr * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))

    def fit(self) -> None:
        """Run the epochs that are left."""
        bar = tqdm(total=self.recipe.train.epochs, initial=len(self.history), unit="epoch", disable=self.run.quiet)
        for epoch in range(len(self.history), self.recipe.train.epochs):
            began = time.perf_counter()
            loss = self.train_epoch(epoch)
            line = {"epoch": epoch + 1, "lr": self.learning_rate(self.step - 1), "train_loss": loss}
            line |= self.validate()
            line["seconds"] = round(time.perf_counter() - began, 2)
            self.history.append(line)
            self.save()
            bar.set_postfix({k: f"{v:.3f}" for k, v in line.items() if isinstance(v, float) and k != "lr"})
            bar.update()
            if self.run.quiet:
                print(
                    " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), file=sys.stderr, flush=True
                )
        bar.close()

    def train_epoch(self, epoch: int) -> float:
        """Train on one epoch's batches; return the mean loss."""
        self.net.train()
        torch.manual_seed(self.recipe.train.seed * 1_000_003 + epoch)
        total = 0.0
        for batch in self.sampler.epoch(epoch, self.recipe.train.seed):
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate(self.step)
            loss = self.loss(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise UserError(f"epoch {epoch + 1}: the loss is {value}; use a smaller train.lr (now {self.recipe.train.lr:g})")
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.train.grad_clip)
            self.optimiser.step()
            self.step += 1
            self.update_average()
            total += value
        return total / self.sampler.batches

    def loss(self, batch: Batch) -> torch.Tensor:
        """Weighted sum of the step and the clip loss of a batch."""
        recipe, cfg, device = self.recipe, self.recipe.train, self.run.device
        features = compress_torch(recipe.frontend, torch.from_numpy(batch.energies).to(device)) * torch.from_numpy(batch.keep).to(device)
        logits = self.net(features)
        loss = logits.new_zeros(())
        if cfg.frame_weight:
            target = smoothed(torch.from_numpy(batch.step_target).to(device), recipe.model.head, cfg.label_smoothing)
            weight = torch.from_numpy(batch.step_weight).to(device)
            loss = loss + cfg.frame_weight * step_loss(logits, target, weight, recipe.model.head)
        if cfg.clip_weight:
            target = smoothed(torch.from_numpy(batch.clip_target).to(device), recipe.model.head, cfg.label_smoothing)
            loss = loss + cfg.clip_weight * clip_loss(logits, target, recipe.model.head, cfg.pooling)
        return loss

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights and normalisation statistics towards the current ones; faster in the beginning."""
        decay = min(self.recipe.train.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    def validate(self) -> dict[str, Any]:
        """Evaluate the averaged weights and return the columns of the log; validation chooses nothing."""
        if len(self.corpus.validation) == 0:
            return {}
        scores, loss = clip_probabilities(self.recipe, self.average, self.validation)
        metrics = summarise(self.recipe, self.corpus.validation, scores)
        columns = {"val_loss": number(loss), "val_auc": metrics["auc"]}
        if self.recipe.model.head == "softmax":
            columns |= {"val_accuracy": metrics["accuracy"], "val_balanced_accuracy": metrics["balanced_accuracy"]}
        else:
            for label, values in metrics["labels"].items():
                columns |= {f"val_{label}_recall_at_{p}pct": values[f"recall_at_{p}pct"] for p in (3, 1)}
        return columns


def read_checkpoint(run: RunConfig) -> dict[str, Any] | None:
    """Return the content of the checkpoint in the run's folder, or None where there is none.

    Raises
    ------
    UserError
        It is damaged or belongs to another training, or a finished run lies there without it.
    """
    path = run.out / "checkpoint.pt"
    if not path.exists():
        if (run.out / "model.pt").exists():
            raise UserError(f"{run.out}: holds a finished run without its checkpoint; give another --out, or --fresh to start over")
        return None
    saved = checkpoint.load(path, run.device)
    if saved.get("format") != FORMAT or saved["identity"] != run.identity:
        raise UserError(f"{path}: belongs to another recipe, manifest, seed or fold; give another --out, or --fresh to start over")
    return saved


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``pdmu-train``."""
    parser = argparse.ArgumentParser(
        prog="pdmu-train",
        description="Train a PDMU network from a recipe on the recordings of a manifest.",
        epilog="example: pdmu-train cough --manifest data/manifest.csv --root data --out runs/cough --set train.epochs=40",
    )
    parser.add_argument("recipe", help="name of a shipped recipe (cough, birds, esc10) or a .toml file")
    parser.add_argument("--manifest", type=Path, help="CSV with path,label[,group,source,licence]; default: class folders below --root")
    parser.add_argument("--root", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted run in it is continued")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda …")
    parser.add_argument("--folds", type=int, help="k-fold validation: number of parts")
    parser.add_argument("--fold", type=int, help="with --folds: part to validate on, from 0 (default: 0)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting of the recipe")
    parser.add_argument("--cache", type=Path, default=None, help="folder of cached features")
    parser.add_argument("--fresh", action="store_true", help="start over where the folder holds a run")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train as the command line says; return the summary."""
    changes = [f"train.{key}={getattr(args, key)}" for key in ("epochs", "seed") if getattr(args, key) is not None]
    recipe = load_recipe(args.recipe, (*args.set, *changes))
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    quiet = not sys.stderr.isatty()
    rows, unusable = read_manifest(args.manifest, args.root)
    corpus = load_corpus(
        recipe, rows, args.root, args.cache or default_cache_dir(), folds=args.folds, fold=args.fold or 0,
        progress=lambda r: tqdm(r, unit="file", desc="reading", disable=quiet),
    )  # fmt: skip
    rejected = [*unusable, *corpus.rejected]
    if corpus.excluded:
        reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(corpus.excluded.items()))
        print(f"recordings that the recipe leaves out: {reasons}", file=sys.stderr)
    if rejected:
        first, listed = rejected[0], args.out / "rejected.csv"
        print(f"recordings that cannot be used: {len(rejected)}, see {listed}; the first: {first.path}: {first.reason}", file=sys.stderr)
    identity = {
        "recipe": json.dumps(to_dict(recipe), sort_keys=True),
        "train": [r.path for r in corpus.train.rows],
        "validation": [r.path for r in corpus.validation.rows],
    }
    run = RunConfig(args.out, device, identity, quiet)
    saved = None if args.fresh else read_checkpoint(run)
    if saved is None:
        clear_run(args.out)
    write_rejected(args.out, rejected)  # before anything can fail that the list explains
    trainer = Trainer(recipe, corpus, run)
    if saved is not None:
        trainer.resume(saved)
        print(f"continuing after epoch {len(trainer.history)} of {recipe.train.epochs}", file=sys.stderr)
    trainer.fit()
    return finish(trainer, rejected)


def _figures(validation: dict[str, Any] | None) -> str:
    """Return the figures of the held-out recordings in a few words."""
    if validation is None:
        return "no recording held out"
    figures = {"AUC": validation["auc"], "accuracy": validation.get("accuracy")}
    return ", ".join([f"{validation['clips']} recordings held out", *(f"{k} {v:.3f}" for k, v in figures.items() if v is not None)])


def choose_device(name: str) -> torch.device:
    """Return the device; ``auto`` is CUDA where there is one."""
    try:
        device = torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; use auto or cpu") from None
    return device


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``pdmu-train``; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.fold is not None and args.folds is None:
        parser.error("--fold chooses one of --folds parts: give both")
    if args.threads < 0:
        parser.error("--threads needs a number of CPU threads, or 0 for torch's choice")
    try:
        summary = train(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from the last epoch in {args.out}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(summary))
    else:
        print(f"{summary['task']}: {summary['parameters']:,} parameters, {_figures(summary['validation'])}; see {args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
