"""What an export holds and refuses, its shared library, and the host program."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.c_export import RUNTIME, SOURCES, build_shared, check_limits, export_c
from pdmu.bundle import Bundle, law_stages
from pdmu.config import ConvConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.golden import golden_pcm
from tests.deploy.c_harness import STRICT
from tests.deploy.random_bundle import random_bundle

MODEL = ModelConfig(('co"ugh', "naïve\\"), (ConvConfig(4, 3, 3, 2, 2),), (PDMUConfig(6, 3, 4),))
INCLUDES = ("-I.", "-Iinclude", "-Isrc")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return random_bundle(1, FrontendConfig(), MODEL)


@pytest.fixture(scope="module")
def exported(bundle: Bundle, cc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported project, built with its own Makefile."""
    folder = tmp_path_factory.mktemp("exported")
    export_c(bundle, folder)
    if shutil.which("make") is None:
        pytest.skip("no 'make': the exported Makefile is NOT TESTED HERE")
    subprocess.run(["make", "-s", f"CC={cc}"], cwd=folder, check=True)
    return folder


def host(folder: Path, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([folder / "pdmu-host", *arguments], input=data, capture_output=True, check=False)


def test_export_replaces_an_earlier_one_and_lists_its_files(bundle: Bundle, tmp_path: Path) -> None:
    first = export_c(bundle, tmp_path / "new" / "folder")
    again = export_c(bundle, tmp_path / "new" / "folder")
    assert first == again
    assert {p for p in (tmp_path / "new" / "folder").rglob("*") if p.is_file()} == set(first)
    assert {str(p.relative_to(tmp_path / "new" / "folder")) for p in first} >= {"model_data.c", "Makefile", "include/pdmu.h", *SOURCES}


def test_export_into_a_file_is_one_clear_error(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_c(bundle, tmp_path / "taken")


def test_unwritten_bundle_and_other_golden_signal_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="SHA-256"):
        check_limits(replace(bundle, sha256=""))
    with pytest.raises(UserError, match="golden signal is 'other'"):
        check_limits(replace(bundle, golden=bundle.golden | {"signal": "other"}))


def test_runtime_needs_only_mem_functions_and_has_no_floats_or_variables(bundle: Bundle, cc: str, tmp_path: Path) -> None:
    export_c(bundle, tmp_path)
    units = ("model_data.c", *SOURCES)
    command = [cc, *STRICT, "-O2", "-fno-pic", "-fno-stack-protector", "-mgeneral-regs-only", *INCLUDES, "-c", *units]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "unrecognized" in done.stderr or "unknown argument" in done.stderr:
        pytest.skip(f"{cc} has no -mgeneral-regs-only here: that the runtime uses no floats is NOT TESTED HERE")
    assert done.returncode == 0, done.stderr
    if shutil.which("nm") is None:
        pytest.skip("no 'nm': the runtime's symbols are NOT TESTED HERE")
    listing = subprocess.run(["nm", *sorted(map(str, tmp_path.glob("*.o")))], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in listing.splitlines() if len(line.split()) >= 2]
    defined = {name for kind, name in symbols if kind != "U"}
    assert {name for kind, name in symbols if kind == "U"} - defined == {"memcpy", "memmove", "memset"}
    assert [name for kind, name in symbols if kind in "BbCDdGgSs"] == []


def library(path: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(path))
    lib.pdmu_stream_size.restype = ctypes.c_size_t
    lib.pdmu_bundle_sha256.restype = lib.pdmu_label.restype = ctypes.c_char_p
    return lib


def test_shared_library(bundle: Bundle, cc: str, tmp_path: Path) -> None:
    lib = library(build_shared(bundle, tmp_path / "models" / "m.so", cc))
    assert lib.pdmu_abi_version() == 1
    assert lib.pdmu_bundle_sha256().decode() == bundle.sha256
    assert (lib.pdmu_n_labels(), lib.pdmu_samples_per_step()) == (len(bundle.labels), bundle.samples_per_step)
    assert [lib.pdmu_label(i) for i in (-1, 0, 1, 2)] == [None, *(label.encode() for label in bundle.labels), None]
    pcm, expected = golden_pcm(), law_stages(bundle, golden_pcm())["scores"]
    size = lib.pdmu_stream_size()
    memory = ctypes.create_string_buffer(b"\xa5" * (size + 64), size + 64)
    lib.pdmu_stream_init(memory)
    got = np.zeros_like(expected)

    def process(samples: int, steps: int) -> int:
        return int(
            lib.pdmu_stream_process(memory, pcm.ctypes.data_as(ctypes.c_void_p), samples, got.ctypes.data_as(ctypes.c_void_p), steps)
        )

    assert process(-1, 5) == -2
    assert process(len(pcm), len(expected) - 1) == -1  # refused whole: nothing was consumed
    assert process(len(pcm), len(expected)) == len(expected)
    assert np.array_equal(got, expected)
    assert memory.raw[size:] == b"\xa5" * 64
    exported = subprocess.run(
        ["nm", "-D", "--defined-only", tmp_path / "models" / "m.so"], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1] for line in exported.splitlines()} <= set(header_functions())


def header_functions() -> list[str]:
    lines = (RUNTIME / "include" / "pdmu.h").read_text().splitlines()
    return [line.split("(")[0].split()[-1].lstrip("*") for line in lines if line.startswith("PDMU_API")]


def test_missing_and_failing_compilers_are_clear_errors(bundle: Bundle, cc: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'no-such-cc' not found"):
        build_shared(bundle, tmp_path / "m.so", "no-such-cc")
    with pytest.raises(UserError, match="false failed"):
        build_shared(bundle, tmp_path / "m.so", "false")
    assert list(tmp_path.iterdir()) == []


def test_host_scores_are_the_law(bundle: Bundle, exported: Path, tmp_path: Path) -> None:
    pcm = golden_pcm()
    expected = law_stages(bundle, pcm)["scores"].tolist()
    (tmp_path / "pcm.raw").write_bytes(pcm.astype("<i2").tobytes())
    done = host(exported, str(tmp_path / "pcm.raw"))
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert (done.returncode, done.stderr) == (0, b"")
    assert [[line["scores"][label] for label in bundle.labels] for line in lines] == expected
    assert [line["step"] for line in lines] == list(range(len(expected)))
    assert lines[3]["t_s"] == pytest.approx(3 * bundle.samples_per_step / 16000, abs=5e-5)


def test_host_prints_every_nth_step_and_those_above(bundle: Bundle, exported: Path) -> None:
    pcm = golden_pcm()
    top = law_stages(bundle, pcm)["scores"].max(axis=1)
    level = int(np.median(top)) + 1
    every = [json.loads(line)["step"] for line in host(exported, "--every", "4", data=pcm.tobytes()).stdout.splitlines()]
    above = [json.loads(line)["step"] for line in host(exported, "--above", str(level), data=pcm.tobytes()).stdout.splitlines()]
    assert every == list(range(0, len(top), 4))
    assert above == np.flatnonzero(top >= level).tolist()
    assert 0 < len(above) < len(top)


def test_host_golden_verdict(bundle: Bundle, exported: Path, cc: str, tmp_path: Path) -> None:
    done = host(exported, "--golden")
    assert done.returncode == 0
    assert bundle.sha256 in done.stdout.decode()
    scores = [list(row) for row in bundle.golden["scores"]]
    scores[7][0] ^= 1
    export_c(replace(bundle, golden=bundle.golden | {"scores": scores}), tmp_path)
    subprocess.run(["make", "-s", f"CC={cc}", "CFLAGS=-O1", "pdmu-host"], cwd=tmp_path, check=True)
    wrong = host(tmp_path, "--golden")
    assert (wrong.returncode, wrong.stdout) == (1, b"")
    assert b"step 7 differs" in wrong.stderr


@pytest.mark.parametrize(
    "arguments", [("--every", "0"), ("--every",), ("--above", "32768"), ("--above", "x"), ("--wrong",), ("a", "b"), ("--golden", "a")]
)
def test_host_usage_errors(arguments: tuple[str, ...], exported: Path) -> None:
    done = host(exported, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ")


def test_host_bad_input(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF" + bytes(4000))
    for data, arguments, message in (
        (b"", (str(tmp_path / "absent.raw"),), b"cannot open: No such file"),
        (b"", (str(tmp_path),), b"cannot read: Is a directory"),
        (b"", (str(tmp_path / "a.wav"),), b"a WAV file, raw s16le PCM is needed"),
        (bytes(1001), (), b"the last sample is cut in half"),
    ):
        done = host(exported, *arguments, data=data)
        assert done.returncode == 1, arguments
        assert message in done.stderr
    assert host(exported, "--help").returncode == 0


def test_host_reports_a_full_disk(exported: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full: a full disk is NOT TESTED HERE")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([exported / "pdmu-host"], input=bytes(200000), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"cannot write the output" in done.stderr
