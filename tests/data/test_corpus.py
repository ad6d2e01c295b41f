"""What a recipe takes of a manifest: every recording left out has its reason, and no group stands on both sides of the split."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pdmu.data.corpus import Corpus, load_corpus
from pdmu.data.manifest import Row
from pdmu.data.recipe import load_recipe
from tests.recordings import make_recordings


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recordings(tmp_path_factory.mktemp("recordings"), per_class=8)


def _load(root: Path, rows: list[Row], *changes: str) -> Corpus:
    return load_corpus(load_recipe(str(root / "recipe.toml"), changes), rows, root, root / "cache")


def _rows(groups: int = 99) -> list[Row]:
    return [Row(f"{label}/{i:02d}.wav", label, f"{label}{i % groups}") for label in ("tone", "noise") for i in range(8)]


def test_recordings_that_cannot_be_used_have_their_reason(root: Path) -> None:
    shutil.copy(root / "tone" / "00.wav", root / "noise" / "same.wav")
    shutil.copy(root / "tone" / "01.wav", root / "tone" / "again.wav")
    soundfile.write(root / "noise" / "brief.wav", np.random.default_rng(0).normal(0, 0.1, 820), 16000)
    more = [Row(f"{p}.wav", p.split("/")[0], p) for p in ("noise/same", "tone/again", "noise/brief", "noise/none")]
    step = "model.conv=[{channels=2, kernel_time=8, stride_time=8}]"  # 820 samples are three frames
    corpus = _load(root, [*_rows(), *more], step, "augment.speeds=[]")
    assert {r.path: r.reason for r in corpus.rejected} == {
        "noise/same.wav": "the same file as tone/00.wav, which is labelled 'tone'",
        "tone/again.wav": "the same file as tone/01.wav",
        "noise/brief.wav": "too short: 3 frames of the front end, a model step takes 8",
        "noise/none.wav": "unreadable: No such file or directory",
    }
    assert {r.path for r in (*corpus.train.rows, *corpus.validation.rows)} == {r.path for r in _rows()}


def test_what_is_left_out_on_purpose_is_counted(root: Path) -> None:
    corpus = _load(root, _rows(), 'data.exclude=["tone/00"]', 'data.include=["tone/", "noise/00", "noise/01"]')
    assert corpus.excluded == {"in data.exclude": 1, "not in data.include": 6}


def test_a_group_with_a_recording_that_is_never_held_out_is_never_held_out(root: Path) -> None:
    share = "data.validation_share=0.5"
    held = _load(root, _rows(groups=4), share).validation.rows[0]
    corpus = _load(root, _rows(groups=4), share, f'data.train_only=["{held.path}"]')
    groups = [{r.group for r in clips.rows} for clips in (corpus.train, corpus.validation)]
    assert held.group in groups[0] and groups[1] and not groups[0] & groups[1]
