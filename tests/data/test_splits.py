"""Splits: no group on both sides, like shares, the same every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdmu.data.manifest import Row
from pdmu.data.splits import group_folds, split
from pdmu.errors import UserError


def _rows(groups: Sequence[int], labels: Sequence[int]) -> list[Row]:
    return [Row(f"{i}.wav", f"l{lab}", f"g{g}", f"fold{g % 4}") for i, (g, lab) in enumerate(zip(groups, labels, strict=True))]


def _labels(rows: Sequence[Row]) -> list[str]:
    return [r.label for r in rows]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=120), st.integers(2, 5), st.integers(0, 5))
def test_groups_stay_together(pairs: list[tuple[int, int]], folds: int, seed: int) -> None:
    rows = _rows([p[0] for p in pairs], [p[1] for p in pairs])
    if len({r.group for r in rows}) < folds:
        with pytest.raises(UserError, match="cannot be split"):
            group_folds(rows, _labels(rows), folds, seed)
        return
    part = group_folds(rows, _labels(rows), folds, seed)
    assert all(len({p for p, r in zip(part, rows, strict=True) if r.group == g}) == 1 for g in {r.group for r in rows})
    assert np.array_equal(part, group_folds(rows, _labels(rows), folds, seed))
    assert set(part) <= set(range(folds))


def test_shares_are_even_in_every_stratum() -> None:
    rng = np.random.default_rng(0)
    rows = _rows(rng.integers(0, 100, 600).tolist(), (rng.random(600) < 0.1).astype(int).tolist())
    part = group_folds(rows, _labels(rows), 5, 1)
    for label in ("l0", "l1"):
        counts = np.bincount(part[[r.label == label for r in rows]], minlength=5)
        assert counts.max() - counts.min() <= 0.1 * counts.sum()


def test_validation_share_avoids_the_part_that_holds_most_of_a_class() -> None:
    """One group has 80 of 100 recordings of a class: it must be trained on."""
    rows = [Row(f"a{i}", "rare", "big" if i < 80 else f"small{i}") for i in range(100)]
    rows += [Row(f"b{i}", "other", f"o{i}") for i in range(300)]
    held = split(rows, _labels(rows), "groups", share=0.2, folds=None, fold=0, seed=3)
    assert not held[:80].any()
    assert 0.1 < held.mean() < 0.3
    assert held[80:100].any()


def test_folds_partition_and_seeds_differ() -> None:
    rows = _rows(list(range(60)), [i % 2 for i in range(60)])
    held = [split(rows, _labels(rows), "groups", share=0, folds=4, fold=k, seed=1) for k in range(4)]
    assert np.array_equal(np.sum(held, axis=0), np.ones(60))
    assert not np.array_equal(held[0], split(rows, _labels(rows), "groups", share=0, folds=4, fold=0, seed=2))


def test_no_share_holds_nothing() -> None:
    rows = _rows(range(5), range(5))
    assert not split(rows, _labels(rows), "groups", share=0, folds=None, fold=0, seed=1).any()


def test_official_folds() -> None:
    rows = _rows(range(16), [0] * 16)
    held = split(rows, _labels(rows), "official", share=0, folds=None, fold=0, seed=1, official=["fold2"])
    assert [r.fold for r, h in zip(rows, held, strict=True) if h] == ["fold2"] * 4
    assert np.array_equal(held, split(rows, _labels(rows), "official", share=0, folds=4, fold=2, seed=1))


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"official": ["fold9"], "folds": None}, "no official fold 'fold9'"),
        ({"folds": 3}, "4 official folds"),
    ],
)
def test_official_folds_that_do_not_exist(kwargs: dict[str, object], says: str) -> None:
    rows = _rows(range(16), [0] * 16)
    with pytest.raises(UserError, match=says):
        split(rows, _labels(rows), "official", share=0, fold=0, seed=1, **kwargs)  # type: ignore[arg-type]


def test_official_folds_that_leak_a_group_are_refused() -> None:
    rows = [Row("a", "x", "same", "fold1"), Row("b", "x", "same", "fold2")]
    with pytest.raises(UserError, match="share the group 'same'"):
        split(rows, _labels(rows), "official", share=0, folds=None, fold=0, seed=1, official=["fold1"])
