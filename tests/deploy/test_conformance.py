"""The conformance table: it passes what conforms, and finds what does not."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.conformance import check_bundle, check_c, main, table
from deploy.conformance_graphs import check_graph
from deploy.tflite_export import build_graph
from pdmu.bundle import Bundle, law_stages, write_bundle
from pdmu.golden import golden_pcm
from tests.conftest import REPO
from tests.deploy.networks import DECIDING, NETWORKS, golden_features, make_bundle

RECORDINGS = ("esc10/dog/1-100032-A.flac", "esc10/dog/1-110389-A.flac")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) to build the shared library with")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance") / "net.pdmu"


@pytest.fixture(scope="module")
def bundle(path: Path) -> Bundle:
    return make_bundle(NETWORKS["residual stack"], path)


def test_law_and_graphs_hold(bundle: Bundle, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), "--target", "law", "--target", "tflite"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["stage", "law", "int16x8", "int16x8.block", "float32", "float32.block"]
    assert out.splitlines()[-1] == "every stage holds"


@needs_cc
def test_c_equals_the_law_at_every_stage(bundle: Bundle) -> None:
    findings = check_bundle(bundle, {"golden": golden_pcm()}, ["c"])
    assert {f.stage for f in findings} >= set(law_stages(bundle, golden_pcm()))
    assert [f for f in findings if f.largest != 0] == []


@pytest.mark.parametrize("name", ["epdmu", "spiking inside"])
def test_networks_that_decide_hold_on_every_target(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bundle(DECIDING[name], tmp_path / "net.pdmu")
    targets = ["law", "tflite", *(["c"] if shutil.which("cc") else [])]
    assert main([str(tmp_path / "net.pdmu"), *(a for t in targets for a in ("--target", t))]) == 0
    assert "% of 5%" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["epdmu", "spiking inside"])
def test_a_graph_that_decides_otherwise_is_found(name: str, tmp_path: Path) -> None:
    """One threshold, or one route, that is another is one neuron of dozens, or one instant of the line; a whole layer's are found."""
    bundle = make_bundle(DECIDING[name], tmp_path / "net.pdmu")
    changed = dict(bundle.tensors)
    if name == "epdmu":
        changed["pdmu0.wg"] = np.roll(changed["pdmu0.wg"], 1, axis=0)
    else:
        changed["pdmu0.v_scale"] = changed["pdmu0.v_scale"] * np.float32(4)
    image = build_graph(dataclasses.replace(bundle, tensors=changed), "float32", 1)
    findings = {f.stage: f for f in check_graph(bundle, "float32", image, "golden", golden_features(bundle.frontend))}
    assert findings["pdmu0.memory"].holds
    assert not findings["pdmu0.arriving" if name == "epdmu" else "pdmu0.v"].holds


@needs_cc
@pytest.mark.parametrize("samples", [33 * 256 + 5, 255, 256])
def test_c_equals_the_law_where_the_last_step_is_unfinished(bundle: Bundle, samples: int) -> None:
    findings = check_bundle(bundle, {"cut": golden_pcm()[:samples]}, ["c"])
    assert [f for f in findings if not f.holds] == []


@needs_cc
def test_c_of_another_network_is_found(bundle: Bundle, tmp_path: Path) -> None:
    from deploy.c_export import build_shared

    library = build_shared(make_bundle(NETWORKS["residual stack"], tmp_path / "other.pdmu", seed=1), tmp_path / "other.so")
    findings = {f.stage: f for f in check_c(library, law_stages(bundle, golden_pcm()), "golden", golden_pcm())}
    assert findings["features"].holds, "both have the same front end"
    assert not findings["conv0"].holds and not findings["scores"].holds
    assert "DIFFERS" in table(findings.values())


def test_a_graph_of_another_network_is_found(bundle: Bundle, tmp_path: Path) -> None:
    other = make_bundle(NETWORKS["residual stack"], tmp_path / "other.pdmu", seed=1)
    findings = check_graph(bundle, "float32", build_graph(other, "float32", 1), "golden", golden_features(bundle.frontend))
    assert not all(f.holds for f in findings if f.stage in ("pdmu0.memory", "scores"))


def test_broken_promise_of_a_bundle_fails(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = bundle.golden | {"stages": bundle.golden["stages"] | {"pdmu0.m": "0" * 64}}
    write_bundle(tmp_path / "wrong.pdmu", dataclasses.replace(bundle, golden=golden))
    assert main([str(tmp_path / "wrong.pdmu"), "--target", "law", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [f["stage"] for f in report["findings"] if not f["holds"]] == ["pdmu0.m"]
    assert not report["holds"]


def test_recordings_hold(bundle: Bundle, path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), *(str(data_dir / name) for name in RECORDINGS), "--target", "tflite", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert len({f["signal"] for f in findings}) == 1 + len(RECORDINGS)


def test_a_missing_package_names_its_extra(bundle: Bundle, path: Path) -> None:
    code = "import sys; sys.modules['tflite'] = None; from deploy.conformance import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, str(path), "--target", "tflite"], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "pip install 'pdmu[deploy]'" in done.stderr


def test_unusable_recording_is_one_line(bundle: Bundle, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(np.arange(50, dtype=np.uint8).tobytes())
    assert main([str(path), "--target", "law", "--target", "tflite", str(bad)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "bad.wav" in err and err.count("\n") == 1


def test_the_law_alone_has_nothing_to_say_of_recordings(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), str(REPO / "demo" / "stream.flac"), "--target", "law"]) == 1
    assert "answers to the golden signal alone" in capsys.readouterr().err
