"""Costs of a microcontroller: counted exactly, and told as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mcu.measure import build_plugin, measure
from benchmarks.mcu.table import mcu_table
from deploy.machines import MACHINES
from deploy.toolchain import missing
from pdmu.bundle import read_bundle
from pdmu.golden import golden_pcm
from tests.conftest import REPO


def test_instructions_are_exact_and_parts_add_up(tmp_path: Path) -> None:
    machine = "mps2-an386"
    absent = missing("cc", MACHINES[machine].compiler[0], MACHINES[machine].qemu[0])
    if absent:
        pytest.skip(f"{' and '.join(absent)} not installed: the cost on {machine} is NOT TESTED HERE")
    bundle = read_bundle(REPO / "models" / "cough-spiking.pdmu")
    plugin = build_plugin(tmp_path)
    first, second = (measure(bundle, machine, golden_pcm(), tmp_path / name, plugin) for name in ("a", "b"))
    assert first == second
    assert first["flash"]["all"] == sum(first["flash"][k] for k in ("runtime", "tables", "model"))
    assert first["flash"]["runtime"] <= 24 << 10
    assert first["ram"]["all"] <= 24 << 10
    assert first["ram"]["state"] > 10_000 and first["ram"]["stack"] > 100
    assert 0 < first["synaptic_operations_per_step"] < first["macs_per_step"]
    assert first["instructions"]["network"]["largest"] > first["instructions"]["network"]["mean"], "a hop in two makes a step"


def test_the_table_tells_what_does_not_fit_and_the_cell_beside_another_runtime() -> None:
    cost = {
        "flash": {"runtime": 17_000, "tables": 8_000, "model": 52_000},
        "ram": {"state": 15_376, "scratch": 2_336, "stack": 388, "all": 18_156},
        "instructions": {"frontend": {"mean": 31_581.8}, "network": {"mean": 24_000.0}, "detector": {"mean": 41.0}},
        "per_second": 11_895_319,
        "load_percent_estimate": {"64": 18.59, "168": 7.08},
        "per_step": 24_000,
        "per_mac": 1.77,
    }
    rows = [
        {"network": "cough", "machine": "microbit", "core": "Cortex-M0", "too_large": True},
        {"network": "reference cell", "machine": "mps2-an386", "core": "Cortex-M4F"} | cost,
    ]
    text = mcu_table({"seconds": 20.0, "recording": "x.flac", "tflm_per_step": {"mps2-an386": 97_000}, "rows": rows})
    assert "| cough | Cortex-M0 (microbit) | does not fit |" in text
    assert "Cortex-M4F 24,000 (97,000)" in text
    assert "| 31,582 / 24,000 / 41 | 11.90 | 18.6 / 7.1 | 1.77 |" in text
