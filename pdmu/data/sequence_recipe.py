"""A recipe that trains on sequences: one TOML file with a ``[sequence]`` table in place of recordings and a front end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pdmu.config import ModelConfig, from_dict
from pdmu.data.recipe import RecipeTable, read_table
from pdmu.errors import UserError


@dataclass(frozen=True)
class SequenceTaskConfig:
    """What is told apart, in words."""

    name: str
    description: str = ""
    licence: str = ""  # of the data
    limits: str = ""  # what the figures should not be trusted with


@dataclass(frozen=True)
class SequenceDataConfig:
    """Which data set, and how it is split; :func:`pdmu.data.sequences.load_sequences` reads it."""

    data: str  # name of a data set (psmnist, fsdd …), or "npz:PATH"
    permutation_seed: int = 92916  # of psmnist's pixels
    validation_share: float = 0.1  # of the training part
    validation: Literal["groups", "sequences"] = "groups"  # whole groups are drawn, or single sequences where a public test part was
    split_seed: int = 1  # apart from train.seed, so that runs with several seeds validate on the same sequences
    folds: int = 0  # where the data set can be cut into parts by group: how many
    fold: int = 0  # which of them is held out, from 0
    options: dict[str, float] = field(default_factory=dict)  # of the data set's own loader

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data must name a data set")
        if not 0 <= self.validation_share <= 0.5:
            raise ValueError("validation_share must be from 0 to 0.5")
        if min(self.permutation_seed, self.split_seed) < 0:
            raise ValueError("permutation_seed and split_seed must not be negative")
        if self.folds < 0 or self.folds == 1 or not 0 <= self.fold < max(1, self.folds):
            raise ValueError(f"folds must be 0 or at least 2, and fold from 0 to folds - 1; they are {self.folds} and {self.fold}")


@dataclass(frozen=True)
class SequenceTrainConfig:
    """Optimisation and augmentation; augmentation is in units of the scaled input."""

    epochs: int = 30
    batch: int = 64  # of all processes together
    lr: float = 3e-3
    weight_decay: float = 1e-2  # of matrices only
    warmup_share: float = 0.05
    ema_decay: float = 0.999  # of the averaged weights, per batch; these are evaluated and kept. 0 = the weights as they are
    grad_clip: float = 1.0
    dropout: float = 0.0  # inside the network
    input_dropout: float = 0.0  # part of the input values set to zero, the others scaled up to keep the mean
    noise: float = 0.0  # standard deviation of Gaussian noise on the input
    time_shift: int = 0  # largest random shift either way, steps; zeros move in
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0  # 0 = none
    validate_every: int = 1  # epochs from one validation to the next; the last epoch always is
    tail: int = 0  # truncated training: the layers run over this many last steps alone; 0 = all, as evaluation does
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.validate_every) < 1 or self.lr <= 0 or self.grad_clip <= 0:
            raise ValueError("epochs, batch, validate_every, lr and grad_clip must be positive")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError("ema_decay and label_smoothing must be in [0, 1)")
        if not 0 <= self.dropout < 1 or not 0 <= self.input_dropout < 1 or not 0 <= self.warmup_share <= 1:
            raise ValueError("dropout and input_dropout must be in [0, 1), warmup_share in [0, 1]")
        if min(self.weight_decay, self.noise, self.time_shift, self.mixup_alpha, self.tail, self.seed) < 0:
            raise ValueError("weight_decay, noise, time_shift, mixup_alpha, tail and seed must not be negative")


@dataclass(frozen=True)
class SequenceRecipe:
    """A whole recipe; the number of inputs is the data's."""

    task: SequenceTaskConfig
    sequence: SequenceDataConfig
    model: ModelConfig
    train: SequenceTrainConfig = field(default_factory=SequenceTrainConfig)

    def __post_init__(self) -> None:
        if self.model.head != "softmax":
            raise ValueError('model.head must be "softmax": a sequence is of one class')
        if self.train.tail and self.model.readout not in ("last", "leaky"):
            raise ValueError(
                f'train.tail trains on the end of a sequence, and model.readout = "{self.model.readout}" reads all of it; use last or leaky'
            )
        if self.train.tail and any(layer.bidirectional for layer in self.model.layers):
            raise ValueError("train.tail needs a layer that can begin in the middle, which no bidirectional one can (--set train.tail=0)")
        if self.train.batch < 2 and self.model.readout == "last":
            raise ValueError("train.batch must be at least 2 where the last step alone is read: normalisation needs more than one value")


def load_sequence_recipe(name: str, changes: tuple[str, ...] = ()) -> SequenceRecipe:
    """Read a recipe of sequences; the arguments are those of :func:`pdmu.data.recipe.read_table`.

    Raises
    ------
    UserError
        No such recipe, or one that is wrong or trains on recordings.
    """
    return parse_sequence_recipe(read_table(name, changes))


def parse_data(table: RecipeTable) -> SequenceDataConfig:
    """Return what the table says of its data set alone; the labels of a model may be left to that.

    Raises
    ------
    UserError
        A setting that is unknown or of the wrong type.
    """
    return from_dict(SequenceDataConfig, table.data["sequence"], f"{table.where} [sequence]")


def parse_sequence_recipe(table: RecipeTable) -> SequenceRecipe:
    """Return the recipe of sequences that a table holds.

    Raises
    ------
    UserError
        A setting that is unknown or of the wrong type, or a recipe of recordings.
    """
    if not table.of_sequences:
        raise UserError(f"{table.where}: trains on recordings, and a recipe of sequences is needed here; give one with [sequence]")
    return from_dict(SequenceRecipe, table.data, table.where)
