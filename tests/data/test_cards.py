"""Data-set cards say what the recordings are: counts, sizes, checksums and labels."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import pytest

from pdmu.data.cards import data_set_cards
from pdmu.data.recipe import load_recipe

CARDS = data_set_cards()


@pytest.mark.parametrize("recipe", ["cough", "birds", "esc10"])
def test_every_data_set_of_a_recipe_has_a_card(recipe: str) -> None:
    prefixes = {card.prefix for card in CARDS.values()}
    assert set(load_recipe(recipe).data.include) <= prefixes


@pytest.mark.parametrize("name", sorted(CARDS))
def test_card_matches_the_recordings(name: str, data_dir: Path) -> None:
    card = CARDS[name]
    with (data_dir / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["path"].startswith(card.prefix)]
    assert all(card.holds(r["path"], r["source"]) for r in rows) and not card.holds(rows[0]["path"], "my own")
    assert card.files == len(rows)
    assert card.labels == Counter(r["label"] for r in rows)
    assert card.seconds == round(sum(float(r["duration_s"]) for r in rows))
    digest, size = hashlib.sha256(), 0
    for path in sorted(r["path"] for r in rows):
        content = (data_dir / path).read_bytes()
        size += len(content)
        digest.update(f"{hashlib.sha256(content).hexdigest()}  {path}\n".encode())
    assert (card.bytes, card.sha256) == (size, digest.hexdigest())
