"""Training by several processes: ``torchrun --nproc-per-node N -m pdmu.nn.train RECIPE …``, gloo on CPUs and nccl on GPUs.

Every process holds the whole net, its optimiser and the data, makes the same global batch from the same generators, and computes the
loss of its own slice, divided by the global batch's counts. `DistributedDataParallel` averages gradients over the R processes, so the
slice's loss is multiplied by R before the backward pass: the average is then the gradient of the global batch's loss. With shared
normalisation statistics (:mod:`pdmu.nn.norm`) a run is one process's within rounding, and a checkpoint of the one continues the other.
What is drawn inside the net, dropout masks and Gumbel noise, is drawn for the whole batch in every process (:mod:`pdmu.nn.noise`).

The first process alone evaluates, writes and prints. What it alone does ends in an error for all where it fails.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from pdmu.errors import UserError
from pdmu.nn.norm import share_statistics

T = TypeVar("T")
PATIENCE = timedelta(hours=24)  # one process reads all recordings while the others wait; the death of one is torchrun's to notice


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, and which of them this is; alone by default."""

    rank: int = 0
    size: int = 1
    store: dist.Store | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that evaluates, writes and prints."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return this process's share of `count` rows; shares differ by one row at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        """Return what to call in place of `net` in training; statistics and gradients are then shared by all processes."""
        if self.size == 1:
            return net
        share_statistics(net)
        # buffers need no broadcast: shared statistics move them alike everywhere
        return DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a value over all processes, without gradient."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def from_first(self, action: Callable[[], T]) -> T:
        """Let the first process act, and return what it returned in all of them.

        Raises
        ------
        UserError
            In all processes, where the action raises one in the first.
        """
        if self.size == 1:
            return action()
        sent: list[Any] = [None, None]
        if self.first:
            try:
                sent[0] = action()
            except UserError as error:
                sent[1] = str(error)
        dist.broadcast_object_list(sent, src=0, device=torch.device("cpu"))
        if sent[1] is not None:
            raise UserError(sent[1])
        return sent[0]

    def in_turn(self, action: Callable[[], T]) -> T:
        """Act in the first process, which may fill a cache, and then in all others; return each one's result.

        Raises
        ------
        UserError
            In all processes, where the action raises one in the first.
        """
        mine: list[T] = []
        self.from_first(lambda: mine.append(action()))
        return mine[0] if self.first else action()

    def say(self, message: str) -> None:
        """Print an error once, whichever processes meet it."""
        key = "said/" + hashlib.sha256(message.encode()).hexdigest()
        if self.store is None or self.store.add(key, 1) == 1:
            print(message, file=sys.stderr, flush=True)


def choose_device(name: str) -> torch.device:
    """Return the device of this process; ``auto`` is CUDA where there is one, and of several GPUs each process has its own.

    Raises
    ------
    UserError
        No such device.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if kind == "cuda" and "LOCAL_RANK" in os.environ:
        kind = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(kind)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; use auto or cpu, and no more processes than devices") from None
    return device


def join(device_name: str) -> tuple[Ranks, torch.device]:
    """Join the other processes that ``torchrun`` started, or be alone; return them and this process's device.

    Raises
    ------
    UserError
        No such device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks(), choose_device(device_name)
    store, rank, size = next(iter(rendezvous("env://", timeout=PATIENCE)))
    ranks = Ranks(rank, size, dist.PrefixStore("pdmu", store))
    try:
        device = choose_device(device_name)
    except UserError as error:
        ranks.say(f"error: {error}")
        raise SystemExit(1) from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return ranks, device


def leave() -> None:
    """Part from the other processes after a run that ended well."""
    if dist.is_initialized():
        dist.destroy_process_group()
