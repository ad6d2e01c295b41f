"""Sequential MNIST: handwritten digits read pixel by pixel in one fixed random order, or row by row.

``psmnist`` — permuted sequential MNIST (Le, Jaitly & Hinton 2015, arXiv 1504.00941): T = 784 steps of one input. Step k of every image is
pixel p[k] of its 28 × 28 pixels, row after row, where p is ``numpy.random.default_rng(permutation_seed).permutation(784)``. Papers each
drew an order of their own. The seed 92916 is seen in several codes, but they draw with numpy's older ``RandomState``: not this order.

``mnist-rows`` — row-wise sequential MNIST: T = 28 steps of 28 inputs, rows from the top, pixels from the left.

Both keep the public parts, 60 000 digits to train on and 10 000 to test with. Every digit is its own group: the files do not say who
wrote it.

File format: LeCun's idx. Big-endian uint32 magic (0x801 labels, 0x803 images), one uint32 for each dimension, then the bytes.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import LoadedSequences, Progress, SequenceSet, find_folder, read_options
from pdmu.errors import UserError

SIDE = 28  # pixels of an image's edge
FOLDERS = ("mnist", "MNIST", "MNIST/raw", "raw")  # below the root; the later ones are torchvision's
PARTS = {"train": "train", "test": "t10k"}  # part → how its files' names begin


@dataclass(frozen=True)
class MnistOptions:
    """There are none; the order of the pixels is ``permutation_seed``, beside them."""


def load(config: SequenceDataConfig, root: Path, cache: Path, progress: Progress) -> LoadedSequences:
    """Read ``psmnist`` or ``mnist-rows``.

    Parameters
    ----------
    config : SequenceDataConfig
        ``permutation_seed`` is read by psmnist alone.
    root : Path
        Folder of the four idx files, gzipped or not, or the folder above.
    cache : Path
        Not used: reading takes less than a second.
    progress : callable
        Wraps the parts.

    Returns
    -------
    LoadedSequences
        ``values`` uint8 ``[70000 · 784, 1]`` or ``[70000 · 28, 28]``, 0 … 255; training part first.

    Raises
    ------
    UserError
        A file that is missing, truncated or something else.
    """
    read_options(MnistOptions, config)
    folder = find_folder(root, FOLDERS, "train-images?idx3-ubyte*", "mnist")
    images, targets, parts = [], [], []
    for part in progress(PARTS):
        pixels, labels = _read_part(folder, PARTS[part])
        images.append(pixels)
        targets.append(labels)
        parts.append(np.full(len(labels), part))
    x = np.concatenate(images)
    if config.data == "psmnist":
        order = np.random.default_rng(config.permutation_seed).permutation(SIDE * SIDE)
        values = np.take(x.reshape(len(x), SIDE * SIDE), order, axis=1).reshape(-1, 1)
        steps = SIDE * SIDE
    else:
        values, steps = x.reshape(-1, SIDE), SIDE
    group = np.array([f"{i}" for i in range(len(x))])
    sequences = SequenceSet(values, np.full(len(x), steps, np.int64), np.concatenate(targets), group)
    return LoadedSequences(tuple("0123456789"), sequences, np.concatenate(parts))


def _read_part(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images uint8 ``[n, 28, 28]`` and digits int64 ``[n]`` of one public part."""
    image_file, label_file = _find(folder, name, "images", 3), _find(folder, name, "labels", 1)
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UserError(f"{image_file}: images of {images.shape[1]} × {images.shape[2]} pixels; MNIST's are {SIDE} × {SIDE}")
    if len(images) != len(labels) or len(images) == 0:
        raise UserError(f"{folder}: {len(images)} images and {len(labels)} labels in the files {name}-…; fetch both again")
    if labels.max() > 9:
        raise UserError(f"{label_file}: a label is {labels.max()}; MNIST's are 0 to 9 (EMNIST's letters are another data set)")
    return images, labels.astype(np.int64)


def _find(folder: Path, name: str, kind: str, dimensions: int) -> Path:
    names = [f"{name}-{kind}{dot}idx{dimensions}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    found = next((folder / n for n in names if (folder / n).is_file()), None)
    if found is None:
        raise UserError(f"{folder}: no {names[1]} (nor without .gz) beside the others; MNIST is four files")
    return found


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the bytes of an idx file of uint8, gzipped where its name ends in ``.gz``.

    Parameters
    ----------
    path : Path
    dimensions : int
        Wanted number of them, 1 to 3.

    Returns
    -------
    ndarray of uint8

    Raises
    ------
    UserError
        The file is unreadable, no such idx file, or shorter or longer than its header says.
    """
    try:
        data = path.read_bytes()
        content = gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged or truncated gzip ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    head = 4 * (1 + dimensions)
    if len(content) < head:
        raise UserError(f"{path}: truncated: {len(content)} bytes, its header alone has {head}; fetch it again")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", content[:head])
    if magic != 0x800 + dimensions:
        hint = "; it is gzipped: its name must end in .gz" if content[:2] == b"\x1f\x8b" else ""
        raise UserError(f"{path}: begins with 0x{magic:08x}, such an idx file with 0x{0x800 + dimensions:08x}{hint}")
    size = int(np.prod(shape, dtype=np.float64))  # as float: a damaged header must not overflow
    if len(content) - head != size:
        what = "truncated" if len(content) - head < size else "too long"
        raise UserError(f"{path}: {what}: {len(content) - head} bytes where its header says {' × '.join(map(str, shape))}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
