"""Training a classifier of sequences, and the folder that such a run leaves.

The test set is read once: by `finish`, after the last epoch. Validation chooses neither weights nor epoch; settings are tuned on it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from pdmu.config import from_dict, to_dict
from pdmu.data.recipe import RecipeTable
from pdmu.data.sequence_recipe import SequenceRecipe, SequenceTrainConfig, parse_data, parse_sequence_recipe
from pdmu.data.sequences import SequenceCorpus, SequenceSet, load_sequences
from pdmu.errors import UserError
from pdmu.files import write_text
from pdmu.metrics import balanced_accuracy, confusion_matrix
from pdmu.nn import checkpoint
from pdmu.nn.distributed import Ranks
from pdmu.nn.evaluate import number
from pdmu.nn.fit import Fit, RunConfig, read_checkpoint
from pdmu.nn.losses import smoothed
from pdmu.nn.model import PDMUNet
from pdmu.nn.noise import share_rows
from pdmu.nn.results import claim_folder, clear_run, load_run
from pdmu.nn.sequence_report import sequence_page

EVALUATION_STEPS = 100_000  # steps of a batch that is evaluated, padding included
SELECTION = "averaged weights of the last epoch: validation chose neither weights nor epoch; the test set was "


class SequenceBatch(NamedTuple):
    """One batch."""

    values: np.ndarray  # float32 [B, T, N_x], scaled
    length: np.ndarray  # int64 [B]
    target: np.ndarray  # float32 [B, labels], probabilities


class SequenceTrainer(Fit):
    """Trains one network on sequences."""

    def __init__(self, recipe: SequenceRecipe, corpus: SequenceCorpus, run: RunConfig) -> None:
        self.recipe, self.corpus = recipe, corpus
        torch.manual_seed(recipe.train.seed)
        net = PDMUNet(recipe.model, corpus.inputs, recipe.train.dropout)
        super().__init__(recipe.train, net, run, max(1, len(corpus.train) // recipe.train.batch))

    def epoch_batches(self, epoch: int) -> Iterator[SequenceBatch]:
        """Yield the batches of an epoch: every training sequence once, but for those that fill no whole batch."""
        cfg, rng = self.recipe.train, np.random.default_rng([self.recipe.train.seed, epoch])
        order = rng.permutation(len(self.corpus.train))
        size = min(cfg.batch, len(order))
        for i in range(self.batches):
            yield self._augmented(rng, scaled(self.corpus, self.corpus.train, order[i * size : (i + 1) * size]), cfg)

    def _augmented(self, rng: np.random.Generator, batch: SequenceBatch, cfg: SequenceTrainConfig) -> SequenceBatch:
        """Change a batch as the recipe says; everything random is drawn here, for the whole batch."""
        x, length, target = batch
        if cfg.time_shift:
            shift = rng.integers(-cfg.time_shift, cfg.time_shift + 1, len(x))
            source = np.arange(x.shape[1]) - shift[:, None]
            inside = (source >= 0) & (source < length[:, None])
            x = np.take_along_axis(x, np.where(inside, source, 0)[..., None], 1) * inside[..., None]
        if cfg.noise:
            sounding = np.arange(x.shape[1]) < length[:, None]
            x = x + np.float32(cfg.noise) * rng.standard_normal(x.shape, np.float32) * sounding[..., None]
        if cfg.input_dropout:
            x = x * (rng.random(x.shape, np.float32) >= cfg.input_dropout) * np.float32(1 / (1 - cfg.input_dropout))
        if cfg.mixup_alpha:
            share = rng.beta(cfg.mixup_alpha, cfg.mixup_alpha, len(x)).astype(np.float32)
            other = rng.permutation(len(x))
            x = x * share[:, None, None] + x[other] * (1 - share)[:, None, None]
            target = target * share[:, None] + target[other] * (1 - share)[:, None]
            length = np.maximum(length, length[other])
        return SequenceBatch(x.astype(np.float32, copy=False), length, target)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Mean cross-entropy of the batch's sequences, as far as they are this process's."""
        cfg, device, mine = self.recipe.train, self.run.device, self.run.ranks.part(len(batch.values))
        if self.run.ranks.size > 1:
            share_rows(self.net, mine, len(batch.values))
        x, length = (torch.from_numpy(v[mine]).to(device) for v in (batch.values, batch.length))
        target = smoothed(torch.from_numpy(batch.target[mine]).to(device), "softmax", cfg.label_smoothing)
        logits = self.model(x, lengths=length, tail=cfg.tail)
        return cross_entropy(logits, target, length // self.recipe.model.frames_per_step).sum() / len(batch.values)

    def validate(self) -> dict[str, Any]:
        """Evaluate the averaged weights and return the columns of the log."""
        last = len(self.history) + 1 == self.recipe.train.epochs
        if len(self.corpus.validation) == 0 or ((len(self.history) + 1) % self.recipe.train.validate_every and not last):
            return {}
        figures = evaluate(self.average, self.corpus, self.corpus.validation, self.run.device)
        return {"val_loss": figures["loss"], "val_accuracy": figures["accuracy"]}


def scaled(corpus: SequenceCorpus, sequences: SequenceSet, chosen: np.ndarray) -> SequenceBatch:
    """Return sequences by position as the network takes them, zeros behind their ends."""
    length = sequences.length[chosen]
    x = (sequences.padded(chosen) - corpus.shift) * corpus.scale
    if int(length.min()) < x.shape[1]:
        x *= (np.arange(x.shape[1]) < length[:, None])[..., None]
    return SequenceBatch(x, length, np.eye(len(corpus.labels), dtype=np.float32)[sequences.target[chosen]])


def cross_entropy(logits: Tensor, target: Tensor, steps: Tensor) -> Tensor:
    """Return each sequence's cross-entropy ``[B]``.

    Parameters
    ----------
    logits : Tensor
        ``[B, labels]``, or ``[B, T, labels]`` of every step: then the mean over the sequence's own steps.
    target : Tensor
        ``[B, labels]`` probabilities.
    steps : Tensor of int64
        ``[B]`` model steps of each sequence.
    """
    if logits.ndim == 2:
        return -(target * F.log_softmax(logits, -1)).sum(-1)
    each = -(target[:, None] * F.log_softmax(logits, -1)).sum(-1)
    steps = steps.clamp(min=1)
    return (each * (torch.arange(each.shape[1], device=each.device) < steps[:, None])).sum(1) / steps


@torch.no_grad()
def scores(net: PDMUNet, corpus: SequenceCorpus, sequences: SequenceSet, device: torch.device) -> np.ndarray:
    """Return log-probabilities of whole sequences ``[n, labels]``; of a network with logits every step, their mean over time."""
    net.eval()
    out = np.zeros((len(sequences), len(corpus.labels)))
    by_length = np.argsort(sequences.length, kind="stable")
    first = 0
    while first < len(by_length):
        last = first + 1
        while last < len(by_length) and sequences.length[by_length[last]] * (last + 1 - first) <= EVALUATION_STEPS:
            last += 1
        chosen = by_length[first:last]
        batch = scaled(corpus, sequences, chosen)
        logits = net(torch.from_numpy(batch.values).to(device), lengths=torch.from_numpy(batch.length).to(device))
        log = F.log_softmax(logits, -1)
        if log.ndim == 3:
            steps = torch.from_numpy(batch.length // net.config.frames_per_step).to(device).clamp(min=1)
            log = (log * (torch.arange(log.shape[1], device=device) < steps[:, None])[..., None]).sum(1) / steps[:, None]
        out[chosen] = log.cpu().numpy()
        first = last
    return out


def evaluate(net: PDMUNet, corpus: SequenceCorpus, sequences: SequenceSet, device: torch.device) -> dict[str, Any]:
    """Return the figures of sequences as JSON types."""
    log = scores(net, corpus, sequences, device)
    confusion = confusion_matrix(sequences.target, log.argmax(1), len(corpus.labels))
    return {
        "sequences": len(sequences),
        "accuracy": float((log.argmax(1) == sequences.target).mean()),
        "balanced_accuracy": number(balanced_accuracy(confusion)),
        "loss": float(-log[np.arange(len(log)), sequences.target].mean()),
        "confusion": confusion.tolist(),
    }


def finish(trainer: SequenceTrainer, table: RecipeTable, read_test: bool = True) -> dict[str, Any]:
    """Evaluate the last epoch's averaged weights and write the run's results, model.pt last; return the summary.

    The test set is evaluated here and nowhere else, and not at all where a run that tunes settings leaves it unread.
    """
    recipe, corpus, out = trainer.recipe, trainer.corpus, trainer.run.out
    seconds = sum(line["train_seconds"] for line in trainer.history)
    batch = min(recipe.train.batch, len(corpus.train))
    steps = float(corpus.train.length.mean()) * batch * trainer.batches * len(trainer.history)
    summary: dict[str, Any] = {
        "task": recipe.task.name,
        "data": recipe.sequence.data,
        "family": table.family,
        "labels": list(corpus.labels),
        "inputs": corpus.inputs,
        "epoch": len(trainer.history),
        "epochs": recipe.train.epochs,
        "seed": recipe.train.seed,
        "parameters": sum(p.numel() for p in trainer.net.parameters()),
        "train_sequences": len(corpus.train),
        "split": corpus.split,
        "selection": SELECTION + ("read once, after it" if read_test else "left unread"),
        "seconds": round(seconds, 1),
        "steps_per_s": round(steps / max(seconds, 1e-9)),
        "threads": torch.get_num_threads(),
        "device": trainer.run.device.type,
    }
    for name, part in (("validation", corpus.validation), ("test", corpus.test if read_test else None)):
        summary[name] = evaluate(trainer.average, corpus, part, trainer.run.device) if part else None
    write_text(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    content = {
        "average": {k: v.detach().cpu() for k, v in trainer.average.state_dict().items()},
        "recipe": json.dumps(to_dict(recipe)),
        "summary": json.dumps(summary),
        "shift": torch.from_numpy(corpus.shift),
        "scale": torch.from_numpy(corpus.scale),
    }
    checkpoint.save(out / "model.pt", content)
    write_text(out / "report.html", sequence_page(recipe, summary, trainer.history))
    return summary


class SequenceRun(NamedTuple):
    """A finished run."""

    net: PDMUNet  # in evaluation mode
    recipe: SequenceRecipe
    summary: dict[str, Any]
    shift: Tensor  # [N_x] taken from the inputs, then
    scale: Tensor  # [N_x] multiplied


def load_sequence_run(out: Path) -> SequenceRun:
    """Return what a finished run of sequences left.

    Raises
    ------
    UserError
        The folder holds no finished run, or one of recordings.
    """
    path = out / "model.pt"
    if not path.exists():
        raise UserError(f"{path}: no such file; train first: pdmu-train RECIPE --root DIR --out {out}")
    saved = checkpoint.load(path, needs=("average", "recipe", "summary"))
    if "shift" not in saved:
        raise UserError(f"{path}: a run of recordings, and one of sequences is needed here")
    recipe = from_dict(SequenceRecipe, json.loads(saved["recipe"]), f"{path} recipe")
    summary = json.loads(saved["summary"])
    net = PDMUNet(recipe.model, summary["inputs"])
    net.load_state_dict(saved["average"])
    return SequenceRun(net.eval(), recipe, summary, saved["shift"], saved["scale"])


def load_network(out: Path) -> PDMUNet:
    """Return the network of a finished run, be it of recordings or of sequences, in evaluation mode.

    Raises
    ------
    UserError
        The folder holds no finished run.
    """
    path = out / "model.pt"
    of_sequences = path.exists() and "shift" in checkpoint.load(path)
    return load_sequence_run(out).net if of_sequences else load_run(out)[0]


def _check_lengths(recipe: SequenceRecipe, corpus: SequenceCorpus, ranks: Ranks) -> None:
    """Refuse what no batch can be made of."""
    stride, size = recipe.model.frames_per_step, min(recipe.train.batch, len(corpus.train))
    for name, part in (("training", corpus.train), ("validation", corpus.validation), ("test", corpus.test)):
        if len(part) and int(part.length.min()) < stride:
            raise UserError(
                f"the {name} part has a sequence of {part.length.min()} steps, and model.conv makes one step of {stride}; "
                "leave out shorter sequences, or use smaller strides in time"
            )
    if size < ranks.size:
        raise UserError(f"{ranks.size} processes cannot share batches of {size}; use fewer processes or a larger train.batch")


def train_sequences(table: RecipeTable, args: argparse.Namespace, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Train as the command line says; return the summary.

    Raises
    ------
    UserError
        A recipe, data set, split, folder or setting that cannot be used.
    """
    quiet = not sys.stderr.isatty()
    ranks.from_first(lambda: claim_folder(args.out))  # before hours of reading and training
    model = table.data.get("model")
    own_labels = isinstance(model, dict) and "labels" in model
    if own_labels:
        parse_sequence_recipe(table)  # its mistakes are told before anything is read
    corpus = ranks.in_turn(
        lambda: load_sequences(
            parse_data(table), args.root, args.cache, lambda r: tqdm(r, unit="file", desc="reading", disable=quiet or not ranks.first)
        )
    )
    if isinstance(model, dict) and not own_labels:
        model["labels"] = list(corpus.labels)
    recipe = parse_sequence_recipe(table)
    if recipe.model.labels != corpus.labels:
        raise UserError(f"{table.where} [model] labels: those of the data set are needed: {', '.join(corpus.labels)}; or leave them out")
    _check_lengths(recipe, corpus, ranks)
    identity = {"recipe": json.dumps(to_dict(recipe), sort_keys=True), "sequences": corpus.digest()}
    run = RunConfig(args.out, device, identity, quiet, ranks)
    saved = ranks.in_turn(lambda: None if args.fresh else read_checkpoint(run))
    if saved is not None and len(saved["history"]) == recipe.train.epochs and (args.out / "model.pt").exists():
        summary = load_sequence_run(args.out).summary
        if summary["test"] is not None or args.no_test:  # what was read is not read again
            if ranks.first:
                print(f"{args.out}: already finished; --fresh starts over", file=sys.stderr)
            return summary
    if saved is None:
        ranks.from_first(lambda: clear_run(args.out))
    trainer = SequenceTrainer(recipe, corpus, run)
    if saved is not None:
        trainer.resume(saved)
        if ranks.first:
            print(f"continuing after epoch {len(trainer.history)} of {recipe.train.epochs}", file=sys.stderr)
    trainer.fit()
    return ranks.from_first(lambda: finish(trainer, table, not args.no_test))
