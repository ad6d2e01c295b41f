"""Recipes: the shipped ones are valid and keep their promises; mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdmu.data.recipe import load_recipe
from pdmu.errors import UserError
from tests.recordings import RECIPE

NON_FREE = ["CC BY-NC 3.0 (NON-COMMERCIAL)", "CC BY-SA 4.0", "CC Sampling+ 1.0 (no advertising use)", "", "xeno-canto, CC BY-NC-SA"]
FREE = ["CC0 1.0 (freesound 1 by x)", "CC BY 3.0 (freesound 2 by y)", "CC BY 4.0", "ODbL 1.0 / DbCL 1.0", "BSD-3-Clause (repo licence)"]


def _recipe(tmp_path: Path, text: str) -> str:
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["cough", "birds", "esc10"])
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.task.name == name
    assert recipe.detector is not None
    recipe.model.layer_inputs(recipe.frontend.n_mels)


def test_cough_is_trained_on_commercial_terms_only() -> None:
    recipe = load_recipe("cough")
    assert not any(recipe.licence_allowed(text) for text in NON_FREE)
    assert all(recipe.licence_allowed(text) for text in FREE)
    assert "esc50/" in recipe.data.validate_only


def test_labels_map_to_classes() -> None:
    cough, esc10 = load_recipe("cough"), load_recipe("esc10")
    assert cough.classes == ("cough", "other")
    assert [cough.class_of(x) for x in ("cough", "coughing", "dog")] == [0, 0, 1]
    assert esc10.class_of("dog") == esc10.model.labels.index("dog")
    assert esc10.class_of("coughing") is None


def test_settings_can_be_changed(tmp_path: Path) -> None:
    changes = ("train.lr=0.5", "augment.speeds=[]", "task.name=other name", "frontend.compression=log")
    recipe = load_recipe(_recipe(tmp_path, RECIPE), changes)
    assert (recipe.train.lr, recipe.augment.speeds, recipe.task.name, recipe.frontend.compression) == (0.5, (), "other name", "log")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("train.epohcs=3", "did you mean 'epochs'"),
        ("train.epochs='many'", "expected int"),
        ("train", "write section.key=value"),
        ("task.name.x=1", "'name' is a value"),
        ("augment.snr_db=[3]", "must be a pair"),
        ("augment.background=2", "probability"),
        ("train.mixup_alpha=0.2", "frame_targets"),
        ("train.class_share.bird=1", "'bird' is no class"),
        ("task.mapping.bird=['x']", "'bird' is neither a label"),
        ("task.licence_allow=['(']", "regular expression"),
        ("data.validation_share=1.5", "validation_share"),
        ("data.weights={'tone/'=-1.0}", "weights"),
        ("train.batch=0", "must be positive"),
        ("train.dropout=2.0", "dropout"),
        ("train.seed=-1", "seed"),
        ("train.grad_clip=-1.0", "grad_clip"),
        ("train.class_share={tone=0.0}", "class_share must be positive"),
        ("augment.rt60_s=[0.0, 1.0]", "rt60_s must be positive"),
        ("augment.mel_masks=-1", "mel_masks must not be negative"),
        ("frontend={n_mels=128, window_samples=256}", "narrower than an FFT bin"),
        ("model.conv=[{channels=4, depthwise=true}]", "depthwise convolution has 4 channels over 1"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_recipe(_recipe(tmp_path, RECIPE), (change,))


def test_missing_and_broken_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of: birds, .*cough, .*esc10"):
        load_recipe("frogs")
    with pytest.raises(UserError, match="not valid TOML"):
        load_recipe(_recipe(tmp_path, "[task\n"))
