"""Rows of the results: equal sizes, pooling, merging, and what the gate is said to bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.rows import (
    Row,
    build_parser,
    finished,
    gain,
    main,
    match_widths,
    merge,
    parameter_count,
    plan,
    progress,
    run_folders,
    seed_figures,
    train_run,
)
from benchmarks.rows import with_widths as widened
from pdmu.config import FAMILIES, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.nn.model import PDMUNet

SIZES: dict[str, Any] = {"hidden": 24, "channels": 3, "order": 5, "theta": 20.0, "taps": 4, "dilation": 2}
RECIPE = """
[task]
name = "tones"
[sequence]
data = "npz:{data}"
validation_share = 0.25
[model]
labels = ["high", "low"]
readout = "mean"
[[model.layers]]
hidden = 12
channels = 2
order = 4
theta = 8.0
taps = 3
dilation = 1
[[model.layers]]
hidden = 6
channels = 2
order = 4
theta = 8.0
taps = 3
dilation = 1
[train]
epochs = 2
batch = 8
"""


def family_model(family: str, widths: tuple[int, ...] = (24,)) -> ModelConfig:
    layers = tuple(PDMUConfig(**(SIZES | FAMILIES[family] | {"hidden": h})) for h in widths)
    return ModelConfig(("a", "b", "c"), layers=layers)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    y = np.arange(48) % 2
    x = np.sin(np.arange(30)[None, :, None] * (0.3 + 0.9 * y[:, None, None])) + 0.1 * rng.standard_normal((48, 30, 1))
    part = np.where(np.arange(48) < 32, "train", "test")
    np.savez(tmp_path / "tones.npz", x=x.astype(np.float32), y=np.array(["low", "high"])[y], part=part)
    path = tmp_path / "tones.toml"
    path.write_text(RECIPE.format(data=tmp_path / "tones.npz"))
    return path


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("widths", [(24,), (24, 10)])
def test_widths_are_the_largest_that_fit(family: str, widths: tuple[int, ...]) -> None:
    target = parameter_count(family_model("pdmu", widths), 7)
    model = family_model(family, widths)
    found = match_widths(model, 7, target)
    built = PDMUNet(widened(model, found), 7)
    assert sum(p.numel() for p in built.parameters()) == parameter_count(widened(model, found), 7) <= target
    wider = tuple(max(1, (found[0] + 1) * h // widths[0]) for h in widths)
    assert parameter_count(widened(model, wider), 7) > target


def test_the_pdmu_itself_keeps_its_widths() -> None:
    model = family_model("pdmu", (24, 10))
    assert match_widths(model, 7, parameter_count(model, 7)) == (24, 10)


def test_no_width_fits() -> None:
    with pytest.raises(UserError, match="--no-match"):
        match_widths(family_model("pdmu"), 7, 10)


def test_a_plan_matches_to_the_recipes_own_pdmu(recipe: Path) -> None:
    own = plan(str(recipe), "pdmu", (), True, lambda _: 1)
    assert own.widths == () and own.parameters == own.parameters_of_pdmu
    lstm = plan(str(recipe), "lstm", ("model.layers.0.taps=9",), True, lambda _: 1)
    assert lstm.parameters_of_pdmu == own.parameters and lstm.parameters <= own.parameters
    assert plan(str(recipe), "lstm", (), False, lambda _: 1).hidden == (12, 6)


def test_settings_tell_rows_apart_but_not_their_seeds(recipe: Path) -> None:
    one, other = (plan(str(recipe), "lmu", changes, True, lambda _: 1) for changes in ((), ("train.lr=0.01",)))
    assert one.settings != other.settings and one.protocol != other.protocol
    seeded = plan(str(recipe), "lmu", ("train.seed=9", "sequence.fold=0"), True, lambda _: 1)
    assert (seeded.settings, seeded.protocol) == (one.settings, one.protocol)
    assert plan(str(recipe), "pdmu", (), True, lambda _: 1).protocol == one.protocol


def row(family: str = "pdmu", **changes: Any) -> Row:
    return Row(family, (), (), (24,), 1000, 1000, 0, 5, "same", "protocol")._replace(**changes)


def figures(test: float, **changes: Any) -> dict[str, Any]:
    common = {"test_sequences": 100, "validation_accuracy": test, "steps_per_s": 10, "seconds": 2.0, "commit": "abc", "device": "cpu"}
    return {"test_accuracy": test, **common, **changes}


def write_run(run: Path, test: float, sequences: int = 100, seconds: float = 10.0) -> None:
    run.mkdir(parents=True)
    part = {"sequences": sequences, "accuracy": test}
    summary = {"parameters": 9, "epochs": 3, "seconds": seconds, "steps_per_s": 100 * sequences, "test": part, "validation": part}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "model.pt").touch()


def test_a_seed_pools_its_folds(tmp_path: Path) -> None:
    folds = run_folders(row(folds=2), 3, tmp_path)
    write_run(folds[0], 1.0, 10, seconds=1.0)
    write_run(folds[1], 0.5, 30, seconds=3.0)
    pooled = seed_figures(folds)
    assert pooled["test_accuracy"] == (10 + 15) / 40
    assert pooled["fold_test_accuracy"] == [1.0, 0.5]
    assert pooled["seconds"] == 4.0
    assert pooled["steps_per_s"] == (1000 * 1 + 3000 * 3) / 4


def test_an_unfinished_run_has_its_epochs_and_no_test_figure(tmp_path: Path) -> None:
    (run,) = run_folders(row(), 1, tmp_path)
    assert not finished(run) and progress([run], 5) is None
    run.mkdir(parents=True)
    assert progress([run], 5) == {"epoch": 0, "epochs": 5, "validation_curve": [], "train_loss": []}, "begun, and told so"
    lines = [{"epoch": 1, "train_loss": 3.0, "val_accuracy": 0.5}, {"epoch": 2, "train_loss": 2.0}, {"epoch": 3, "train_loss": 1.5}]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = progress([run], 5)
    losses = [[1, 3.0], [2, 2.0], [3, 1.5]]
    assert state == {"epoch": 3, "epochs": 5, "validation_curve": [[1, 0.5]], "train_loss": losses}
    result = merge({}, row(), {}, {"1": state})
    assert result["rows"] == {} and "test" not in json.dumps(result)
    assert merge(result, row(), {"1": figures(0.9)}, {})["unfinished"] == {}


def test_a_row_is_renewed_alone() -> None:
    result = merge({}, row("lmu"), {"1": figures(0.8)}, {})
    result = merge(result, row(), {"1": figures(0.9)}, {})
    again = merge(result, row(settings="new"), {"2": figures(0.7)}, {})
    assert again["rows"]["lmu"] == result["rows"]["lmu"]
    assert list(again["rows"]["pdmu"]["seeds"]) == ["2"], "of other settings, the first seed is no longer this row's"
    more = merge(result, row(), {"2": figures(0.7)}, {})
    assert list(more["rows"]["pdmu"]["seeds"]) == ["1", "2"]
    assert more["rows"]["pdmu"]["test_accuracy"] == {"mean": 0.8, "sd": pytest.approx(0.141421), "n": 2}
    assert [*more["rows"]] == ["lmu", "pdmu"], "in the order of the family"


def test_the_gain_is_paired_over_the_seeds_both_have() -> None:
    result = merge({}, row("lmu"), {s: figures(v) for s, v in (("1", 0.80), ("2", 0.82), ("3", 0.84))}, {})
    result = merge(result, row(), {s: figures(v) for s, v in (("2", 0.83), ("3", 0.85), ("4", 0.99))}, {})
    found = result["gain"]["pdmu - lmu"]
    assert found["each"] == {"2": 0.01, "3": 0.01} and found["n"] == 2
    assert found["includes_zero"] is False and found["interval"] == [0.01, 0.01]
    assert "pdmu - pdmu-uniform" not in result["gain"]


def test_the_interval_is_students() -> None:
    rows = merge({}, row("lmu"), {s: figures(0.5) for s in "123"}, {})
    rows = merge(rows, row(), {s: figures(v) for s, v in zip("123", (0.49, 0.51, 0.53), strict=True)}, {})
    found = rows["gain"]["pdmu - lmu"]
    half = 4.302653 * 0.02 / 3**0.5  # t of 2 degrees of freedom at 97.5 %
    assert found["interval"] == pytest.approx([0.01 - half, 0.01 + half], abs=1e-6)  # rounded to 6 digits
    assert found["includes_zero"] is True and "includes zero" in found["statement"]


def test_one_seed_shows_no_spread() -> None:
    result = merge(merge({}, row("lmu"), {"1": figures(0.5)}, {}), row(), {"1": figures(0.6)}, {})
    assert "no spread" in result["gain"]["pdmu - lmu"]["statement"] and "interval" not in result["gain"]["pdmu - lmu"]


def test_rows_under_different_settings_are_not_compared() -> None:
    result = merge(merge({}, row("lmu", protocol="other"), {"1": figures(0.5)}, {}), row(), {"1": figures(0.6)}, {})
    assert "mean" not in result["gain"]["pdmu - lmu"]
    assert gain(result["rows"], "pdmu", "gru") is None


def test_the_command_trains_what_is_missing_alone(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, work = recipe.parent / "rows.json", recipe.parent / "work"
    common = [str(recipe), "--root", str(recipe.parent), "--work", str(work), "--out", str(out), "--seeds", "1", "--families", "lmu"]
    assert main([*common, "--deadline-s", "0"]) == 0
    assert json.loads(out.read_text())["rows"] == {}
    assert main(common) == 0
    assert "tones lmu seed 1" in capfd.readouterr().err
    first = json.loads(out.read_text())["rows"]["lmu"]
    assert first["seeds"]["1"]["test_sequences"] == 16 and first["epochs"] == 2 and first["parameters"] <= first["parameters_of_pdmu"]
    assert main(common) == 0
    assert "tones" not in capfd.readouterr().err, "a finished run is not trained again"
    assert json.loads(out.read_text())["rows"]["lmu"] == first


def test_a_recipe_edited_meanwhile_is_refused(recipe: Path) -> None:
    planned = plan(str(recipe), "lmu", (), True, lambda _: 1)
    recipe.write_text(recipe.read_text().replace("epochs = 2", "epochs = 3"))
    with pytest.raises(UserError, match="has changed"):
        train_run(str(recipe), planned, 1, 0, recipe.parent / "run", build_parser().parse_args([str(recipe), "--root", "."]), 0.0)


def test_a_recipe_of_recordings_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cough", "--root", str(tmp_path), "--work", str(tmp_path), "--families", "pdmu"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
