"""The C runtime equals the law on every processor that can be built for and emulated here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy.conformance_c import TARGETS, build_target, check_program, first_difference, tools_of
from deploy.toolchain import missing
from pdmu.bundle import Bundle, read_bundle
from pdmu.errors import UserError
from pdmu.golden import golden_pcm
from pdmu.state_layout import law_trace
from tests.conftest import REPO
from tests.deploy.random_bundle import form_bundle


def shipped(name: str) -> Bundle:
    return read_bundle(REPO / "models" / f"{name}.pdmu")


@pytest.mark.parametrize("target", TARGETS)
def test_every_stage_and_event_equals_the_law(target: str, tmp_path: Path) -> None:
    if missing(*tools_of(target)):
        pytest.skip(f"{' and '.join(missing(*tools_of(target)))} not installed: {target} is NOT TESTED HERE")
    bundle = shipped("birds" if target == "microbit" else "cough")  # 16 KB of RAM hold the smaller one
    pcm = golden_pcm()[: len(golden_pcm()) // bundle.samples_per_step * bundle.samples_per_step]
    findings = check_program(build_target(bundle, target, tmp_path), bundle, law_trace(bundle, pcm), target, "golden", pcm)
    assert [f for f in findings if not f.holds] == []
    assert {"smoother", "features", "scores", "state", "events"} <= {f.stage for f in findings}


@pytest.mark.parametrize("target", TARGETS)
def test_spiking_layers_equal_the_law_on_every_target(target: str, tmp_path: Path) -> None:
    if missing(*tools_of(target)):
        pytest.skip(f"{' and '.join(missing(*tools_of(target)))} not installed: {target} is NOT TESTED HERE")
    bundle = form_bundle("top1", "spiking inside")
    pcm = golden_pcm()[: 20 * bundle.samples_per_step]
    findings = check_program(build_target(bundle, target, tmp_path), bundle, law_trace(bundle, pcm), target, "golden", pcm)
    assert [f for f in findings if not f.holds] == []


def test_a_program_of_another_state_and_stage_does_not_hold(tmp_path: Path) -> None:
    if missing(*tools_of("c-O2")):
        pytest.skip("no C compiler")
    bundle = form_bundle("softmax", "pdmu")
    pcm = golden_pcm()[: 20 * bundle.samples_per_step]
    law, program = law_trace(bundle, pcm), build_target(bundle, "c-O2", tmp_path)
    law.stages["smoother"][3, 0] += 1
    law.state["counters"][0] += 2
    broken = {f.stage: f.largest for f in check_program(program, bundle, law, "c-O2", "golden", pcm) if not f.holds}
    assert broken == {"smoother": 1, "state": 2}
    del law.stages["features"]
    assert "features" in {f.stage for f in check_program(program, bundle, law, "c-O2", "golden", pcm) if not f.holds}


def test_the_first_difference_is_named_in_the_order_of_the_computation() -> None:
    law = {"features": np.zeros((3, 4), np.int16), "conv0": np.zeros((3, 2, 5), np.int16), "scores": np.zeros((1, 2), np.int16)}
    found = {name: values.reshape(-1).copy() for name, values in law.items()}
    assert first_difference(found, law) is None
    found["scores"][1], found["conv0"][13] = 7, -2
    assert first_difference(found, law) == "conv0, call 1, element 3: -2, the law says 0"
    del found["features"]
    assert first_difference(found, law) == "features, call 0, element 0: 0 integers, the law has 12"


def test_a_model_too_large_for_a_machine_is_one_clear_error(tmp_path: Path) -> None:
    if missing(*tools_of("microbit")):
        pytest.skip("no Arm compiler or emulator")
    with pytest.raises(UserError, match="microbit: the model does not fit in 16 kB of RAM"):
        build_target(shipped("cough"), "microbit", tmp_path)


def test_a_missing_compiler_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="arm-none-eabi-gcc not found; install it .*gcc-arm-none-eabi libnewlib"):
        build_target(shipped("birds"), "mps2-an386", tmp_path)
