"""Training a detector on the recordings of a manifest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from pdmu.config import to_dict
from pdmu.data.batches import Batch, Sampler
from pdmu.data.cache import default_cache_dir
from pdmu.data.corpus import Corpus, load_corpus
from pdmu.data.manifest import read_manifest
from pdmu.data.recipe import Recipe
from pdmu.nn.distributed import Ranks
from pdmu.nn.evaluate import PreparedClips, clip_probabilities, number, prepare, summarise
from pdmu.nn.features import compress_torch
from pdmu.nn.fit import Fit, RunConfig, read_checkpoint
from pdmu.nn.losses import clip_loss, smoothed, step_loss
from pdmu.nn.model import PDMUNet
from pdmu.nn.noise import share_rows
from pdmu.nn.results import clear_run, finish, write_rejected


class Trainer(Fit):
    """Trains one network on segments of recordings."""

    def __init__(self, recipe: Recipe, corpus: Corpus, run: RunConfig) -> None:
        self.recipe, self.corpus = recipe, corpus
        torch.manual_seed(recipe.train.seed)
        self.sampler = Sampler(recipe, corpus.train)
        super().__init__(recipe.train, PDMUNet(recipe.model, recipe.frontend, recipe.train.dropout), run, self.sampler.batches)
        self.validation: PreparedClips = prepare(recipe, corpus.validation, run.device)

    def epoch_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        return self.sampler.epoch(epoch, self.recipe.train.seed)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Weighted sum of the step and the clip loss of this process's segments of a batch."""
        recipe, cfg, device = self.recipe, self.recipe.train, self.run.device
        mine = self.run.ranks.part(len(batch.energies))
        if self.run.ranks.size > 1:
            share_rows(self.net, mine, len(batch.energies))

        def on_device(values: Any) -> torch.Tensor:
            return torch.from_numpy(values[mine]).to(device)

        logits = self.model(compress_torch(recipe.frontend, on_device(batch.energies)) * on_device(batch.keep))
        loss = logits.new_zeros(())
        if cfg.frame_weight:
            target = smoothed(on_device(batch.step_target), recipe.model.head, cfg.label_smoothing)
            judged = float(batch.step_weight.sum())
            loss = loss + cfg.frame_weight * step_loss(logits, target, on_device(batch.step_weight), recipe.model.head, judged)
        if cfg.clip_weight:
            target = smoothed(on_device(batch.clip_target), recipe.model.head, cfg.label_smoothing)
            share = len(logits) / len(batch.energies)
            loss = loss + cfg.clip_weight * share * clip_loss(logits, target, recipe.model.head, cfg.pooling)
        return loss

    def validate(self) -> dict[str, Any]:
        """Evaluate the averaged weights and return the columns of the log."""
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


def train_recordings(recipe: Recipe, args: argparse.Namespace, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Train as the command line says; return the summary.

    Raises
    ------
    UserError
        Recordings, a split, a folder or a setting that cannot be used.
    """
    quiet = not sys.stderr.isatty()

    def load() -> tuple[Corpus, list[Any]]:
        rows, unusable = read_manifest(args.manifest, args.root)
        corpus = load_corpus(
            recipe, rows, args.root, args.cache or default_cache_dir(), folds=args.folds, fold=args.fold or 0,
            progress=lambda r: tqdm(r, unit="file", desc="reading", disable=quiet or not ranks.first),
        )  # fmt: skip
        return corpus, [*unusable, *corpus.rejected]

    corpus, rejected = ranks.in_turn(load)
    if ranks.first:
        _tell(corpus, rejected, args)
    identity = {
        "recipe": json.dumps(to_dict(recipe), sort_keys=True),
        "train": [r.path for r in corpus.train.rows],
        "validation": [r.path for r in corpus.validation.rows],
    }
    run = RunConfig(args.out, device, identity, quiet, ranks)
    saved = ranks.in_turn(lambda: None if args.fresh else read_checkpoint(run))
    if saved is None:
        ranks.from_first(lambda: clear_run(args.out))
    ranks.from_first(lambda: write_rejected(args.out, rejected))  # before anything can fail that the list explains
    trainer = Trainer(recipe, corpus, run)
    if saved is not None:
        trainer.resume(saved)
        if ranks.first:
            print(f"continuing after epoch {len(trainer.history)} of {recipe.train.epochs}", file=sys.stderr)
    trainer.fit()
    return ranks.from_first(lambda: finish(trainer, rejected))


def _tell(corpus: Corpus, rejected: list[Any], args: argparse.Namespace) -> None:
    """Say which recordings take no part, and why."""
    if corpus.excluded:
        reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(corpus.excluded.items()))
        print(f"recordings that the recipe leaves out: {reasons}", file=sys.stderr)
    if rejected:
        first, listed = rejected[0], args.out / "rejected.csv"
        print(f"recordings that cannot be used: {len(rejected)}, see {listed}; the first: {first.path}: {first.reason}", file=sys.stderr)
