"""The ``pdmu-export`` command: what it writes, and one clear line for what it cannot use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.export import main
from pdmu.bundle import Bundle, read_bundle
from tests.conftest import REPO
from tests.deploy.networks import NETWORKS, make_bundle

GRAPH_NAMES = {f"net.{kind}.tflite" for kind in ("int16x8", "int16x8.block", "float32", "float32.block")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    path = tmp_path_factory.mktemp("export") / "net.pdmu"
    return path, make_bundle(NETWORKS["depthwise and no history"], path)


def test_graphs_of_a_bundle_lie_beside_it(source: tuple[Path, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, bundle = source
    copy = Path(shutil.copy(path, tmp_path / "net.pdmu"))
    assert main([str(copy), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sha256"] == bundle.sha256 == read_bundle(copy).sha256
    assert {p.name for p in tmp_path.iterdir()} == GRAPH_NAMES | {"net.pdmu"}
    assert {Path(f["path"]).name: f["bytes"] for f in report["files"]} == {n: (tmp_path / n).stat().st_size for n in GRAPH_NAMES}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) to build the shared library with")
def test_c_sources_and_library_elsewhere(source: tuple[Path, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert main([str(source[0]), "--target", "c", "--build", "--out", str(out)]) == 0
    assert source[1].sha256 in (out / "net.c" / "model_data.c").read_text()
    assert (out / "net.so").is_file()
    assert "net.so" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {"net.c", "net.so"}


def test_unusable_sources_give_one_line(source: tuple[Path, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.pdmu"
    raw = bytearray(source[0].read_bytes())
    raw[-1] ^= 1
    damaged.write_bytes(raw)
    for arguments, word in (
        ([str(tmp_path / "none" / "x.pdmu")], "no such training run"),
        ([str(damaged)], "SHA-256"),
        ([str(source[0]), "--out", str(damaged)], "cannot make the folder"),
    ):
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ") and word in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["damaged.pdmu"], "nothing was made on the way"


@pytest.mark.parametrize("arguments", [["--target", "onnx"], ["--build"], ["--target", "bundle"], ["--name", "x"], ["--name", "a/b"]])
def test_wrong_usage_is_status_2(source: tuple[Path, Bundle], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(source[0]), *arguments])
    assert stop.value.code == 2
    assert "usage: pdmu-export" in capsys.readouterr().err


def test_a_missing_package_names_its_extra(source: tuple[Path, Bundle], tmp_path: Path) -> None:
    code = "import sys; sys.modules['tflite'] = None; from deploy.export import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(source[0]), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'pdmu[deploy]'"), done.stderr


def test_a_missing_compiler_is_one_line(
    source: tuple[Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-cc -O2")
    assert main([str(source[0]), "--target", "c", "--build", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: C compiler 'no-such-cc' not found") and "CC=" in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["net.c"], "the sources are there to be built elsewhere"
