"""Corpus and segments: placement, targets, class balance, repeatability, and what never reaches training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pdmu.data.batches import Sampler
from pdmu.data.corpus import Corpus, load_corpus
from pdmu.data.manifest import Row, read_manifest
from pdmu.data.recipe import Recipe, load_recipe
from pdmu.data.synth import SOUNDS, make_sound
from pdmu.errors import UserError
from tests.recordings import make_recordings

PLAIN = (
    *("augment.background=0", "augment.equalise=0", "augment.reverb=0", "augment.band_limit=0"),
    *("augment.floor_dbfs=[-200, -200]", "augment.floor_tilt_db=0", "augment.speeds=[]"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recordings(tmp_path_factory.mktemp("recordings"))


def _corpus(root: Path, *changes: str, rows: list[Row] | None = None) -> tuple[Recipe, Corpus]:
    recipe = load_recipe(str(root / "recipe.toml"), changes)
    return recipe, load_corpus(recipe, rows or read_manifest(None, root)[0], root, root / "cache")


def test_bad_files_are_listed_and_do_not_stop(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(root, folder)
    shutil.copy(folder / "tone" / "00.wav", folder / "tone" / "copy.wav")
    (folder / "noise" / "broken.wav").write_bytes(b"not audio")
    (folder / "owl").mkdir()
    shutil.copy(folder / "noise" / "00.wav", folder / "owl" / "x.wav")
    _, corpus = _corpus(folder, "task.mapping.noise=['noise']")
    assert {(r.path, r.reason.split(":")[0]) for r in corpus.rejected} == {
        ("noise/broken.wav", "unreadable"),
        ("owl/x.wav", "mislabelled"),
        ("tone/copy.wav", "the same file as tone/00.wav"),
    }
    assert len({r.path for r in corpus.train.rows}) + len(corpus.validation) == 24


def test_validate_only_and_disallowed_licences_are_never_trained_on(root: Path) -> None:
    found, _ = read_manifest(None, root)
    rows = [Row(r.path, r.label, r.group, "", "", "CC BY-NC" if r.path.endswith(("3.wav", "7.wav")) else "CC0") for r in found]
    _, corpus = _corpus(root, "task.licence_allow=['CC0']", "data.validate_only=['tone/07']", rows=rows)
    used = {r.path for r in (*corpus.train.rows, *corpus.validation.rows)}
    assert not any(p.endswith(("3.wav", "7.wav")) for p in used)
    assert [r.path for r in corpus.extra.rows] == ["tone/07.wav"]
    assert corpus.excluded == {"licence not allowed: CC BY-NC": 3}


def test_classes_are_drawn_by_their_share(root: Path) -> None:
    recipe, corpus = _corpus(root, *PLAIN, "train.class_share.tone=3", "data.procedural=18")
    sampler = Sampler(recipe, corpus.train)
    assert sampler.probability[corpus.train.target == 0].sum() == pytest.approx(0.75)
    batch = sampler.draw(np.random.default_rng(0), 400)
    assert batch.clip_target.mean() == pytest.approx(0.75, abs=0.08)


def test_targets_are_where_the_tone_sounds(root: Path) -> None:
    recipe, corpus = _corpus(root, *PLAIN, "train.class_share.noise=0.001")
    batch = Sampler(recipe, corpus.train).draw(np.random.default_rng(1), 64)
    steps = batch.energies.reshape(64, -1, 2, 16).sum((2, 3))
    loud = steps > steps.max(1, keepdims=True) * 10**-2.5
    assert batch.energies.shape[1] == 2 * batch.step_target.shape[1]
    assert (loud == (batch.step_target[:, :, 0] > 0)).mean() > 0.97
    assert not (batch.step_weight[batch.step_target[:, :, 0] > 0] == 0).any()
    undecided = batch.step_weight == 0
    assert undecided.any(1).mean() > 0.9 and undecided.sum(1).max() <= 8  # 0.25 s in steps of 32 ms
    starts = (steps > 1.0).argmax(1)
    assert (starts == 0).sum() >= 8 and len(set(starts)) > 3  # at once, and at various times


def test_long_clips_are_cut_where_they_sound(root: Path) -> None:
    recipe, corpus = _corpus(root, *PLAIN, "train.segment_s=0.16", "train.lead_in_s=0.05", "train.class_share.noise=0.001")
    batch = Sampler(recipe, corpus.train).draw(np.random.default_rng(2), 100)
    assert (batch.step_target.max((1, 2)) == 1).all()


def test_an_epoch_can_be_repeated_exactly(root: Path) -> None:
    recipe, corpus = _corpus(root, "augment.overlay=0.5")
    sampler = Sampler(recipe, corpus.train)
    one, two, other = (list(sampler.epoch(e, 1)) for e in (3, 3, 4))
    assert len(one) == 6
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.energies, b.energies) and np.array_equal(a.keep, b.keep) and np.array_equal(a.step_target, b.step_target)
    assert not np.array_equal(one[0].energies, other[0].energies)
    assert np.isfinite(one[0].energies).all() and one[0].energies.dtype == np.float32 and (one[0].energies > 0).all()


def test_background_is_mixed_at_the_wanted_level(root: Path) -> None:
    quiet = [c for c in PLAIN if not c.startswith("augment.background")]
    recipe, corpus = _corpus(root, *quiet, "augment.background=1", "augment.snr_db=[10, 10]", "train.class_share.noise=0.001")
    batch = Sampler(recipe, corpus.train).draw(np.random.default_rng(3), 50)
    level = batch.energies.sum(2)
    silent = batch.step_target[:, :, 0].repeat(2, 1) == 0
    ratio = [10 * np.log10(e.max() / np.median(e[s])) for e, s in zip(level, silent, strict=True)]
    assert np.median(ratio) == pytest.approx(10, abs=1.5)


def test_mixup_keeps_targets_between(root: Path) -> None:
    recipe, corpus = _corpus(root, "train.mixup_alpha=1", "train.frame_targets=clip")
    target = Sampler(recipe, corpus.train).draw(np.random.default_rng(4), 64).clip_target
    assert ((target > 0.05) & (target < 0.95)).any() and target.min() >= 0 and target.max() <= 1


def test_impossible_recipes(root: Path) -> None:
    recipe, corpus = _corpus(root, "data.exclude=['noise/']", "data.background=[]", "data.validation_share=0.3")
    with pytest.raises(UserError, match="no recording of the class 'noise'"):
        Sampler(recipe, corpus.train)
    recipe, corpus = _corpus(root, "data.background=[]")
    with pytest.raises(UserError, match="no background recording"):
        Sampler(recipe, corpus.train)


@pytest.mark.parametrize("kind", sorted(SOUNDS))
def test_synthetic_sounds_are_sounds_and_repeatable(kind: str) -> None:
    for index in range(3):
        pcm = make_sound(kind, index, 16000)
        assert pcm.dtype == np.int16 and 0.3 * 16000 <= len(pcm) <= 2.5 * 16000 and 8000 < np.abs(pcm.astype(int)).max() < 20000
        assert np.array_equal(pcm, make_sound(kind, index, 16000))
    assert not np.array_equal(make_sound(kind, 0, 16000)[:4000], make_sound(kind, 1, 16000)[:4000])
