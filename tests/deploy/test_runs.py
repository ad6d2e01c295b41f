"""From a training run to a bundle and its card, with recordings held out and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from deploy.card import model_card  # noqa: E402
from deploy.conformance import main as conformance  # noqa: E402
from deploy.export import main  # noqa: E402
from deploy.runs import MIN_THRESHOLD, float_scores, quantize_run, thresholds  # noqa: E402
from pdmu.bundle import read_bundle  # noqa: E402
from pdmu.config import DetectorConfig  # noqa: E402
from pdmu.data.manifest import read_manifest  # noqa: E402
from pdmu.nn.results import load_run  # noqa: E402
from pdmu.nn.snapshot import Features, read_features  # noqa: E402
from pdmu.nn.train import main as train  # noqa: E402
from tests.recordings import make_recordings  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return recordings, and a manifest that says some of them are Speech Commands' and some are our own."""
    folder = make_recordings(tmp_path_factory.mktemp("recordings"))
    (folder / "tone").rename(folder / "gsc")
    rows, _ = read_manifest(None, folder)
    lines = [
        f"{r.path},tone,Google Speech Commands v0.02 (5 words),CC BY 4.0" if r.label == "gsc" else
        f"{r.path},noise,mine,CC BY 3.0 (freesound {i} by someone)" for i, r in enumerate(rows)
    ]  # fmt: skip
    (folder / "m.csv").write_text("\n".join(["path,label,source,licence", *lines]) + "\n")
    return folder


def trained(root: Path, out: Path, *more: str) -> Path:
    arguments = [str(root / "recipe.toml"), "--manifest", str(root / "m.csv"), "--root", str(root), "--out", str(out), "--epochs", "6"]
    assert train([*arguments, "--cache", str(root / "cache"), "--threads", "1", "--fresh", *more]) == 0
    return out


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(root, tmp_path_factory.mktemp("runs") / "held")


@pytest.fixture(scope="module")
def run_of_all(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(root, tmp_path_factory.mktemp("runs") / "all", "--set", "data.validation_share=0")


def test_bundle_and_card_beside_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--name", "b.1", "--version", "2.0", "--out", str(tmp_path), "--json"]) == 0
    written = [Path(f["path"]).name for f in json.loads(capsys.readouterr().out)["files"]]
    assert written == ["b.1.pdmu", "b.1.md"]
    bundle, card = read_bundle(tmp_path / "b.1.pdmu"), (tmp_path / "b.1.md").read_text()
    result = json.loads((run / "quantisation.json").read_text())
    assert (bundle.info["name"], bundle.info["version"]) == ("b.1", "2.0")
    assert bundle.info["metrics"]["validation"]["integer"] == result["integer"] and result["recordings"] == 6
    assert abs(result["float"]["tone"]["auc"] - result["integer"]["tone"]["auc"]) < 0.2 and result["largest_step_difference"] < 0.05
    assert json.loads((run / "report.json").read_text())["quantisation"] == result
    assert bundle.sha256 in card and f"| tone | integer | {result['integer']['tone']['auc']:.3f} |" in card
    assert "| licence of the model | not stated |" in card, "the recipe states none"


def test_card_names_whom_the_terms_ask_to_name(run: Path) -> None:
    card = model_card(quantize_run(run), run)
    assert "Warden 2018" in card and "Piczak" not in card, "the data sets in it, and no others"
    assert "| mine | noise | CC BY 3.0 | 9 | 3 | 0 |" in card
    assert card.count("by someone)") == 9, "the recordings trained on, each"
    shutil.copytree(run, own := run.with_name("own"))
    (own / "recordings.csv").write_text((own / "recordings.csv").read_text().replace("Google Speech Commands v0.02 (5 words)", "mine"))
    assert "Warden" not in model_card(quantize_run(own), own), "a folder that happens to be called gsc"


def test_no_recording_held_out(run: Path, run_of_all: Path, tmp_path: Path) -> None:
    shutil.copy(run / "quantisation.json", run_of_all)  # of another training: nothing of it may be claimed
    assert read_features(run_of_all / "validation.npz").clips() == []
    assert main([str(run_of_all), "--out", str(tmp_path)]) == 0
    bundle, card = read_bundle(tmp_path / "beeps.pdmu"), (tmp_path / "beeps.md").read_text()
    assert bundle.detector.threshold_q15 == (16384,) and "metrics" not in bundle.info
    assert "nothing was measured here" in card and "| tone | float |" not in card


@pytest.mark.parametrize("family", ["epdmu-st", "sdmu-full"])
def test_every_kind_of_network_goes_the_whole_way(family: str, root: Path, tmp_path: Path) -> None:
    """Trained by name, quantised, exported, and held to the law; the integer network hears as well as the float one."""
    run = trained(root, tmp_path / "run", "--set", f"model.family={family}", "--epochs", "20")
    targets = ["bundle", "tflite", *(["c"] if shutil.which("cc") else [])]
    assert main([str(run), *(a for t in targets for a in ("--target", t))]) == 0
    result = json.loads((run / "quantisation.json").read_text())
    assert abs(result["float"]["tone"]["auc"] - result["integer"]["tone"]["auc"]) < 0.2
    assert result["integer"]["tone"]["auc"] > 0.8
    checks = ["law", *targets[1:]]
    assert conformance([str(run / "beeps.pdmu"), *(a for t in checks for a in ("--target", t))]) == 0


def test_thresholds_stand_just_above_the_false_alarms_allowed(run: Path) -> None:
    net, recipe, _ = load_run(run)
    recordings = read_features(run / "validation.npz")
    detector = DetectorConfig((16384,), smooth_steps=3)
    scores = float_scores(net, recordings)
    (threshold,) = thresholds(recipe, detector, recordings, scores)
    n = detector.smooth_steps
    padded = [np.concatenate([np.zeros(n - 1), s[:, 0]]) for s in scores]
    peaks = np.array([np.convolve(p, np.ones(n) / n, "valid").max() for p in padded])
    others = peaks[recordings.target != 0]
    assert threshold == max(MIN_THRESHOLD, int(others.max()) + 1), "1 % of three recordings: none may pass"
    none = Features(recordings.features, recordings.length, np.zeros_like(recordings.target), recordings.path)
    assert thresholds(recipe, detector, none, scores) == detector.threshold_q15, "without others the recipe's stay"
