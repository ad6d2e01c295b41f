"""Training, an epoch at a time, with everything needed to go on in ``checkpoint.pt``: what recordings and sequences have in common.

The batches of an epoch come from (seed, epoch) alone and torch is seeded the same way, so a continued run computes what an uninterrupted
one does. Several processes train as one (:mod:`pdmu.nn.distributed`): each takes its rows of the same batch.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from pdmu.errors import UserError
from pdmu.files import write_text
from pdmu.nn import checkpoint
from pdmu.nn.distributed import Ranks
from pdmu.nn.model import PDMUNet

FORMAT = 1


class Schedule(Protocol):
    """Settings of optimisation that both kinds of recipe have."""

    @property
    def epochs(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def warmup_share(self) -> float: ...
    @property
    def ema_decay(self) -> float: ...
    @property
    def grad_clip(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class RunConfig:
    """Where a run reads and writes, and what is not in the recipe."""

    out: Path
    device: torch.device
    identity: dict[str, Any]  # what must be the same for a run to be continued
    quiet: bool = False  # no progress bars
    ranks: Ranks = field(default_factory=Ranks)


class Fit(ABC):
    """Trains one network; a kind of data says what its batches, losses and validation are.

    Parameters
    ----------
    schedule : Schedule
    net : PDMUNet
    run : RunConfig
    batches : int
        Batches of an epoch.
    """

    def __init__(self, schedule: Schedule, net: PDMUNet, run: RunConfig, batches: int) -> None:
        self.schedule, self.run, self.batches = schedule, run, batches
        self.net = net.to(run.device)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.model = run.ranks.wrap(self.net, run.device)  # what a batch is given to
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        plain = [p for p in self.net.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}], lr=schedule.lr
        )
        self.step = 0
        self.history: list[dict[str, Any]] = []

    @abstractmethod
    def epoch_batches(self, epoch: int) -> Iterator[Any]:
        """Yield the global batches of an epoch, the same in every process."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return the loss of this process's rows of a batch, divided by the counts of the whole batch."""

    @abstractmethod
    def validate(self) -> dict[str, Any]:
        """Evaluate the averaged weights and return the columns of the log; validation chooses nothing."""

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
        writer = csv.DictWriter(text, list(dict.fromkeys(key for line in self.history for key in line)))
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.run.out / "log.csv", text.getvalue())

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a thousandth."""
        cfg = self.schedule
        total = cfg.epochs * self.batches
        warm = max(1, round(cfg.warmup_share * total))
        if step < warm:
            return cfg.lr * (step + 1) / warm
        return cfg.lr * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))

    def fit(self) -> None:
        """Run the epochs that are left."""
        quiet = self.run.quiet or not self.run.ranks.first
        bar = tqdm(total=self.schedule.epochs, initial=len(self.history), unit="epoch", disable=quiet)
        for epoch in range(len(self.history), self.schedule.epochs):
            line = self.run_epoch(epoch)
            self.history.append(line)
            self.run.ranks.from_first(self.save)
            bar.set_postfix({k: f"{v:.3f}" for k, v in line.items() if isinstance(v, float) and k != "lr"})
            bar.update()
            if self.run.quiet and self.run.ranks.first:
                print(
                    " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), file=sys.stderr, flush=True
                )
        bar.close()

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Train on one epoch's batches and validate; return the line of the log."""
        began = time.perf_counter()
        loss = self.train_epoch(epoch)
        line = {"epoch": epoch + 1, "lr": self.learning_rate(self.step - 1), "train_loss": loss}
        trained = time.perf_counter()
        line |= self.run.ranks.from_first(self.validate)
        line["train_seconds"] = round(trained - began, 2)
        line["seconds"] = round(time.perf_counter() - began, 2)
        return line

    def train_epoch(self, epoch: int) -> float:
        """Train on one epoch's batches; return the mean loss."""
        self.model.train()
        ranks = self.run.ranks
        torch.manual_seed(self.schedule.seed * 1_000_003 + epoch)  # in all processes: each draws for the whole batch
        total = 0.0
        for batch in self.epoch_batches(epoch):
            self.net.anneal(self.step / max(1, self.schedule.epochs * self.batches - 1))
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate(self.step)
            loss = self.loss(batch)
            value = float(ranks.total(loss))
            if not math.isfinite(value):
                raise UserError(f"epoch {epoch + 1}: the loss is {value}; use a smaller train.lr (now {self.schedule.lr:g})")
            self.optimiser.zero_grad(set_to_none=True)
            (loss * ranks.size).backward()  # gradients are averaged over the processes, and the loss is a sum over them
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.schedule.grad_clip)
            self.optimiser.step()
            self.step += 1
            self.update_average()
            total += value
        return total / self.batches

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights and normalisation statistics towards the current ones; faster in the beginning."""
        decay = min(self.schedule.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)


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
    if saved.get("format") != FORMAT or saved.get("identity") != run.identity:
        raise UserError(f"{path}: belongs to another training ({_differences(saved, run)}); give another --out, or --fresh to start over")
    return saved


def _differences(saved: dict[str, Any], run: RunConfig) -> str:
    """Say in what a checkpoint's training and this one differ."""
    before, now = saved.get("identity") or {}, run.identity
    recipes = [json.loads(i.get("recipe", "{}")) for i in (before, now)]
    settings = [f"{key} {old} there, {new} here" for key, old, new in _unlike("", *recipes)]
    others = [f"other {key}" for key in now if key != "recipe" and before.get(key) != now[key]]
    return "; ".join([*settings[:3], *others]) or "another format"


def _unlike(where: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings in which two recipes differ, by their dotted names."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            yield from _unlike(f"{where}.{key}" if where else key, before.get(key), now.get(key))
    elif before != now:
        yield where, before, now
