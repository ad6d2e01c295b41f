"""What every data set of sequences shares: parts, groups, official folds, scaling, options and words when something is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pdmu.data.cards import data_set_cards
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import LOADERS, LoadedSequences, SequenceSet, cut, find_folder, load_sequences, read_options
from pdmu.errors import UserError


def _loaded(n: int = 60, groups: int = 12, test: int = 0, validation: int = 0, fold: int = 0) -> LoadedSequences:
    """Return `n` sequences of 2 inputs and 1 to 3 steps; every value of sequence i is i."""
    length = np.arange(n, dtype=np.int64) % 3 + 1
    values = np.repeat(np.arange(n), length)[:, None] * np.ones((1, 2))
    part = np.array(["test"] * test + ["validation"] * validation + ["train"] * (n - test - validation))
    target = np.arange(n, dtype=np.int64) // groups % 2
    sequences = SequenceSet(values, length, target, np.array([f"g{i % groups}" for i in range(n)]))
    folds = np.array([f"fold{i % groups % fold + 1}" for i in range(n)]) if fold else None
    return LoadedSequences(("a", "b"), sequences, part, fold=folds)


def _ids(part: SequenceSet) -> set[int]:
    return set(part.values[part.start, 0].astype(int).tolist())


def test_padded_sequences_have_zeros_behind_their_ends() -> None:
    s = _loaded().sequences
    out = s.padded(np.array([4, 5, 0]))
    assert out.shape == (3, 3, 2) and out.dtype == np.float32
    assert out[:, :, 0].tolist() == [[4, 4, 0], [5, 5, 5], [0, 0, 0]]
    assert _ids(s.subset(s.group == "g3")) == {3, 15, 27, 39, 51}


@pytest.mark.parametrize("validation", ["groups", "sequences"])
def test_parts_are_disjoint_and_whole(validation: str) -> None:
    loaded = _loaded(test=12)
    corpus = cut(loaded, SequenceDataConfig("npz:x", validation_share=0.25, validation=validation))  # type: ignore[arg-type]
    parts = [_ids(corpus.train), _ids(corpus.validation), _ids(corpus.test)]
    assert parts[2] == set(range(12)) and set.union(*parts) == set(range(60)) and sum(map(len, parts)) == 60
    assert len(parts[1]) == 12
    shared = set(corpus.train.group) & set(corpus.validation.group)
    assert bool(shared) == (validation == "sequences")


def test_a_public_validation_part_is_taken() -> None:
    corpus = cut(_loaded(test=6, validation=7), SequenceDataConfig("npz:x", validation_share=0.25))
    assert _ids(corpus.validation) == set(range(6, 13)) and "public validation part" in corpus.split


def test_folds_hold_out_whole_groups_and_cover_everything() -> None:
    seen: set[int] = set()
    for fold in range(4):
        corpus = cut(_loaded(test=6), SequenceDataConfig("npz:x", folds=4, fold=fold))
        groups = [set(p.group.tolist()) for p in (corpus.train, corpus.validation, corpus.test)]
        assert not groups[0] & groups[1] and not groups[2] & (groups[0] | groups[1])
        assert not seen & _ids(corpus.test)
        seen |= _ids(corpus.test)
    assert seen == set(range(60))


def test_official_folds_are_used_when_there_are_as_many() -> None:
    official = cut(_loaded(fold=3), SequenceDataConfig("npz:x", folds=3, fold=1))
    assert "official fold fold2 of 3" in official.split and _ids(official.test) == {i for i in range(60) if i % 12 % 3 == 1}
    assert "whole groups" in cut(_loaded(fold=3), SequenceDataConfig("npz:x", folds=4)).split
    with pytest.raises(UserError, match=r"no public test part.*folds=3"):
        cut(LoadedSequences(("a", "b"), _loaded().sequences, np.full(60, ""), fold=_loaded(fold=3).fold), SequenceDataConfig("npz:x"))


def test_a_share_smaller_than_a_group_holds_one_group() -> None:
    corpus = cut(_loaded(groups=4, test=4), SequenceDataConfig("npz:x", validation_share=0.05))
    assert len(set(corpus.validation.group.tolist())) == 1
    with pytest.raises(UserError, match=r"1 group\(s\).*validation=sequences"):
        cut(_loaded(groups=1, test=4), SequenceDataConfig("npz:x"))


def test_inputs_are_scaled_by_the_training_part_alone() -> None:
    loaded = _loaded(test=30)
    corpus = cut(loaded, SequenceDataConfig("npz:x", validation_share=0))
    x = corpus.train.values
    assert np.allclose(corpus.shift, x.mean(0)) and np.allclose(corpus.scale, 1 / x.std(0))
    still = cut(LoadedSequences(loaded.labels, loaded.sequences, loaded.part, standardise=False), SequenceDataConfig("npz:x"))
    assert not still.shift.any() and (still.scale == 1).all()


def test_a_label_without_training_sequences_is_refused() -> None:
    loaded = _loaded(groups=30, test=30)  # the first thirty are all of label a
    with pytest.raises(UserError, match="the label a has no sequences left to train on"):
        cut(loaded, SequenceDataConfig("npz:x", validation="sequences"))


@dataclass(frozen=True)
class _Options:
    steps: int = 3
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be positive")


def test_options_are_read_and_refused_by_name() -> None:
    assert read_options(_Options, SequenceDataConfig("shd", options={"steps": 4.0})) == _Options(4, 1.0)
    for options, message in (
        ({"step": 4.0}, "did you mean 'steps'"),
        ({"steps": 2.5}, "whole number"),
        ({"steps": 0.0}, "must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            read_options(_Options, SequenceDataConfig("shd", options=options))


@pytest.mark.parametrize("name", sorted(set(LOADERS) - {"npz"}))
def test_a_missing_data_set_says_where_it_comes_from_and_under_which_terms(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_sequences(SequenceDataConfig(name), tmp_path, tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and "--root" in message
    assert any(card.licence in message and (card.get or card.source) in message for card in data_set_cards().values())


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_an_unknown_option_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="options"):
        load_sequences(SequenceDataConfig(name, options={"averge": 2.0}), tmp_path, tmp_path)


def test_an_unknown_data_set_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data set; known: psmnist"):
        load_sequences(SequenceDataConfig("mnist"), tmp_path)


def test_a_folder_is_found_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.h5").touch()
    assert find_folder(tmp_path, ("a", "b"), "*.h5", "shd") == tmp_path / "b" == find_folder(tmp_path / "b", ("a",), "*.h5", "shd")
