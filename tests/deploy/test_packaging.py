"""Exports for microcontrollers' build tools: complete, readable by those tools, and boards with the law's events by their C code."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.c_export import export_c
from deploy.conformance_c import law_events
from deploy.export import main
from deploy.packages import PLATFORMS, export_package
from deploy.toolchain import STRICT
from edge_agent.board_messages import BoardEvent, BoardHealth, Feature, Hello, Outcome, PcmSource
from edge_agent.link import REPLY, Deframer, Frame, Notice, Request, encode_frame
from pdmu.bundle import Bundle, law_stages, read_bundle, write_bundle
from pdmu.config import DetectorConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.golden import golden_pcm
from tests.conftest import REPO
from tests.deploy.c_harness import BUILDS, cut
from tests.deploy.random_bundle import random_bundle

FOLDER = Path(__file__).parent
CHOICES = {"esp-idf": ((), ("-DCONFIG_PDMU_LINE_USB=1",))}  # of menuconfig, that choose between pieces of code
RING_SAMPLES = 4096  # PDMU_MICROPHONE_SAMPLES
HELLO = encode_frame(Request.HELLO, 7, struct.pack("<Q", 5))
PROGRAMS = {  # what a platform's own compiler would build around the library
    "arduino": ("examples/Microphone/Microphone.ino", "examples/SerialLine/SerialLine.ino"),
    "platformio": ("src/main.cpp",),
    "zephyr": ("samples/microphone/src/main.c", "samples/microphone/src/line.c"),
    "esp-idf": ("main/main.c", "main/line.c"),
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Names and a label that every format would have to escape, and a detector that finds much in the golden signal."""
    made = random_bundle(1, FrontendConfig(), ModelConfig(('co"ugh', "naïve\\ $x"), (), (PDMUConfig(6, 3, 4),)))
    detector = DetectorConfig((9_000, 23_000), smooth_steps=2, min_steps=2, max_steps=8, refractory_steps=6, release_ratio=1.0)
    return replace(made, detector=detector, info={"name": 'my "model"/*', "version": "1.2", "licence": 'a "licence"\nof two lines'})


@pytest.fixture(scope="module")
def packages(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {platform: tmp_path_factory.mktemp("packages") / platform for platform in PLATFORMS}
    for platform, folder in folders.items():
        written = export_package(bundle, platform, folder)
        assert {path for path in folder.rglob("*") if path.is_file()} == set(written)
    return folders


def compiled(compiler: str, folder: Path, *arguments: object) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no compiler '{compiler}': the packages' programs are NOT TESTED HERE")
    done = subprocess.run([compiler, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def microphone_board(packages: dict[str, Path], cc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package's code on this machine, as its programs use it: the driver puts what a file holds."""
    code, out = packages["arduino"] / PLATFORMS["arduino"], tmp_path_factory.mktemp("board") / "board"
    compiled(cc, code, *STRICT, *BUILDS["O2"], "-I.", *sorted(code.glob("*.c")), FOLDER / "microphone_main.c", "-o", out)
    return out


def heard(program: Path, requests: bytes, chunks: Sequence[np.ndarray], folder: Path) -> list[Frame]:
    """Return what a board says to requests, and then to the chunks that its microphone brings."""
    path = folder / "chunks"
    path.write_bytes(b"".join(np.int32(len(c)).tobytes() + c.astype(np.int16).tobytes() for c in chunks))
    done = subprocess.run([program, path], input=requests, capture_output=True, check=True)
    items = Deframer().feed(done.stdout)
    assert all(isinstance(item, Frame) for item in items)
    return [item for item in items if isinstance(item, Frame)]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_placeholder_is_left_and_the_readme_says_what_was_not_tried(platform: str, packages: dict[str, Path]) -> None:
    texts = {path: path.read_text() for path in packages[platform].rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if re.search(r"@[A-Z]+@", text)] == []
    readme = texts[packages[platform] / "README.md"]
    assert "Not tried on hardware" in readme
    assert "## Connect" in readme and "## Type" in readme
    assert "Model licence: a licence of two lines" in readme


def test_manifests_are_read_by_their_formats(packages: dict[str, Path]) -> None:
    lines = (packages["arduino"] / "library.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", properties["name"])
    assert (properties["name"], properties["version"]) == ("PDMU_my_model", "1.2.0")
    assert set(properties) >= {"author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert (packages["arduino"] / "src" / properties["includes"]).is_file()
    library = json.loads((packages["platformio"] / "lib/pdmu/library.json").read_text())
    assert (library["name"], library["version"]) == ("PDMU_my_model", "1.2.0")
    yaml = pytest.importorskip("yaml", reason="no PyYAML: Zephyr's and ESP-IDF's manifests are NOT TESTED HERE")
    module = yaml.safe_load((packages["zephyr"] / "zephyr/module.yml").read_text())
    assert (packages["zephyr"] / module["build"]["kconfig"]).is_file()
    assert (packages["zephyr"] / module["build"]["cmake"] / "CMakeLists.txt").is_file()
    assert yaml.safe_load((packages["zephyr"] / "samples/microphone/sample.yaml").read_text())["tests"]
    component = yaml.safe_load((packages["esp-idf"] / "components/pdmu/idf_component.yml").read_text())
    assert component["version"] == "1.2.0"


@pytest.mark.parametrize("version", ["", "second", "1.2.3.4", "v1"])
def test_a_version_that_is_no_number_becomes_one(version: str, bundle: Bundle, tmp_path: Path) -> None:
    export_package(replace(bundle, info={"name": "***", "version": version}), "arduino", tmp_path)
    properties = (tmp_path / "library.properties").read_text()
    assert "version=0.0.0\n" in properties and "name=PDMU_model\n" in properties


@pytest.mark.parametrize(("platform", "listing"), [("zephyr", "CMakeLists.txt"), ("esp-idf", "components/pdmu/CMakeLists.txt")])
def test_every_source_is_listed_once(platform: str, listing: str, packages: dict[str, Path]) -> None:
    path = packages[platform] / listing
    listed = re.findall(r'"(src/[^"]+)"', path.read_text())
    assert sorted(listed) == sorted(f"src/{source.name}" for source in (path.parent / "src").glob("*.c"))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_programs_fit_their_platforms_declarations(platform: str, packages: dict[str, Path]) -> None:
    declarations = FOLDER / "declarations" / ("arduino" if platform == "platformio" else platform)
    code = packages[platform] / PLATFORMS[platform]
    options = ("-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{declarations}", f"-I{code}")
    for program, choice in itertools.product(PROGRAMS[platform], CHOICES.get(platform, ((),))):
        compiler, *language = ("gcc", "-x", "c", "-std=gnu11") if program.endswith(".c") else ("g++", "-x", "c++", "-std=gnu++14")
        compiled(compiler, packages[platform], *language, *options, *choice, program)


def test_every_platform_has_the_same_code(packages: dict[str, Path]) -> None:
    codes = [{path.name: path.read_text() for path in (packages[p] / folder).iterdir()} for p, folder in PLATFORMS.items()]
    assert all(code == codes[0] for code in codes)


def test_a_board_with_a_microphone_answers_hello_and_tells_the_laws_events(microphone_board: Path, bundle: Bundle, tmp_path: Path) -> None:
    pcm = np.concatenate([golden_pcm(), golden_pcm()[::-1], golden_pcm()])
    frames = heard(microphone_board, HELLO, cut(pcm, np.random.default_rng(0), 3000), tmp_path)
    assert (frames[0].type, frames[0].tag) == (Request.HELLO | REPLY, 7)
    hello = Hello.unpack(frames[0].payload)
    assert (hello.sha256, hello.source) == (bundle.sha256, PcmSource.MICROPHONE)
    assert hello.features == Feature.TRACE | Feature.MICROPHONE | Feature.BENCH
    events = [BoardEvent.unpack(f.payload) for f in frames if f.type == Notice.EVENT]
    assert {e.outcome for e in events} == set(Outcome), "a signal with fewer outcomes tests less"
    law = law_events(bundle, law_stages(bundle, pcm)["scores"])
    found = {(e.label, int(e.outcome), e.onset_step, e.end_step, e.peak_sum) for e in events}
    assert len(found) == len(events) and found <= set(law)
    assert len(law) - len(found) <= len(bundle.labels), "only what the end of the stream ends may be missing"


@pytest.mark.parametrize("options", [("gcc",), ("clang",), ("arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb")], ids=lambda o: o[0])
def test_the_ring_is_clean_for_every_compiler(options: tuple[str, ...], packages: dict[str, Path], tmp_path: Path) -> None:
    code = packages["arduino"] / PLATFORMS["arduino"]
    compiled(options[0], code, *options[1:], *STRICT, "-O2", "-I.", "-c", "pdmu_microphone.c", "-o", tmp_path / "x.o")


def test_what_the_ring_cannot_hold_is_counted_and_what_is_not_wanted_is_not(microphone_board: Path, tmp_path: Path) -> None:
    chunks = [np.zeros(RING_SAMPLES + 100, np.int16), np.zeros(500, np.int16)]
    health = [BoardHealth.unpack(f.payload) for f in heard(microphone_board, HELLO, chunks, tmp_path) if f.type == Notice.HEALTH]
    assert (health[-1].samples, health[-1].dropped) == (RING_SAMPLES + 500, 100)
    lent = HELLO + encode_frame(Request.RESET, 8, bytes([PcmSource.SERIAL]))
    health = [BoardHealth.unpack(f.payload) for f in heard(microphone_board, lent, chunks, tmp_path) if f.type == Notice.HEALTH]
    assert health[-1].dropped == 0


def test_the_command_writes_every_package_beside_the_bundle(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "m.pdmu", bundle)
    targets = [word for platform in PLATFORMS for word in ("--target", platform)]
    assert main([str(tmp_path / "m.pdmu"), *targets, "--json"]) == 0
    files = [Path(entry["path"]) for entry in json.loads(capsys.readouterr().out)["files"]]
    assert {path.name for path in tmp_path.iterdir()} == {"m.pdmu", *(f"m.{platform}" for platform in PLATFORMS)}
    assert set(files) == {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pdmu"}


def test_a_cmake_project_takes_the_c_export_and_tests_it(cc: str, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no 'cmake': the exported CMakeLists.txt is NOT TESTED HERE")
    export_c(read_bundle(REPO / "models" / "cough.pdmu"), tmp_path / "model")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(mine C)\nadd_subdirectory(model)\n"
        "add_executable(mine mine.c)\ntarget_link_libraries(mine PRIVATE pdmu_runtime)\n"
    )
    (tmp_path / "mine.c").write_text('#include "model_data.h"\nint main(void) { return pdmu_model_data.n_labels != PDMU_N_LABELS; }\n')
    for source, build in (("model", "alone"), (".", "inside")):
        for command in (["cmake", "-S", source, "-B", build], ["cmake", "--build", build]):
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run(["ctest"], cwd=tmp_path / "alone", capture_output=True).returncode == 0
    assert subprocess.run([tmp_path / "inside" / "mine"]).returncode == 0
    assert not list((tmp_path / "inside").rglob("pdmu-host")), "firmware gets the runtime alone"
