"""pdmu-train on sequences, from end to end: it learns, goes on after a kill, reads the test set once, and several processes are one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from deploy.export import main as export  # noqa: E402
from pdmu.nn import fit, sequence_run  # noqa: E402
from pdmu.nn.sequence_run import load_sequence_run  # noqa: E402
from pdmu.nn.train import main  # noqa: E402
from spiking import nir_export, nir_import  # noqa: E402

RECIPE = """
[task]
name = "which half"

[sequence]
data = "npz:{data}"
validation = "sequences"
validation_share = 0.2

[model]
readout = "mean"

[[model.layers]]
hidden = 8
channels = 2
gate = "straight_through"
order = 4
theta = 8.0
taps = 2
dilation = 2

[train]
epochs = 6
batch = 16
lr = 0.02
noise = 0.1
time_shift = 1
mixup_alpha = 0.1
ema_decay = 0.8
dropout = 0.1
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences of 12 to 20 steps with a bump in their first or their second half; 160 to train on, 40 to test with."""
    folder, rng = tmp_path_factory.mktemp("sequences"), np.random.default_rng(3)
    length, y = rng.integers(12, 21, 200), rng.integers(0, 2, 200)
    values = []
    for steps, label in zip(length, y, strict=True):
        x = rng.normal(0, 0.3, (steps, 3))
        x[steps // 2 * label : steps // 2 * (label + 1)] += 1
        values.append(x)
    part = np.where(np.arange(200) < 160, "train", "test")
    np.savez(folder / "data.npz", values=np.concatenate(values).astype(np.float32), length=length, y=y, part=part)
    (folder / "recipe.toml").write_text(RECIPE.format(data=folder / "data.npz"), encoding="utf-8")
    return folder / "recipe.toml"


def _arguments(recipe: Path, out: Path, *more: str) -> list[str]:
    return [str(recipe), "--root", str(recipe.parent), "--out", str(out), "--threads", "1", *more]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=240)


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    done = _run([sys.executable, "-m", "pdmu.nn.train", *_arguments(recipe, out, "--json")])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "summary.json").read_text())
    return out


def _untimed(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    summary = json.loads((out / "summary.json").read_text())
    for line in (*log, summary):
        for key in [k for k in line if "seconds" in k or k == "steps_per_s"]:
            del line[key]
    return log, summary


def test_it_learns_and_says_so(finished: Path) -> None:
    net, recipe, summary, shift, scale = load_sequence_run(finished)
    assert not net.training and recipe.model.labels == ("0", "1") and shift.shape == scale.shape == (3,)
    assert summary["test"]["accuracy"] > 0.9 and summary["test"]["sequences"] == 40
    assert np.sum(summary["test"]["confusion"]) == 40
    assert summary["validation"]["sequences"] + summary["train_sequences"] == 160
    assert summary["parameters"] == sum(p.numel() for p in net.parameters())


def test_the_report_shows_it(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3  # curves, confusion of validation and test
    assert "http" not in page.split("<style>")[0] and "the test set was read once" in page


def test_killed_and_started_again_gives_the_same_run(recipe: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "pdmu.nn.train", *_arguments(recipe, out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not (out / "log.jsonl").exists() or len((out / "log.jsonl").read_text().splitlines()) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "summary.json").exists()
    done = _run(command)
    assert done.returncode == 0 and "continuing after epoch" in done.stderr
    assert _untimed(out) == _untimed(finished)


def test_the_test_set_is_read_once(
    recipe: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sequence_run, "evaluate", lambda *a: pytest.fail("evaluated again"))
    assert main(_arguments(recipe, finished, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((finished / "summary.json").read_text())


def test_other_data_under_the_same_name_is_another_training(
    recipe: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = dict(np.load(recipe.parent / "data.npz"))
    np.savez(tmp_path / "data.npz", **arrays | {"y": 1 - arrays["y"]})
    assert main(_arguments(recipe, finished, "--set", f'sequence.data="npz:{tmp_path / "data.npz"}"')) == 1
    assert "sequence.data" in capsys.readouterr().err
    other = tmp_path / "recipe.toml"
    other.write_text(RECIPE.format(data=tmp_path / "data.npz"))
    assert main(_arguments(other, tmp_path / "run", "--epochs", "1")) == 0
    np.savez(tmp_path / "data.npz", **arrays)
    assert main(_arguments(other, tmp_path / "run", "--epochs", "1")) == 1
    assert "other sequences" in capsys.readouterr().err
    assert main(_arguments(other, tmp_path / "run", "--epochs", "2")) == 1
    assert "train.epochs 1 there, 2 here" in capsys.readouterr().err


def test_tuning_leaves_it_unread(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = sequence_run.evaluate
    monkeypatch.setattr(sequence_run, "evaluate", lambda *a: seen.append(len(a[2])) or original(*a))
    assert main(_arguments(recipe, tmp_path, "--no-test", "--epochs", "3", "--set", "train.validate_every=2")) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["test"] is None
    assert seen and 40 not in seen
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["val_loss" in line for line in log] == [False, True, True]
    more = ("--epochs", "3", "--set", "train.validate_every=2")
    assert main(_arguments(recipe, tmp_path, *more)) == 0, "tuning is over: the same run, without training it again, tells its figure"
    assert json.loads((tmp_path / "summary.json").read_text())["test"]["sequences"] == 40


@pytest.mark.parametrize("family", ["pdmu", "lstm", "bi-pdmu", "sdmu"])
@pytest.mark.parametrize("readout", ["step", "last"])
def test_families_and_readouts_by_name(recipe: Path, tmp_path: Path, family: str, readout: str) -> None:
    assert main(_arguments(recipe, tmp_path, "--family", family, "--epochs", "1", "--set", f"model.readout={readout}")) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["family"] == family
    load_sequence_run(tmp_path)


def _torchrun(recipe: Path, out: Path, *more: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = _run([*command, "-m", "pdmu.nn.train", *_arguments(recipe, out, "--device", "cpu", *more)])
    assert done.returncode == 0, done.stderr


def test_two_processes_are_one(recipe: Path, finished: Path, tmp_path: Path) -> None:
    """The same curve within rounding, and a run begun by one process goes on with two and back."""
    _torchrun(recipe, tmp_path / "two")
    two, one = _untimed(tmp_path / "two"), _untimed(finished)
    for a, b in zip(two[0], one[0], strict=True):
        assert a == pytest.approx(b, rel=1e-4), "float32 sums over two halves of a batch"


def test_two_processes_go_on_where_one_stopped(recipe: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fit.Fit.run_epoch

    def run_epoch(self: fit.Fit, epoch: int) -> dict[str, Any]:
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "run_epoch", run_epoch)
        assert main(_arguments(recipe, tmp_path)) == 1
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2 * 8
    _torchrun(recipe, tmp_path)
    for a, b in zip(_untimed(tmp_path)[0], _untimed(finished)[0], strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_runs_of_sequences_are_no_detectors(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export([str(finished), "--target", "bundle", "--name", "x", "--version", "1.0.0", "--out", str(finished)]) == 1
    message = capsys.readouterr().err
    assert "trained on sequences" in message and "Traceback" not in message


def test_a_spiking_run_is_written_as_nir(recipe: Path, tmp_path: Path) -> None:
    assert main(_arguments(recipe, tmp_path, "--family", "sdmu", "--epochs", "1", "--set", "model.layers.0.gate=off")) == 0
    assert nir_export.main([str(tmp_path), "--dt", "0.01", "--out", str(tmp_path / "model.nir")]) == 0
    back, net = nir_import.from_nir(nir_import.load(tmp_path / "model.nir")), load_sequence_run(tmp_path).net
    x = torch.randn(2, 15, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(back(x), net(x))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--set", "sequence.data=mnits"), "no such data set; known: psmnist"),
        (("--set", 'sequence.data="npz:none.npz"'), "none.npz"),
        (("--set", 'model.labels=["a","b"]'), "those of the data set are needed: 0, 1"),
        (("--set", "train.tial=3"), "did you mean 'tail'"),
        (("--family", "pdum"), "did you mean 'pdmu'"),
        (("--manifest", "m.csv"), "--manifest"),
        (("--fold", "1"), "give their number with --folds"),
        (("--out", "/proc/none/run"), "cannot be written"),
        (("--set", "train.tail=5"), "use last or leaky"),
        (("--set", "train.batch=1", "--set", "model.readout=last"), "train.batch must be at least 2"),
        (("--set", "model.conv=[{channels=2,kernel_time=32,stride_time=32}]"), "makes one step of 32"),
        (("--folds", "3", "--fold", "5"), "fold from 0 to folds - 1"),
        (("--set", "train.lr=1e9", "--set", "train.grad_clip=1e9", "--set", "train.mixup_alpha=0"), "use a smaller train.lr"),
    ],
)
def test_mistakes_end_in_one_line(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], says: str
) -> None:
    assert main(_arguments(recipe, tmp_path / "x", *more)) == 1
    message = capsys.readouterr().err
    assert says in message and "Traceback" not in message and message.count("error:") == 1
