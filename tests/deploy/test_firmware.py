"""Firmware on emulated boards, spoken to as a user does: over its serial line, mostly with pdmu-console."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from demo.broker import free_port
from deploy.c_export import export_c
from deploy.conformance_c import law_events
from deploy.firmware import build_firmware, counting, main, run_command
from deploy.machines import MACHINES, TooLarge
from deploy.toolchain import missing
from edge_agent.board import Board
from edge_agent.board_messages import BoardEvent, BoardHealth
from edge_agent.link import Notice, Request, encode_frame
from pdmu.bundle import law_stages, read_bundle
from pdmu.errors import UserError
from tests.conftest import REPO
from tests.deploy.boards import Running

COUGHS = slice(4 * 16000, 7 * 16000)  # of the shipped stream: what the emulated lines carry in a few seconds, and it has a detection
SPARE_STACK_BYTES = 256  # of what the linker script sees to, after everything that a board can be asked for

Images = Callable[[str], Path]


def need_machine(name: str) -> None:
    """Skip, saying what is not tested, where a machine cannot be built for or emulated."""
    absent = missing(MACHINES[name].compiler[0], MACHINES[name].qemu[0])
    if absent:
        pytest.skip(f"{' and '.join(absent)} not installed: the firmware of {name} is NOT TESTED HERE")


def shipped(machine: str) -> Path:
    """The largest of two models that the machine's RAM holds."""
    return REPO / "models" / ("birds.pdmu" if machine == "microbit" else "cough.pdmu")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Return what builds a machine's firmware, once."""
    folder = tmp_path_factory.mktemp("firmware")

    def build(machine: str) -> Path:
        need_machine(machine)
        out = folder / f"{machine}.elf"
        return out if out.exists() else build_firmware(read_bundle(shipped(machine)), machine, out)

    return build


@pytest.fixture(scope="module")
def coughs() -> np.ndarray:
    """Part of the shipped stream, int16."""
    return np.asarray(soundfile.read(REPO / "demo" / "stream.flac", dtype="int16")[0][COUGHS])


@contextmanager
def on_port(command: Sequence[str], port: int) -> Iterator[Running]:
    """Run a command that emulates a board with its line on a TCP port."""
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
    board = Running(process, f"socket://127.0.0.1:{port}")
    try:
        until_s = time.monotonic() + 60
        while True:  # the emulator listens; it is built before where the command does that too
            assert process.poll() is None, process.communicate()[1]
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < until_s
                time.sleep(0.05)
        yield board
    finally:
        process.kill()
        process.communicate()


@contextmanager
def running(machine: str, image: Path, count: bool = False) -> Iterator[Running]:
    """Run firmware under QEMU."""
    port = free_port()
    with on_port(run_command(machine, image, f"tcp:{port}", count), port) as board:
        yield board
        assert board.process.poll() is None, board.process.communicate()[1]


def console(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pdmu-console."""
    command = [sys.executable, "-m", "edge_agent.console.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240, check=False)


def garbage() -> bytes:
    """Noise, a frame without its end, one that is damaged, an endless one, half a request."""
    noise = random.Random(1).randbytes(700)
    hello = encode_frame(Request.HELLO, 9, bytes(8))
    damaged = hello[:5] + bytes([hello[5] ^ 1]) + hello[6:]
    return noise + hello[:-1] + damaged + b"\x55" * 600 + b"\0" + encode_frame(Request.RESET, 9, b"\0")[:3]


@pytest.mark.parametrize("machine", MACHINES)
def test_whatever_was_on_its_line_a_board_verifies_stage_by_stage(machine: str, image: Images) -> None:
    with running(machine, image(machine)) as board:
        with socket.create_connection(("127.0.0.1", int(board.where.rpartition(":")[2]))) as line:
            line.sendall(garbage())
        hello = console("hello", "--port", board.where, "--json")
        assert hello.returncode == 0, hello.stderr
        assert json.loads(hello.stdout)["board"] == machine
        verified = console("verify", "--port", board.where, "--bundle", shipped(machine))
        assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize("machine", MACHINES)
def test_a_restarted_board_is_a_new_run_and_knows_its_stack(machine: str, image: Images) -> None:
    with running(machine, image(machine)) as board:
        line, first = board.connect()
        line.bench(3, 60.0)
        used = stack_free(board, line)
        line.reboot()
        assert first.boot != line.hello().boot == line.nonce
        assert SPARE_STACK_BYTES < used < stack_free(board, line), "painted anew"
        line.port.close()


def stack_free(board: Running, line: Board) -> int:
    """What a board says of its stack, bytes."""
    line.receive(0.2)  # of the health that an earlier HELLO brought
    known = len(board.notices(Notice.HEALTH))
    line.hello()
    until_s = time.monotonic() + 20
    while len(board.notices(Notice.HEALTH)) == known and time.monotonic() < until_s:
        line.receive(1.0)
    return BoardHealth.unpack(board.notices(Notice.HEALTH)[-1]).stack_free


def test_streamed_recordings_give_the_agents_events(image: Images, coughs: np.ndarray, tmp_path: Path) -> None:
    machine, recording = "mps2-an386", tmp_path / "coughs.flac"
    soundfile.write(recording, coughs, 16000)
    with running(machine, image(machine)) as board:
        streamed = console("stream", "--port", board.where, recording, "--json")
    bundle = str(shipped(machine))
    command = [sys.executable, "-m", "edge_agent.cli", "analyze", str(recording), "--bundle", bundle, "--backend", "numpy", "--json"]
    analysed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert streamed.returncode == 0, streamed.stderr
    events = [[json.loads(line) for line in text.splitlines()] for text in (streamed.stdout, analysed.stdout)]
    assert events[1], "the recording has detections"
    keys = ("t_start_s", "t_end_s", "label", "score", "threshold", "cut")
    assert [[e[k] for k in keys] for e in events[0]] == [[e[k] for k in keys] for e in events[1]]


@pytest.mark.parametrize("machine", ["mps2-an386", "riscv32"])
def test_make_builds_firmware_that_hears_a_clip_over_and_over(machine: str, coughs: np.ndarray, tmp_path: Path) -> None:
    need_machine(machine)
    if shutil.which("make") is None:
        pytest.skip("no 'make': firmware of an exported folder is NOT TESTED HERE")
    bundle = read_bundle(shipped(machine))
    export_c(bundle, tmp_path)
    (tmp_path / "coughs.raw").write_bytes(coughs.astype("<i2").tobytes())
    make = ["make", "-s", "firmware", f"MACHINE={machine}", "CLIP=coughs.raw"]
    built = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    repeated = np.tile(coughs, 3)
    whole = repeated[: len(repeated) // bundle.samples_per_step * bundle.samples_per_step]
    found = [e for e in law_events(bundle, law_stages(bundle, whole)["scores"]) if e[1] in (0, 1)][:2]
    assert len(found) == 2
    with running(machine, tmp_path / f"firmware-{machine}-clip.elf") as board:
        line, _ = board.connect()
        until_s = time.monotonic() + 90
        while len(detections(board)) < 2 and time.monotonic() < until_s:
            line.receive(1.0)
        line.port.close()
    assert [(e.label, e.outcome, e.onset_step, e.end_step, e.peak_sum) for e in detections(board)[:2]] == found


def detections(board: Running) -> list[BoardEvent]:
    """The numbered events heard, each once."""
    return list({e.seq: e for e in board.events() if e.seq}.values())


def test_make_names_the_machines(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no 'make': firmware of an exported folder is NOT TESTED HERE")
    export_c(read_bundle(shipped("riscv32")), tmp_path)
    refused = subprocess.run(["make", "-s", "firmware", "MACHINE=m4"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert f"MACHINE=m4 is not known; it is one of: {' '.join(MACHINES)}" in refused.stderr


def test_instructions_are_counted_to_a_tick_of_the_clock(tmp_path: Path) -> None:
    need_machine("mps2-an386")
    image = build_firmware(read_bundle(shipped("mps2-an386")), "mps2-an386", tmp_path / "firmware.elf", flags=counting("mps2-an386"))
    with running("mps2-an386", image, count=True) as board:
        first, second = (console("bench", "--port", board.where, "--hops", "62", "--json") for _ in range(2))
    assert first.returncode == 0, first.stderr
    counts = [json.loads(run.stdout)["per_hop"]["all"]["instructions"] for run in (first, second)]
    assert counts[0] > 10_000
    assert abs(counts[0] - counts[1]) <= 40, "a tick is forty instructions"


def test_one_command_builds_and_runs(tmp_path: Path) -> None:
    need_machine("riscv32")
    port = free_port()
    command = [sys.executable, "-m", "deploy.firmware", str(shipped("riscv32")), "--machine", "riscv32"]
    with on_port([*command, "--out", str(tmp_path / "x.elf"), "--run", "--serial", f"tcp:{port}"], port) as board:
        _, hello = board.connect()
        assert hello.board == "riscv32"
        board.process.send_signal(signal.SIGINT)
        assert board.process.wait(10) == 0, "Ctrl+C is the way to end it"


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no whole number of instructions"):
        counting("mps3-an547")
    bundle = str(shipped("riscv32"))
    for arguments, words in (
        ([str(tmp_path / "none.pdmu"), "--machine", "microbit"], "none.pdmu"),
        ([bundle, "--machine", "riscv32", "--clip", str(tmp_path / "none.wav"), "--out", str(tmp_path / "x.elf")], "no such file"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error


def test_a_missing_emulator_is_told_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(shipped("riscv32")), "--machine", "riscv32", "--out", str(tmp_path / "x.elf"), "--run"]) == 1
    assert "qemu-system-riscv32 not found; install it (Debian: apt-get install qemu-system-misc)" in capsys.readouterr().err
    assert not (tmp_path / "x.elf").exists()


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
