"""Spiking Heidelberg Digits and Spiking Speech Commands (Cramer et al. 2020, arXiv 1910.07407): spikes of 700 channels, binned.

``shd`` reads ``shd_train.h5`` and ``shd_test.h5``: 20 labels, digits in English and German; two of its twelve speakers are in the test part
alone. It has no public validation part, and choosing by the test part flatters, as many published figures do: part of the
training is held out instead, whole speakers or single recordings as ``validation`` says. ``ssc`` reads ``ssc_train.h5``, ``ssc_valid.h5``
and ``ssc_test.h5``: 35 words.

Input i of step k counts the spikes of channels i·bin … i·bin + bin - 1 at times k·dt ≤ t < (k+1)·dt. Later spikes are dropped: as the
options stand the last 0.4 s of the longest recordings, as is usual.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import LoadedSequences, Progress, SequenceSet, missing, read_options
from pdmu.errors import UserError

FILES = {
    "shd": {"train": "shd_train.h5", "test": "shd_test.h5"},
    "ssc": {"train": "ssc_train.h5", "validation": "ssc_valid.h5", "test": "ssc_test.h5"},
}
FOLDERS = ("shd", "ssc", "SHD", "SSC", "hdspikes")
BLOCK = 512  # recordings read together


@dataclass(frozen=True)
class SpikeOptions:
    """Binning of spikes, and what the files hold."""

    dt_ms: float = 10.0  # of a step
    steps: int = 100
    bin: int = 5  # adjacent channels summed into one input
    binary: int = 0  # 1: whether a channel of the bin fired, in place of how often
    channels: int = 700  # of the files; those of `pdmu.data.spike_encoder` have 70

    def __post_init__(self) -> None:
        if self.dt_ms <= 0 or min(self.steps, self.bin, self.channels) < 1 or self.binary not in (0, 1):
            raise ValueError("dt_ms, steps, bin and channels must be positive, and binary 0 or 1")
        if self.channels % self.bin:
            raise ValueError(f"bin must divide channels ({self.channels}), not leave {self.channels % self.bin} over")


def load(config: SequenceDataConfig, root: Path, cache: Path, progress: Progress) -> LoadedSequences:
    """Read ``shd`` or ``ssc``.

    Parameters
    ----------
    config : SequenceDataConfig
        `options`: see `SpikeOptions`.
    root : Path
        Folder of the HDF5 files, or the folder above.
    cache : Path
        Not used: binning is faster than reading back.
    progress : callable
        Wraps the blocks of recordings of a part.

    Returns
    -------
    LoadedSequences
        ``values`` uint8 ``[n · 100, 140]`` as the options stand; more than 255 spikes in a bin count as 255. Groups are speakers where the
        files name them, else single recordings. Not to be standardised.

    Raises
    ------
    UserError
        A file that is missing, damaged or of another layout, or an option that does not exist.
    """
    options = read_options(SpikeOptions, config)
    values, targets, groups, parts = [], [], [], []
    keys: list[str] = []
    for part, name in FILES[config.data].items():
        path = _find(root, name, config.data)
        try:
            with h5py.File(path, "r") as file:
                counts, target, group, keys = _read(file, path, part, options, progress)
        except OSError as error:
            raise UserError(f"{path}: no HDF5 file, or damaged ({error}); fetch it again") from None
        values.append(counts)
        targets.append(target)
        groups.append(group)
        parts.append(np.full(len(target), part))
    target = np.concatenate(targets)
    labels = tuple(keys) or tuple(str(i) for i in range(int(target.max()) + 1))
    if target.max() >= len(labels):
        raise UserError(f"{root}: a label is {target.max()}, but extra/keys names {len(labels)}; the files do not belong together")
    sequences = SequenceSet(np.concatenate(values), np.full(len(target), options.steps, np.int64), target, np.concatenate(groups))
    return LoadedSequences(labels, sequences, np.concatenate(parts), standardise=False)


def _find(root: Path, name: str, card: str) -> Path:
    folders = [root, *(root / folder for folder in FOLDERS)]
    found = next((f / name for f in folders if (f / name).is_file()), None)
    if found is not None:
        return found
    packed = next((f / f"{name}{end}" for f in folders for end in (".gz", ".zip") if (f / f"{name}{end}").is_file()), None)
    if packed is not None:
        raise UserError(f"{packed}: is packed; unpack it ({'gunzip' if packed.suffix == '.gz' else 'unzip'} {packed.name})")
    raise missing(root, f"no {name} there or in {', '.join(FOLDERS)}/", card)


def _read(
    file: h5py.File, path: Path, part: str, options: SpikeOptions, progress: Progress
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_], list[str]]:
    """Return binned spikes ``[n · steps, inputs]``, labels, groups and the labels' names of one file."""
    for name in ("spikes/times", "spikes/units", "labels"):
        if name not in file:
            raise UserError(f"{path}: holds no {name}: not a file of the Heidelberg spiking data sets")
    times, units = file["spikes/times"], file["spikes/units"]
    target = file["labels"][:].astype(np.int64)
    n, inputs = len(target), options.channels // options.bin
    if not len(times) == len(units) == n or n == 0:
        raise UserError(f"{path}: {len(times)} recordings and {n} labels; fetch it again")
    values = np.empty((n, options.steps, inputs), np.uint8)
    for first in progress(range(0, n, BLOCK)):
        block = slice(first, first + BLOCK)
        try:
            values[block] = bin_spikes(times[block], units[block], options)
        except ValueError as error:
            raise UserError(f"{path}: recordings {first} to {min(n, first + BLOCK) - 1}: {error}") from None
    speaker = file["extra/speaker"][:] if "extra/speaker" in file else np.arange(n)
    prefix = "speaker" if "extra/speaker" in file else part
    keys = [k.decode() if isinstance(k, bytes) else str(k) for k in file["extra/keys"][:]] if "extra/keys" in file else []
    return values.reshape(-1, inputs), target, np.array([f"{prefix}{s}" for s in speaker]), keys


def bin_spikes(times: NDArray[Any], units: NDArray[Any], options: SpikeOptions) -> NDArray[np.uint8]:
    """Count the spikes of each step and bin of channels.

    Parameters
    ----------
    times, units : array of arrays
        Of each recording: s, and channel.
    options : SpikeOptions

    Returns
    -------
    ndarray of uint8
        ``[n, steps, channels // bin]``.

    Raises
    ------
    ValueError
        Times and channels that do not belong together, a channel that there cannot be, or a time that is none.
    """
    lengths = [len(t) for t in times]
    if lengths != [len(u) for u in units]:
        raise ValueError("times and units of a recording differ in number; fetch the file again")
    inputs = options.channels // options.bin
    t = np.concatenate([np.asarray(x, np.float64) for x in times])
    u = np.concatenate([np.asarray(x, np.int64) for x in units])
    if len(u) and not 0 <= int(u.min()) <= int(u.max()) < options.channels:
        raise ValueError(f"channels from {u.min()} to {u.max()}, where [sequence.options] channels = {options.channels}")
    if not np.isfinite(t).all() or (len(t) and t.min() < 0):
        raise ValueError("a time is negative or no number; fetch the file again")
    step = np.floor(t / (options.dt_ms / 1000)).astype(np.int64)
    kept = step < options.steps
    place = (np.repeat(np.arange(len(lengths)), lengths) * options.steps + step) * inputs + u // options.bin
    counts = np.bincount(place[kept], minlength=len(lengths) * options.steps * inputs)
    return np.minimum(counts, 1 if options.binary else 255).astype(np.uint8).reshape(len(lengths), options.steps, inputs)
