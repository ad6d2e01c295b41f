"""Labelled sequences that no front end makes, or that it has made already: data sets by name, cut into training, validation and test parts.

A data set's own module reads it and says which part of its public split each sequence belongs to; everything that may go wrong with splits
is here, once. Shapes: T_i steps of sequence i, N_x inputs.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pdmu.config import from_dict
from pdmu.data.cache import default_cache_dir
from pdmu.data.cards import data_set_cards
from pdmu.data.manifest import Row
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.splits import split
from pdmu.errors import UserError

Progress = Callable[[Iterable[Any]], Iterable[Any]]

# Name of a data set → the module whose ``load(config, root, cache, progress)`` reads it.
LOADERS = {
    "psmnist": "pdmu.data.mnist",  # one permuted pixel a step
    "mnist-rows": "pdmu.data.mnist",  # one row of 28 pixels a step
    "fsdd": "pdmu.data.fsdd",
    "fsdd-spikes": "pdmu.data.fsdd",
    "gsc": "pdmu.data.gsc",
    "shd": "pdmu.data.shd",
    "ssc": "pdmu.data.shd",
    "eeg": "pdmu.data.eeg",
    "cough": "pdmu.data.clips",
    "birds": "pdmu.data.clips",
    "esc10": "pdmu.data.clips",
    "npz": "pdmu.data.npz",
}


@dataclass(frozen=True)
class SequenceSet:
    """Labelled sequences laid end to end."""

    values: NDArray[Any]  # [Σ T_i, N_x], any type of number
    length: NDArray[np.int64]  # [n] steps T_i, at least 1
    target: NDArray[np.int64]  # [n] position in the labels
    group: NDArray[np.str_]  # [n] what is never split between training and validation

    def __len__(self) -> int:
        return len(self.length)

    @property
    def start(self) -> NDArray[np.int64]:
        """First row of each sequence."""
        return np.cumsum(self.length) - self.length

    def subset(self, chosen: NDArray[np.bool_]) -> SequenceSet:
        """Return the sequences that a mask names."""
        return SequenceSet(self.values[np.repeat(chosen, self.length)], self.length[chosen], self.target[chosen], self.group[chosen])

    def padded(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return sequences by position, zeros behind their ends: float32 ``[len(chosen), longest, N_x]``."""
        length, start = self.length[chosen], self.start[chosen]
        out = np.zeros((len(chosen), int(length.max()), self.values.shape[1]), np.float32)
        for row, (begin, steps) in enumerate(zip(start, length, strict=True)):
            out[row, :steps] = self.values[begin : begin + steps]
        return out


@dataclass(frozen=True)
class LoadedSequences:
    """A data set as its module reads it."""

    labels: tuple[str, ...]
    sequences: SequenceSet
    part: NDArray[np.str_]  # [n] "train", "validation" or "test" of the public split; "" where there is none
    standardise: bool = True  # inputs are to be scaled to zero mean and unit deviation over the training part; False: spikes, one-hot …
    fold: NDArray[np.str_] | None = None  # [n] official fold of each sequence, where its source deals them


@dataclass(frozen=True)
class SequenceCorpus:
    """What a run trains on, chooses by, and reads once at its end."""

    labels: tuple[str, ...]
    train: SequenceSet
    validation: SequenceSet
    test: SequenceSet
    shift: NDArray[np.float32]  # [N_x] taken from the inputs, then
    scale: NDArray[np.float32]  # [N_x] multiplied; both from the training part
    split: str  # how the parts came about, in words

    def digest(self) -> str:
        """Return a hash of everything the parts hold, by which a run knows its data again."""
        content = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for values in (part.values, part.length, part.target):
                content.update(f"{values.dtype} {values.shape}".encode())
                content.update(np.ascontiguousarray(values).data)
        return content.hexdigest()

    @property
    def inputs(self) -> int:
        """N_x."""
        return self.train.values.shape[1]


def load_sequences(config: SequenceDataConfig, root: Path, cache: Path | None = None, progress: Progress = iter) -> SequenceCorpus:
    """Read a data set and cut it.

    Parameters
    ----------
    config : SequenceDataConfig
    root : Path
        Folder of the data set as its source gives it, or the folder above.
    cache : Path, optional
        Where features computed from recordings are kept.
    progress : callable
        Wraps the recordings as they are read.

    Raises
    ------
    UserError
        No such data set, files that are missing or damaged, a split that cannot be made.
    """
    name = config.data.partition(":")[0]
    if name not in LOADERS:
        raise UserError(f'[sequence] data = "{config.data}": no such data set; known: {", ".join(LOADERS)} (npz:FILE)')
    loaded: LoadedSequences = importlib.import_module(LOADERS[name]).load(config, root, cache or default_cache_dir(), progress)
    return cut(loaded, config)


def cut(loaded: LoadedSequences, config: SequenceDataConfig) -> SequenceCorpus:
    """Cut a data set into its parts.

    With ``folds`` a part of whole groups is the test set, an official fold where the data set has just as many; else the public test part
    is. Validation is the public one where there is one and no folds are asked for; else ``validation_share`` of the training part, whole
    groups (one at least) or single sequences as ``validation`` says.
    """
    everything, strata = loaded.sequences, [loaded.labels[t] for t in loaded.sequences.target]
    rows = [Row(str(i), label, group) for i, (label, group) in enumerate(zip(strata, everything.group.tolist(), strict=True))]
    official = [] if loaded.fold is None else sorted(set(loaded.fold.tolist()))
    if config.folds:
        held = np.zeros(len(rows), bool)
        if loaded.fold is not None and config.folds == len(official):
            dealt = [replace(row, fold=fold) for row, fold in zip(rows, loaded.fold.tolist(), strict=True)]
            test = split(dealt, strata, "official", share=0, folds=config.folds, fold=config.fold, seed=config.split_seed)
            words = [f"official fold {official[config.fold]} of {config.folds} is the test set"]
        else:
            test = split(rows, strata, "groups", share=0, folds=config.folds, fold=config.fold, seed=config.split_seed)
            words = [f"part {config.fold} of {config.folds}, whole groups, is the test set"]
    else:
        test, held = loaded.part == "test", loaded.part == "validation"
        if not test.any():
            count = len(official) or 4
            raise UserError(f'[sequence] data = "{config.data}" has no public test part; cut one by group: --set sequence.folds={count}')
        words = ["public test part"]
    if held.any():
        words.append("public validation part")
    elif config.validation_share:
        pool = np.flatnonzero(~test)
        drawn = rows if config.validation == "groups" else [replace(row, group=row.path) for row in rows]
        groups = len({drawn[i].group for i in pool})
        if groups < 2:
            raise UserError(
                f'[sequence] data = "{config.data}": {groups} group(s) of training sequences, and validation takes a whole one; '
                "draw it singly (--set sequence.validation=sequences) or hold none (--set sequence.validation_share=0)"
            )
        share = max(config.validation_share, 1 / groups)  # six speakers have no tenth: one of them is held
        chosen = split(
            [drawn[i] for i in pool], [strata[i] for i in pool], "groups", share=share, folds=None, fold=0, seed=config.split_seed
        )  # fmt: skip
        held[pool[chosen]] = True
        words.append(f"{held.sum()} of {len(pool)} training sequences, by {config.validation}, for validation")
    train = everything.subset(~test & ~held)
    if len(loaded.labels) < 2:
        raise UserError(f'[sequence] data = "{config.data}": all sequences have the label {loaded.labels[0]}; two are needed to tell apart')
    missing_label = sorted(set(range(len(loaded.labels))) - set(train.target.tolist()))
    if missing_label:
        where = (
            "in the data set"
            if missing_label[0] not in everything.target
            else "left to train on; use other folds or a smaller validation_share"
        )
        raise UserError(f'[sequence] data = "{config.data}": the label {loaded.labels[missing_label[0]]} has no sequences {where}')
    shift, scale = np.zeros(train.values.shape[1], np.float32), np.ones(train.values.shape[1], np.float32)
    if loaded.standardise:
        mean, deviation = _moments(train.values)
        shift = mean.astype(np.float32)
        scale = (1 / np.maximum(deviation, 1e-3 * max(float(deviation.max()), 1e-12))).astype(np.float32)  # a dead input stays quiet
    return SequenceCorpus(loaded.labels, train, everything.subset(held), everything.subset(test), shift, scale, "; ".join(words))


def _moments(values: NDArray[Any], block: int = 1 << 22) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each column; some numbers at a time, for values may be most of the memory."""
    rows = max(1, block // values.shape[1])
    parts = [slice(i, i + rows) for i in range(0, len(values), rows)]
    mean = np.sum([values[part].sum(0, dtype=np.float64) for part in parts], 0) / len(values)
    variance = np.sum([((values[part] - mean) ** 2).sum(0) for part in parts], 0) / len(values)
    return mean, np.sqrt(variance)


def find_folder(root: Path, names: tuple[str, ...], what: str, card: str) -> Path:
    """Return the first of ``root``, ``root/name`` … in which a file matching the pattern `what` lies.

    Parameters
    ----------
    root : Path
    names : tuple of str
        Folders below it to look into.
    what : str
        Pattern of a file name.
    card : str
        Name of the data set's card, which says for the message where it comes from.

    Raises
    ------
    UserError
        In none of them.
    """
    for folder in (root, *(root / name for name in names)):
        if folder.is_dir() and next(folder.glob(what), None) is not None:
            return folder
    raise missing(root, f"no {what} there or in {', '.join(names)}/", card)


def missing(root: Path, what: str, card: str) -> UserError:
    """Return the error that a data set is not there: where it comes from, under which terms, and where it goes."""
    known = data_set_cards()[card]
    way = known.get or known.source
    return UserError(f"{root}: {what}; give the data set's folder with --root. {known.title}: {way} ({known.licence})")


Options = TypeVar("Options")


def read_options(cls: type[Options], config: SequenceDataConfig) -> Options:
    """Return ``config.options`` as the frozen dataclass of a loader's settings; a whole number is one where the field is.

    Raises
    ------
    UserError
        An option the loader does not have (the nearest one is offered), or a value it refuses.
    """
    where = f'[sequence.options] of "{config.data}"'
    known = {f.name: f.type for f in fields(cls)}  # type: ignore[arg-type]
    if config.options and not known:
        raise UserError(f"{where}: '{next(iter(config.options))}': it has no options")
    values: dict[str, Any] = dict(config.options)
    for name, value in config.options.items():
        if known.get(name) in ("int", int):
            if value != int(value):
                raise UserError(f"{where}: {name} = {value:g} must be a whole number")
            values[name] = int(value)
    return from_dict(cls, values, where)
