"""pdmu-train from end to end on small recordings: it learns, continues after a kill to the same weights, and reports."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from pdmu.errors import UserError  # noqa: E402
from pdmu.nn.report import write_report  # noqa: E402
from pdmu.nn.results import load_run  # noqa: E402
from pdmu.nn.train import main  # noqa: E402
from tests.recordings import make_recordings  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_recordings(tmp_path_factory.mktemp("recordings"))
    (folder / "tone" / "broken.wav").write_bytes(b"not audio")
    return folder


def _arguments(root: Path, out: Path, *more: str) -> list[str]:
    return [str(root / "recipe.toml"), "--root", str(root), "--out", str(out), "--cache", str(root / "cache"), "--threads", "1", *more]


def _start(root: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pdmu.nn.train", *_arguments(root, out, *more)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    process = _start(root, out, "--epochs", "8", "--json")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["labels"] == ["tone"]  # nothing but JSON there
    return out


def test_it_learns(finished: Path) -> None:
    net, recipe, summary = load_run(finished)
    assert not net.training and recipe.task.name == "beeps"
    assert summary["validation"]["labels"]["tone"]["auc"] > 0.95
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, 9))
    assert log[-1]["train_loss"] < 0.6 * log[0]["train_loss"]
    with (finished / "log.csv").open() as file:
        assert [float(r["train_loss"]) for r in csv.DictReader(file)] == [line["train_loss"] for line in log]


def test_files_that_cannot_be_used_are_listed(finished: Path) -> None:
    with (finished / "rejected.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "tone/broken.wav" and row["reason"].startswith("unreadable")


def test_killed_and_started_again_gives_the_same_weights(root: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    for epochs in (2, 5):
        process = _start(root, out, "--epochs", "8")
        while not (out / "log.jsonl").exists() or len((out / "log.jsonl").read_text().splitlines()) < epochs:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (out / "model.pt").exists()
    process = _start(root, out, "--epochs", "8")
    stderr = process.communicate()[1]
    assert process.returncode == 0 and "continuing after epoch" in stderr
    wanted, made = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (finished, out))
    assert made["step"] == wanted["step"] == 48
    for name in ("net", "average"):
        assert all(torch.equal(made[name][k], v) for k, v in wanted[name].items())
    untimed = [[{k: v for k, v in line.items() if "seconds" not in k} for line in c["history"]] for c in (made, wanted)]
    assert untimed[0] == untimed[1]


def test_finished_runs_stay_and_are_not_mixed_up(root: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "checkpoint.pt").read_bytes()
    assert main(_arguments(root, finished, "--epochs", "8")) == 0
    assert (finished / "checkpoint.pt").read_bytes() == before
    assert main(_arguments(root, finished, "--epochs", "8", "--seed", "2")) == 1
    message = capsys.readouterr().err
    assert "error: " in message and "--fresh" in message and "Traceback" not in message


def test_report(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    table = report["labels"]["tone"]["thresholds"]
    assert [t["allowed"] for t in table] == [0.1, 0.05, 0.03, 0.01, 0.005]
    assert all(t["false_alarms"] <= t["allowed"] for t in table)
    assert {(s["class"], s["clips"]) for s in report["sources"]["validation"]} == {("tone", 3), ("noise", 3)}
    assert report["rejected"][0]["path"] == "tone/broken.wav" and report["quantisation"] is None
    page = (finished / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4  # DET, curves, misses, false alarms
    assert "http" not in page.split("<style>")[0] and 'src="data:' in page and "tone/broken.wav" in page


def test_report_shows_quantisation_when_it_was_measured(finished: Path) -> None:
    result = {
        "recordings": 6, "largest_step_difference": 0.0123, "threshold_q15": {"tone": 20000},
        "float": {"tone": {"auc": 0.99}}, "integer": {"tone": {"auc": 0.98}},
    }  # fmt: skip
    (finished / "quantisation.json").write_text(json.dumps(result))
    write_report(finished)
    (finished / "quantisation.json").unlink()
    page = (finished / "report.html").read_text()
    assert "0.0123" in page and "0.980" in page


def test_competing_classes_and_no_validation(root: Path, tmp_path: Path) -> None:
    softmax = ("--set", "model.head=softmax", "--set", 'model.labels=["tone","noise"]', "--set", "train.pooling=mean_logit")
    assert main(_arguments(root, tmp_path / "s", "--epochs", "2", *softmax, "--folds", "3", "--fold", "1")) == 0
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert sum(map(sum, summary["validation"]["confusion"])) == summary["validation"]["clips"] == 8
    assert main(_arguments(root, tmp_path / "n", "--epochs", "1", "--set", "data.validation_share=0")) == 0
    assert json.loads((tmp_path / "n" / "report.json").read_text())["summary"]["validation"] is None
    assert "No recording was held out" in (tmp_path / "n" / "report.html").read_text()


def test_a_class_that_was_not_held_out_has_no_figures(root: Path, tmp_path: Path) -> None:
    one = ["path,label,group", *(f"tone/{i:02d}.wav,tone,a" for i in range(6)), *(f"noise/{i:02d}.wav,noise,{i}" for i in range(12))]
    (tmp_path / "m.csv").write_text("\n".join(one) + "\n")
    assert main(_arguments(root, tmp_path / "r", "--epochs", "1", "--manifest", str(tmp_path / "m.csv"))) == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["summary"]["validation"]["labels"]["tone"] == {"clips": 0, "auc": None, "recall_at_3pct": None, "recall_at_1pct": None}
    assert report["labels"]["tone"]["det"] == {"false_alarms": [], "misses": []}, "no miss of no recording is no perfect curve"
    assert "(DET)" not in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--set", "train.lrr=1"), "did you mean 'lr'"),
        (("--set", "train.lr=1e9", "--set", "train.grad_clip=1e9"), "use a smaller train.lr"),
        (("--device", "gpu9"), "--device gpu9"),
        (("--folds", "99"), "cannot be split into 99"),
        (("--fold", "1"), "give their number with --folds"),
        (("--manifest", "none.csv"), "none.csv"),
        (("--cache", "/dev/null/cache"), "cannot be written: Not a directory"),
        (("--out", "/dev/null/out"), "/dev/null/out"),
    ],
)
def test_mistakes_end_in_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], says: str) -> None:
    assert main(_arguments(root, tmp_path / "x", *more)) == 1
    message = capsys.readouterr().err
    assert says in message and "Traceback" not in message


def test_a_damaged_checkpoint_is_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut short")
    assert main(_arguments(root, tmp_path)) == 1
    assert "checkpoint.pt: not a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--threads", "-1"], ["--epochs", "x"]])
def test_usage_error_is_2(root: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(_arguments(root, tmp_path / "x", *more))
    assert stop.value.code == 2
    assert more[0] in capsys.readouterr().err


def test_a_class_without_recordings_leaves_the_list_of_what_was_rejected(root: Path, tmp_path: Path) -> None:
    assert main(_arguments(root, tmp_path, "--set", 'task.mapping.tone=["none"]')) == 1
    assert "tone/broken.wav," in (tmp_path / "rejected.csv").read_text()


def test_what_the_recipe_leaves_out_is_said(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(_arguments(root, tmp_path, "--set", 'data.exclude=["tone/0"]', "--epochs", "1"))
    said = capsys.readouterr()
    assert "leaves out: 10 in data.exclude" in said.err
    assert "recordings held out, AUC 0." in said.out or "AUC 1." in said.out
    assert "{" not in said.out


def test_nothing_of_an_earlier_run_stays(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model.pt", "quantisation.json"):
        (tmp_path / name).write_text("{}")
    assert main(_arguments(root, tmp_path, "--epochs", "1")) == 1, "a finished run is not thrown away unasked"
    assert "--fresh" in capsys.readouterr().err and (tmp_path / "model.pt").read_text() == "{}"
    assert main(_arguments(root, tmp_path, "--epochs", "1", "--fresh")) == 0
    assert not (tmp_path / "quantisation.json").exists()
    assert json.loads((tmp_path / "report.json").read_text())["quantisation"] is None


def test_a_checkpoint_is_not_a_model(root: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes((finished / "checkpoint.pt").read_bytes())
    with pytest.raises(UserError, match="not a checkpoint of pdmu-train"):
        load_run(tmp_path)
