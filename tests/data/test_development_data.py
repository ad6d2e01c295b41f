"""The shipped recipes on the real recordings: what is trained on, what is held apart, every fortieth recording read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdmu.data.corpus import Corpus, load_corpus
from pdmu.data.manifest import read_manifest
from pdmu.data.recipe import load_recipe


def _corpus(name: str, data_dir: Path, cache: Path, every: int, folds: int | None = None) -> Corpus:
    rows, rejected = read_manifest(data_dir / "manifest.csv", data_dir)
    assert rejected == []
    changes = ("augment.speeds=[]",) if name == "esc10" else ("augment.speeds=[]", "data.procedural=9")
    return load_corpus(load_recipe(name, changes), rows[::every], data_dir, cache, folds=folds)


def test_cough(data_dir: Path, tmp_path: Path) -> None:
    corpus = _corpus("cough", data_dir, tmp_path, 20)
    assert corpus.rejected == ()
    used = [*corpus.train.rows, *corpus.validation.rows]
    assert {r.path.split("/")[0] for r in used} >= {"cough_c19", "cough_etiquette", "gsc", "esc10", "crying_baby_dac", "procedural"}
    assert not any(word in r.licence.upper() for r in used for word in ("NON-COMMERCIAL", "BY-NC", "BY-SA", "SAMPLING"))
    assert {r.path.split("/")[0] for r in corpus.extra.rows} == {"esc50"}
    assert not any(r.path.startswith("cough_etiquette/") for r in corpus.validation.rows)
    assert not {r.group for r in corpus.train.rows} & {r.group for r in corpus.validation.rows}
    coughs = [r.label for r in used if r.label == "cough"]
    assert len(coughs) == int((corpus.train.target == 0).sum() + (corpus.validation.target == 0).sum())


@pytest.mark.parametrize("name", ["birds", "esc10"])
def test_no_group_on_both_sides(name: str, data_dir: Path, tmp_path: Path) -> None:
    corpus = _corpus(name, data_dir, tmp_path, 20 if name == "birds" else 3, folds=4)
    assert len(corpus.validation) > 0
    assert not {r.group for r in corpus.train.rows} & {r.group for r in corpus.validation.rows}
    assert not any(r.path.startswith(("streams", "mnist", "eeg", "soundscape")) for r in corpus.train.rows)


def test_decoys_are_training_songs_of_no_species(data_dir: Path, tmp_path: Path) -> None:
    rows, _ = read_manifest(data_dir / "manifest.csv", data_dir)
    recipe = load_recipe("birds", ("augment.speeds=[]", "data.procedural=0", 'data.decoys={ "birds/" = [0.6, 1.6] }'))
    corpus = load_corpus(recipe, rows[::20], data_dir, tmp_path, folds=4)
    decoys = [(r, t) for r, t in zip(corpus.train.rows, corpus.train.target, strict=True) if r.source == "decoy"]
    songs = {r.path for r in corpus.train.rows if r.path.startswith("birds/")}
    assert {r.path.split("/", 2)[2] for r, _ in decoys} == songs and len(decoys) == 2 * len(songs)
    assert {t for _, t in decoys} == {3}  # "other"
    assert not any(r.source == "decoy" for r in corpus.validation.rows)
