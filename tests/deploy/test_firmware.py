"""Firmware on emulated boards, spoken to as a user does: pdmu-console over the serial line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from demo.broker import free_port
from deploy.firmware import build_firmware, counting, main, run_command
from deploy.machines import MACHINES, TooLarge
from deploy.toolchain import missing
from pdmu.bundle import read_bundle
from pdmu.errors import UserError
from tests.conftest import REPO

STREAM = REPO / "demo" / "stream.flac"


def need_machine(name: str) -> None:
    """Skip, saying what is not tested, where a machine cannot be built for or emulated."""
    absent = missing(MACHINES[name].compiler[0], MACHINES[name].qemu[0])
    if absent:
        pytest.skip(f"{' and '.join(absent)} not installed: the firmware of {name} is NOT TESTED HERE")


def shipped(machine: str) -> Path:
    """The largest of two models that the machine's RAM holds."""
    return REPO / "models" / ("birds.pdmu" if machine == "microbit" else "cough.pdmu")


@contextmanager
def running(machine: str, image: Path, count: bool = False) -> Iterator[str]:
    """A board under QEMU; yields its address for --port."""
    port = free_port()
    board = subprocess.Popen(run_command(machine, image, f"tcp:{port}", count), stderr=subprocess.PIPE)
    try:
        time.sleep(0.5)
        yield f"socket://127.0.0.1:{port}"
        assert board.poll() is None, board.stderr.read().decode() if board.stderr else ""
    finally:
        board.kill()
        board.communicate()


def console(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pdmu-console."""
    command = [sys.executable, "-m", "edge_agent.console.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_board_verifies_stage_by_stage_over_its_serial_line(machine: str, tmp_path: Path) -> None:
    need_machine(machine)
    bundle = shipped(machine)
    image = build_firmware(read_bundle(bundle), machine, tmp_path / "firmware.elf")
    with running(machine, image) as port:
        hello = console("hello", "--port", port, "--json")
        assert hello.returncode == 0, hello.stderr
        assert json.loads(hello.stdout)["board"] == machine
        verified = console("verify", "--port", port, "--bundle", bundle)
        assert verified.returncode == 0, verified.stdout + verified.stderr


def test_streamed_recordings_give_the_agents_events(tmp_path: Path) -> None:
    need_machine("mps2-an386")
    bundle = shipped("mps2-an386")
    image = build_firmware(read_bundle(bundle), "mps2-an386", tmp_path / "firmware.elf")
    recording = tmp_path / "coughs.flac"
    soundfile.write(recording, *soundfile.read(STREAM, frames=20 * 16000, dtype="int16"))  # the emulated line is slower than sound
    with running("mps2-an386", image) as port:
        streamed = console("stream", "--port", port, recording, "--json")
    command = [sys.executable, "-m", "edge_agent.cli", "analyze", str(recording), "--bundle", str(bundle), "--backend", "numpy", "--json"]
    analysed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert streamed.returncode == 0, streamed.stderr
    events = [[json.loads(line) for line in text.splitlines()] for text in (streamed.stdout, analysed.stdout)]
    assert events[1], "the recording has detections"
    keys = ("t_start_s", "t_end_s", "label", "score", "threshold", "cut")
    assert [[e[k] for k in keys] for e in events[0]] == [[e[k] for k in keys] for e in events[1]]


def test_instructions_are_counted_to_a_tick_of_the_clock(tmp_path: Path) -> None:
    need_machine("mps2-an386")
    image = build_firmware(read_bundle(shipped("mps2-an386")), "mps2-an386", tmp_path / "firmware.elf", flags=counting("mps2-an386"))
    with running("mps2-an386", image, count=True) as port:
        first, second = (console("bench", "--port", port, "--hops", "62", "--json") for _ in range(2))
    assert first.returncode == 0, first.stderr
    counts = [json.loads(run.stdout)["per_hop"]["all"]["instructions"] for run in (first, second)]
    assert counts[0] > 10_000
    assert abs(counts[0] - counts[1]) <= 40, "a tick is forty instructions"


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no whole number of instructions"):
        counting("mps3-an547")
    assert main([str(tmp_path / "none.pdmu"), "--machine", "microbit"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--run", "--serial", "com3"], ["--run", "--serial", "tcp:99999"], ["--serial", "pty"], ["--count"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["x.pdmu", "--machine", "microbit", *arguments])
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_a_clip_too_long_is_named(tmp_path: Path) -> None:
    need_machine("microbit")
    with pytest.raises(TooLarge, match="microbit: .*with a clip of 8.0 s in it: try a shorter one first"):
        build_firmware(read_bundle(shipped("microbit")), "microbit", tmp_path / "x.elf", np.zeros(8 * 16000, np.int16))
