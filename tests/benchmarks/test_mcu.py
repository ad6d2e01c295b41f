"""Instructions counted on an emulated board: the same twice, told apart by section, and of a chain whose scores are the law's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.mcu.__main__ import main, row
from benchmarks.mcu.image import TARGETS, Measurement, Visits, compile_plugin, measure, read_counts
from benchmarks.mcu.tables import chain_table, reference_table
from deploy.toolchain import missing
from pdmu.bundle import Bundle, law_stages, read_bundle
from pdmu.golden import golden_pcm
from tests.conftest import REPO

HOPS = 12


def needed(*tools: str) -> None:
    absent = missing(*tools)
    if absent:
        pytest.skip(f"no {', '.join(absent)}: instruction counts are NOT TESTED HERE")


@pytest.fixture(scope="module")
def cough() -> Bundle:
    return read_bundle(REPO / "models" / "cough.pdmu")


@pytest.fixture(scope="module")
def twice(cough: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Measurement]:
    needed("cc", "arm-none-eabi-gcc", "qemu-system-arm")
    pcm = golden_pcm()[: HOPS * cough.frontend.hop_samples]
    return [measure(cough, TARGETS["m4f"], pcm, tmp_path_factory.mktemp("m4f")) for _ in range(2)]


def test_counts_are_exact(twice: list[Measurement]) -> None:
    first, second = twice
    assert first.sections == second.sections
    assert first.flash_bytes == second.flash_bytes and first.ram_bytes == second.ram_bytes


def test_sections_are_told_apart(twice: list[Measurement], cough: Bundle) -> None:
    sections = twice[0].sections
    assert {name: v.visits for name, v in sections.items()} == {"front end": HOPS, "model": HOPS, "detector": HOPS // 2}
    assert all(0 < v.largest <= v.instructions for v in sections.values())
    assert sections["model"].instructions > sections["detector"].instructions


def test_scores_are_the_laws(twice: list[Measurement], cough: Bundle) -> None:
    law = law_stages(cough, golden_pcm()[: HOPS * cough.frontend.hop_samples])["scores"]
    assert np.array_equal(twice[0].scores, law)


def test_the_chain_fits_its_budget(twice: list[Measurement]) -> None:
    flash, ram = twice[0].flash_bytes, twice[0].ram_bytes
    assert flash["runtime"] + flash["library"] <= 24_000
    assert 0 < ram["stack"] < 1500 and sum(ram.values()) <= 24_000


def test_the_plugin_counts_every_instruction(tmp_path: Path) -> None:
    needed("cc", "arm-none-eabi-gcc", "qemu-system-arm")
    (tmp_path / "count.S").write_text(
        ".syntax unified\n.thumb\n.word 0x20001000, start + 1, 0, 0\n.global start\nstart: movs r0, #100\nloop: subs r0, #1\nbne loop\n"
        "stop: movs r0, #0x18\nldr r1, =0x20026\nbkpt 0xab\n.ltorg\n"
    )
    command = ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m4", "-nostdlib", "-Wl,-Ttext=0", "-Wl,-e,start", "count.S", "-o", "count.elf"]
    subprocess.run(command, cwd=tmp_path, check=True)
    nm = subprocess.run(["arm-none-eabi-nm", "count.elf"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    at = {name: int(address, 16) for address, _, name in (line.split() for line in nm.splitlines())}
    plugin = f"{compile_plugin(tmp_path)},out=counts.txt,at={at['start']:x}:1,at={at['stop']:x}:0"
    run = ["qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none", "-kernel", "count.elf"]
    subprocess.run([*run, "-semihosting-config", "enable=on,target=native", "-plugin", plugin], cwd=tmp_path, check=True, timeout=60)
    assert read_counts((tmp_path / "counts.txt").read_text()) == {"front end": Visits(1, 201, 201)}


def test_a_row_is_of_what_was_counted(cough: Bundle) -> None:
    sections = {"front end": Visits(10, 1000, 150), "model": Visits(10, 4000, 900), "detector": Visits(5, 50, 12)}
    found = Measurement({"runtime": 1, "model": 2, "library": 3}, {"stack": 4}, sections, np.zeros((5, 1), np.int16))
    made: dict[str, Any] = row(cough, TARGETS["m4f"], found, 400)
    assert made["instructions_per_hop"] == {"front end": 100, "model": 400, "detector": 5}
    assert made["instructions_per_step"] == 800 and made["instructions_per_mac"] == 2
    assert made["instructions_per_s"] == round(5050 / (10 * 256 / 16000)) and made["largest_hop"] == 1062
    assert made["load_estimate"]["64"] == pytest.approx(made["instructions_per_s"] / 64e6, abs=1e-4)


def test_tables_show_what_does_not_fit() -> None:
    ram = {"state": 15000, "scratch": 2000, "detector": 100, "stack": 500}
    good = {
        "core": "Cortex-M4F",
        "kernels": "DSP",
        "flash_bytes": {"runtime": 15000, "library": 1000, "model": 64000},
        "ram_bytes": ram,
        "instructions_per_hop": {"front end": 29000.2, "model": 61000.0, "detector": 41.0},
        "instructions_per_step": 122000.4,
        "instructions_per_mac": 1.446,
        "instructions_per_s": 5_660_000,
        "load_estimate": {"64": 0.0884},
    }
    small = {"core": "Cortex-M0", "kernels": "portable", "does_not_fit": "microbit: …"}
    result: dict[str, Any] = {"clocks_mhz": [64], "tflm": {"Cortex-M4F": 97000}}
    result |= {"bundles": {"x": {"rows": {"a": good, "b": small}}}, "reference": {"rows": {"a": good, "b": small}}}
    head, body = chain_table(result, "x")
    assert body[0][2:] == ["16.0 / 80.0", "17.1 / 0.5", "29,000", "61,000", "41", "1.45", "5.66", "8.8%"]
    assert body[1][:3] == ["Cortex-M0", "portable", "does not fit"] and len(body[1]) == len(head)
    assert reference_table(result)[1] == [["Cortex-M4F", "DSP", "122,000", "1.45", "97,000"]]


def test_usage_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--targets", "m4f,z80"])
    assert ended.value.code == 2 and "no target 'z80'; there are" in capsys.readouterr().err
    assert main(["--bundle", str(tmp_path / "none.pdmu")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
