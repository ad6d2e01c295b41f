"""Every backend gives the law's scores, whatever the chunks, and refuses what was made from another bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from edge_agent.backend import SELF_TEST_TOLERANCE_Q15, make_backend
from edge_agent.channel import load_listener
from edge_agent.ports import Backend
from pdmu.bundle import Bundle, law_stages
from pdmu.errors import UserError
from tests.edge_agent.conftest import agent_process
from tests.helpers import scene, tiny_bundle

PCM = scene([(0.5, 1.0), (2.0, 2.2)], 4.01)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its graphs and its C library beside it."""
    from deploy.tflite_export import export_tflite

    folder = tmp_path_factory.mktemp("built")
    bundle = tiny_bundle(folder / "tiny.pdmu")
    export_tflite(bundle, folder, "tiny")
    if shutil.which("cc"):
        from deploy.c_export import build_shared

        build_shared(bundle, folder / "tiny.so")
    return folder / "tiny.pdmu"


def backend(path: Path, kind: str, precision: str = "int16x8") -> Backend:
    if kind == "c" and not path.with_suffix(".so").exists():
        pytest.skip("no C compiler: the C backend is not tested")
    return load_listener(path, kind, precision).backend  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "precision"), [("numpy", "int16x8"), ("c", "int16x8"), ("tflite", "int16x8"), ("tflite", "float32")])
def test_scores_are_the_laws_for_any_chunking(built: Path, kind: str, precision: str) -> None:
    b = backend(built, kind, precision)
    assert (b.runtime, b.quant) == (kind, precision)
    expected = law_stages(load_listener(built, "numpy").bundle, PCM)["scores"].astype(int)
    whole = b.stream().process(PCM)
    rng, stream = np.random.default_rng(2), b.stream()
    cut = np.concatenate([stream.process(part) for part in np.split(PCM, np.sort(rng.integers(0, len(PCM), 150)))])
    tolerance = SELF_TEST_TOLERANCE_Q15[kind]
    for got in (whole, cut):
        assert got.dtype == np.int16
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= tolerance
    if kind != "tflite":
        assert (whole == cut).all()


@pytest.mark.parametrize("kind", ["numpy", "c", "tflite"])
def test_golden_self_test_through_the_backend(built: Path, kind: str) -> None:
    backend(built, kind)
    load_listener(built, kind).self_test()  # type: ignore[arg-type]


def test_tflite_says_nothing_of_its_own(built: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "x.wav", PCM, 16000)
    process = agent_process("analyze", tmp_path / "x.wav", "--bundle", built, "--backend", "tflite")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_streams_of_one_backend_do_not_touch(built: Path) -> None:
    for kind in ("numpy", "c", "tflite"):
        b = backend(built, kind)
        one, other = b.stream(), b.stream()
        got = []
        for part in np.array_split(PCM, 10):
            got.append(one.process(part))
            other.process(part[::-1].copy())
        assert np.abs(np.concatenate(got).astype(int) - b.stream().process(PCM)).max() <= SELF_TEST_TOLERANCE_Q15[kind]


def test_auto_takes_tflite_where_it_is_and_numpy_otherwise(built: Path, bundle_path: Path, bundle: Bundle) -> None:
    assert backend(built, "auto").runtime == "tflite"
    assert make_backend(bundle, bundle_path).runtime == "numpy"


def test_absent_parts_name_the_command_that_makes_them(bundle: Bundle, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(bundle_path.parent / "no-cache"))
    with pytest.raises(UserError, match=f"pdmu-export --target tflite {bundle_path}"):
        make_backend(bundle, bundle_path, "tflite")
    with pytest.raises(UserError, match=f"pdmu-export --target c --build {bundle_path}"):
        make_backend(bundle, bundle_path, "c")


def test_library_in_the_cache_is_found(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not built.with_suffix(".so").exists():
        pytest.skip("no C compiler: the C backend is not tested")
    alone = tmp_path / "alone.pdmu"
    shutil.copy(built, alone)
    (tmp_path / "pdmu").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copy(built.with_suffix(".so"), tmp_path / "pdmu" / f"{load_listener(built, 'numpy').bundle.sha256}.so")
    assert load_listener(alone, "c").backend.runtime == "c"


def test_parts_of_another_bundle_are_refused(built: Path, tmp_path: Path) -> None:
    for part in built.parent.iterdir():
        shutil.copy(part, tmp_path / part.name)
    tiny_bundle(tmp_path / "tiny.pdmu", labels=("bark", "other"))
    for kind in ("auto", "tflite", "c"):
        if kind == "c" and not (tmp_path / "tiny.so").exists():
            continue
        with pytest.raises(UserError, match="made from another bundle"):
            load_listener(tmp_path / "tiny.pdmu", kind)  # type: ignore[arg-type]


def test_damaged_parts_are_refused(built: Path, tmp_path: Path) -> None:
    shutil.copy(built, tmp_path / "tiny.pdmu")
    (tmp_path / "tiny.int16x8.tflite").write_bytes(built.with_name("tiny.int16x8.tflite").read_bytes()[:100])
    with pytest.raises(UserError, match="not a PDMU graph, or a truncated one"):
        load_listener(tmp_path / "tiny.pdmu", "tflite")
    (tmp_path / "tiny.so").write_bytes(b"\x7fELF nothing")
    with pytest.raises(UserError, match="cannot be used as a PDMU library"):
        load_listener(tmp_path / "tiny.pdmu", "c")


def test_thresholds_are_checked(bundle_path: Path) -> None:
    assert load_listener(bundle_path, thresholds={"cough": 0.75}).threshold(0) == 0.75
    with pytest.raises(UserError, match="threshold for 'cuogh'.*cough, other"):
        load_listener(bundle_path, thresholds={"cuogh": 0.5})
    with pytest.raises(UserError, match="between 0 and 1"):
        load_listener(bundle_path, thresholds={"cough": 1.5})
