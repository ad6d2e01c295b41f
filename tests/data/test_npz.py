"""Anybody's sequences: each form of the archive, and each way it can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import SequenceCorpus, load_sequences
from pdmu.errors import UserError

X = np.random.default_rng(0).normal(size=(12, 5, 2))
Y = np.array([0, 1, 2] * 4)
PART = np.array(["train"] * 6 + ["validation"] * 3 + ["test"] * 3)


def _load(path: Path, name: str = "mine.npz", root: Path | None = None, **arrays: object) -> SequenceCorpus:
    if arrays:
        np.savez(path / "mine.npz", **arrays)  # type: ignore[arg-type]
    return load_sequences(SequenceDataConfig(f"npz:{name}"), root or path)


def test_equal_lengths(tmp_path: Path) -> None:
    corpus = _load(tmp_path, x=X, y=Y, part=PART)
    assert np.array_equal(corpus.train.padded(np.arange(6)), X[:6].astype(np.float32)) and corpus.labels == ("0", "1", "2")
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (6, 3, 3)
    assert np.allclose(corpus.shift, X[:6].mean((0, 1)))
    by_path = _load(tmp_path, str(tmp_path / "mine.npz"), tmp_path / "elsewhere")
    assert np.array_equal(by_path.test.values, corpus.test.values)


def test_ragged_sequences_in_either_form(tmp_path: Path) -> None:
    length = np.arange(12) % 5 + 1
    padded = _load(tmp_path, x=X, length=length, y=Y, part=PART)
    flat = _load(tmp_path, values=np.concatenate([x[:n] for x, n in zip(X, length, strict=True)]), length=length, y=Y, part=PART)
    for one, two in ((padded.train, flat.train), (padded.test, flat.test)):
        assert np.array_equal(one.values, two.values) and np.array_equal(one.length, two.length)
    assert padded.test.length.tolist() == length[9:].tolist()


def test_names_groups_and_types(tmp_path: Path) -> None:
    names = np.array(["c", "a", "b"])[Y]
    corpus = _load(tmp_path, x=(X > 0).astype(np.uint8), y=names, part=PART, group=np.arange(12) % 4, standardise=False)
    assert corpus.labels == ("a", "b", "c") and corpus.test.target.tolist() == [2, 0, 1] and corpus.test.group.tolist() == ["1", "2", "3"]
    assert corpus.train.values.dtype == np.uint8 and (corpus.scale == 1).all()
    ordered = _load(tmp_path, x=X, y=names, part=PART, labels=np.array(["c", "b", "a"]))
    assert ordered.labels == ("c", "b", "a") and ordered.test.target.tolist() == [0, 2, 1]
    assert _load(tmp_path, x=X, y=Y, part=PART, labels=np.array(["u", "v", "w"])).labels == ("u", "v", "w")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "no y"),
        ({"y": Y}, r"needs x \[n, T, inputs\], or values"),
        ({"x": X, "values": X[0], "y": Y}, "needs x"),
        ({"x": X[..., 0], "y": Y}, r"not \[12, 5\]; a single input is a last axis of 1"),
        ({"values": X[0], "y": Y}, "values need length"),
        ({"values": X[0], "length": np.array([2, 2]), "y": Y[:2]}, "length sums to 4 steps, values has 5"),
        ({"x": X, "length": np.full(12, 6), "y": Y}, "length 12 of up to 6"),
        ({"x": X, "length": np.zeros(12, int), "y": Y}, "at least 1"),
        ({"x": X[:0], "y": Y[:0]}, "at least one of each"),
        ({"x": X.astype(complex), "y": Y}, "real numbers"),
        ({"x": np.where(X > 1, np.nan, X), "y": Y}, "NaN"),
        ({"x": X, "y": Y[:9]}, "12 sequences and 9 labels"),
        ({"x": X, "y": Y.astype(float)}, "of type float64"),
        ({"x": X, "y": Y - 1}, "y runs from -1 to 1"),
        ({"x": X, "y": Y, "labels": np.array(["a", "b"])}, "y runs from 0 to 2; with 2 labels"),
        ({"x": X, "y": Y.astype(str), "labels": np.array(["0", "1"])}, "y has '2'"),
        ({"x": X, "y": Y, "part": np.array(["dev"] * 12)}, "part 'dev' is none of"),
        ({"x": X, "y": Y, "group": Y[:3]}, r"group must be \[12\]"),
        ({"x": X, "y": Y, "groups": Y}, "did you mean 'group'"),
        ({"x": np.array([{}]), "y": Y}, "object arrays are refused"),
        ({"x": X, "y": Y}, "no public test part"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _load(tmp_path, **arrays)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name in ("", "none.npz"):
        with pytest.raises(UserError, match="no such file"):
            _load(tmp_path, name)
    (tmp_path / "mine.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="damaged"):
        _load(tmp_path)
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(UserError, match="a single array"):
        _load(tmp_path, "one.npy")
