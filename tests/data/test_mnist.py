"""Sequential MNIST: the idx format, the order of the pixels, and every way the files can be wrong."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import load_sequences
from pdmu.errors import UserError

Arrays = dict[str, np.ndarray]


def _arrays() -> Arrays:
    rng = np.random.default_rng(3)
    sizes = {"train": 40, "t10k": 20}
    images = {f"{n}-images-idx3-ubyte": rng.integers(0, 256, (k, 28, 28), np.uint8) for n, k in sizes.items()}
    return images | {f"{n}-labels-idx1-ubyte": (np.arange(k) % 10).astype(np.uint8) for n, k in sizes.items()}


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mnist").mkdir()
    for name, array in _arrays().items():
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(_idx(array)))
    return tmp_path


def _config(data: str = "psmnist", **settings: object) -> SequenceDataConfig:
    return SequenceDataConfig(data, validation="sequences", **settings)  # type: ignore[arg-type]


def test_one_permuted_pixel_a_step(folder: Path) -> None:
    corpus = load_sequences(_config(permutation_seed=5), folder)
    assert (len(corpus.train), len(corpus.validation), len(corpus.test), corpus.inputs) == (36, 4, 20, 1)
    assert corpus.test.values.dtype == np.uint8 and (corpus.test.length == 784).all()
    order = np.random.default_rng(5).permutation(784)
    first = _arrays()["t10k-images-idx3-ubyte"][0].reshape(-1)
    assert np.array_equal(corpus.test.padded(np.array([0]))[0, :, 0], first[order])
    assert corpus.test.target.tolist() == [*range(10), *range(10)] and corpus.labels == tuple("0123456789")
    assert not np.array_equal(load_sequences(_config(permutation_seed=6), folder).test.values, corpus.test.values)


def test_one_row_a_step(folder: Path) -> None:
    corpus = load_sequences(_config("mnist-rows"), folder / "mnist")  # the folder itself
    assert corpus.inputs == 28 and (corpus.test.length == 28).all()
    assert np.array_equal(corpus.test.padded(np.array([3]))[0], _arrays()["t10k-images-idx3-ubyte"][3])


def test_unpacked_files_and_torchvision_folders_are_read(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in _arrays().items():
        (raw / name).write_bytes(_idx(array))
    assert len(load_sequences(_config(), tmp_path).test) == 20


GOOD = _arrays()["t10k-labels-idx1-ubyte"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(_idx(GOOD))[:-9], "damaged or truncated gzip"),
        (b"no gzip", "damaged or truncated gzip"),
        (gzip.compress(_idx(GOOD)[:6]), "truncated: 6 bytes"),
        (gzip.compress(_idx(GOOD)[:-3]), "truncated: 17 bytes where its header says 20"),
        (gzip.compress(_idx(GOOD) + b"\0"), "too long"),
        (gzip.compress(b"\0\0\x0d\x01" + _idx(GOOD)[4:]), "begins with 0x00000d01"),
        (gzip.compress(gzip.compress(_idx(GOOD))), r"name must end in \.gz"),
        (gzip.compress(_idx(GOOD[:-1])), "20 images and 19 labels"),
        (gzip.compress(_idx(GOOD + 1)), "a label is 10"),
        (None, r"no t10k-labels-idx1-ubyte\.gz"),
    ],
)
def test_wrong_files_are_named(folder: Path, content: bytes | None, message: str) -> None:
    path = folder / "mnist" / "t10k-labels-idx1-ubyte.gz"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_sequences(_config(), folder)


def test_images_of_another_size_are_refused(folder: Path) -> None:
    path = folder / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(_idx(np.zeros((20, 32, 32), np.uint8))))
    with pytest.raises(UserError, match="32 × 32 pixels"):
        load_sequences(_config(), folder)


def test_real_rows(data_dir: Path) -> None:
    corpus = load_sequences(_config("mnist-rows"), data_dir)
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (54000, 6000, 10000)
    assert np.bincount(corpus.test.target).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean = np.concatenate([corpus.train.values, corpus.validation.values]).mean() / 255
    assert mean == pytest.approx(0.1307, abs=1e-4)  # as published for the training part
