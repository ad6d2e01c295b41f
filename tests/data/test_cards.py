"""Data-set cards say what the recordings are: counts, sizes, checksums and labels."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pdmu.data.cards import data_set_cards
from pdmu.data.recipe import load_recipe
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import load_sequences

CARDS = data_set_cards()
OF_SEQUENCES = {"mnist": SequenceDataConfig("mnist-rows"), "eeg": SequenceDataConfig("eeg", folds=7)}  # whose labels are not the manifest's


@pytest.mark.parametrize("recipe", ["cough", "birds", "esc10"])
def test_every_data_set_of_a_recipe_has_a_card(recipe: str) -> None:
    prefixes = {card.prefix for card in CARDS.values()}
    assert set(load_recipe(recipe).data.include) <= prefixes


@pytest.mark.parametrize("name", sorted(CARDS))
def test_card_says_where_to_get_the_data_and_what_may_be_done_with_it(name: str) -> None:
    card = CARDS[name]
    assert card.source.startswith("https://") and card.licence and card.use and card.citation and card.group and card.files > 0
    assert all(re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", value) for value in card.checksums.values())
    if card.prefix:
        assert card.bytes and re.fullmatch("[0-9a-f]{64}", card.sha256) and card.labels
    else:  # never at hand
        assert not card.sha256 and not card.manifest_source and card.get and card.checksums
        assert not card.holds("any/path.wav", "any source")


def _rows(name: str, data_dir: Path) -> list[dict[str, str]]:
    if not CARDS[name].prefix:
        pytest.skip(f"{name} is not among the development data: its card repeats what its source says")
    with (data_dir / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [r for r in csv.DictReader(file) if r["path"].startswith(CARDS[name].prefix)]


@pytest.mark.parametrize("name", sorted(CARDS))
def test_card_matches_the_recordings(name: str, data_dir: Path) -> None:
    card, rows = CARDS[name], _rows(name, data_dir)
    assert all(card.holds(r["path"], r["source"]) for r in rows) and not card.holds(rows[0]["path"], "my own")
    assert card.files == len(rows)
    assert card.seconds == round(sum(float(r["duration_s"] or 0) for r in rows))
    digest, size = hashlib.sha256(), 0
    for path in sorted(r["path"] for r in rows):
        content = (data_dir / path).read_bytes()
        size += len(content)
        digest.update(f"{hashlib.sha256(content).hexdigest()}  {path}\n".encode())
    assert (card.bytes, card.sha256) == (size, digest.hexdigest())


@pytest.mark.parametrize("name", sorted(CARDS))
def test_card_counts_the_labels(name: str, data_dir: Path, tmp_path: Path) -> None:
    if name not in OF_SEQUENCES:
        assert CARDS[name].labels == Counter(r["label"] for r in _rows(name, data_dir))
        return
    corpus = load_sequences(OF_SEQUENCES[name], data_dir, tmp_path)
    counts = np.bincount(np.concatenate([p.target for p in (corpus.train, corpus.validation, corpus.test)]))
    assert CARDS[name].labels == dict(zip(corpus.labels, counts.tolist(), strict=True))


def test_published_checksums_hold_for_mnist(data_dir: Path) -> None:
    for name in ("train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        content = (data_dir / "mnist" / name).read_bytes()
        assert CARDS["mnist"].checksums[name] == f"md5:{hashlib.md5(content).hexdigest()}"
