"""Anybody's sequences: ``npz:FILE`` reads a numpy archive.

Its arrays, n sequences of N_x inputs:

======================  ==================================================================================================================
``x``                   numbers ``[n, T, N_x]``, all of T steps; or, with ``length``, padded behind
``values``, ``length``  in place of ``x``: numbers ``[Σ T_i, N_x]``, the sequences end to end, and integers ``[n]``, steps of each
``y``                   ``[n]``: names, or integers from 0
``labels``              names of the labels, in order; needed where ``y`` is integers that should have names
``part``                ``[n]``: "train", "validation", "test" or "" (optional; without a test part ask for ``folds``)
``group``               ``[n]``: what is never split — speaker, subject, recording (optional; without it every sequence is its own)
``standardise``         False: the inputs are taken as they are (optional)
======================  ==================================================================================================================

``numpy.savez("mine.npz", x=x, y=y, group=speaker)`` writes one. Object arrays are refused: they run code when they are read.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import LoadedSequences, Progress, SequenceSet, read_options
from pdmu.errors import UserError

ARRAYS = ("x", "values", "length", "y", "labels", "part", "group", "standardise")
PARTS = ("train", "validation", "test", "")


@dataclass(frozen=True)
class NpzOptions:
    """There are none: what is to be said about the data stands in the file."""


def load(config: SequenceDataConfig, root: Path, cache: Path, progress: Progress) -> LoadedSequences:
    """Read ``npz:FILE``; a relative name is looked for in the working folder, then in `root`.

    Parameters
    ----------
    config : SequenceDataConfig
    root : Path
    cache : Path
        Not used.
    progress : callable
        Not used.

    Returns
    -------
    LoadedSequences
        ``values`` of the file's own type.

    Raises
    ------
    UserError
        A file that is missing or damaged, or arrays that do not fit together.
    """
    read_options(NpzOptions, config)
    name = config.data.partition(":")[2]
    path = next((p for p in (Path(name), root / name) if name and p.is_file()), None)
    if path is None:
        raise UserError(f'[sequence] data = "{config.data}": no such file, nor in {root}; write npz:FILE')
    arrays = _known(path, read_archive(path))
    values, length = _sequences(path, arrays)
    n = len(length)
    labels, target = _targets(path, arrays)
    if len(target) != n:
        raise UserError(f"{path}: {n} sequences and {len(target)} labels in y")
    part, group = _strings(path, arrays, "part", [""] * n), _strings(path, arrays, "group", [f"{i}" for i in range(n)])
    wrong = sorted(set(part.tolist()) - set(PARTS))
    if wrong:
        raise UserError(f"{path}: part '{wrong[0]}' is none of train, validation, test or an empty one")
    return LoadedSequences(labels, SequenceSet(values, length, target, group), part, bool(arrays.get("standardise", np.array(True)).all()))


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a numpy archive by name.

    Raises
    ------
    UserError
        Unreadable, damaged, a single array, or one of Python objects.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise UserError(f"{path}: holds a single array; write an archive with numpy.savez(FILE, x=…, y=…)")
        with file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        hint = "; object arrays are refused, write ragged sequences as values and length" if "pickle" in str(error) else ""
        raise UserError(f"{path}: no numpy archive of plain arrays, or damaged ({error}){hint}") from None


def _known(path: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    for name in arrays:
        if name not in ARRAYS:
            near = difflib.get_close_matches(name, ARRAYS, n=1)
            raise UserError(f"{path}: unknown array '{name}'; " + (f"did you mean '{near[0]}'?" if near else f"known: {', '.join(ARRAYS)}"))
    return arrays


def _sequences(path: Path, arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return values ``[Σ T_i, N_x]`` and lengths ``[n]``."""
    if ("x" in arrays) == ("values" in arrays):
        raise UserError(f"{path}: needs x [n, T, inputs], or values [rows, inputs] and length [n]")
    x = arrays["x"] if "x" in arrays else arrays["values"]
    wanted, shape = (3, "x must be [n, T, inputs]") if "x" in arrays else (2, "values must be [rows, inputs]")
    if x.ndim != wanted:
        raise UserError(f"{path}: {shape}, not {list(x.shape)}; a single input is a last axis of 1: x[..., None]")
    if x.dtype.kind not in "biuf":
        raise UserError(f"{path}: {'x' if 'x' in arrays else 'values'} is of type {x.dtype}; sequences are real numbers")
    if 0 in x.shape:
        raise UserError(f"{path}: {shape}, with at least one of each; it is {list(x.shape)}")
    if "length" not in arrays and "values" in arrays:
        raise UserError(f"{path}: values need length [n], the steps of each sequence")
    length = arrays.get("length", np.full(len(x), x.shape[1]))
    if length.ndim != 1 or length.dtype.kind not in "iu" or len(length) == 0 or length.min() < 1:
        raise UserError(f"{path}: length must be [n], whole numbers of at least 1")
    length = length.astype(np.int64)
    if "x" in arrays:
        if len(length) != len(x) or length.max() > x.shape[1]:
            raise UserError(f"{path}: x holds {len(x)} sequences of {x.shape[1]} steps, length {len(length)} of up to {length.max()}")
        x = x[np.arange(x.shape[1]) < length[:, None]]
    elif length.sum() != len(x):
        raise UserError(f"{path}: length sums to {length.sum()} steps, values has {len(x)}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is told as infinite
        if x.dtype.kind == "f" and not np.isfinite(x.astype(np.float32)).all():
            raise UserError(f"{path}: the sequences hold NaN or values that are infinite in float32")
    return x, length


def _targets(path: Path, arrays: Mapping[str, NDArray[Any]]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the labels' names and each sequence's position in them."""
    if "y" not in arrays:
        raise UserError(f"{path}: no y, the label of each sequence")
    y = arrays["y"]
    if y.ndim != 1 or y.dtype.kind not in "iuU" or len(y) == 0:
        raise UserError(f"{path}: y must be [n], names or whole numbers from 0, not {list(y.shape)} of type {y.dtype}")
    names = tuple(str(name) for name in arrays["labels"].ravel()) if "labels" in arrays else None
    if y.dtype.kind == "U":
        labels = names or tuple(sorted(set(y.tolist())))
        unknown = sorted(set(y.tolist()) - set(labels))
        if unknown:
            raise UserError(f"{path}: y has '{unknown[0]}', which labels does not name")
        place = {name: i for i, name in enumerate(labels)}
        return labels, np.array([place[name] for name in y.tolist()], np.int64)
    labels = names or tuple(str(i) for i in range(int(y.max()) + 1))
    if y.min() < 0 or y.max() >= len(labels):
        raise UserError(f"{path}: y runs from {y.min()} to {y.max()}; with {len(labels)} labels it must be from 0 to {len(labels) - 1}")
    return labels, y.astype(np.int64)


def _strings(path: Path, arrays: Mapping[str, NDArray[Any]], name: str, default: list[str]) -> NDArray[np.str_]:
    array = arrays.get(name)
    if array is None:
        return np.array(default, np.str_)
    if array.shape != (len(default),) or array.dtype.kind not in "iuU":
        raise UserError(f"{path}: {name} must be [{len(default)}], names or whole numbers, not {list(array.shape)} of type {array.dtype}")
    return array.astype(np.str_)
