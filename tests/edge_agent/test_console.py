"""`pdmu-console` against the boards' own code on this machine, over a pseudo-terminal and TCP, on good lines and bad ones."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import random
import re
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from benchmarks.board_program import build_board, running_board
from benchmarks.line_cutter import LineCutter
from edge_agent.board import Board, NoAnswer, Refusal, connect
from edge_agent.board_messages import PcmSource
from edge_agent.cli import main as agent_main
from edge_agent.console.cli import main
from edge_agent.link import Frame, Notice, Request, encode_frame
from edge_agent.serial_port import SerialPort, parse_address
from tests.edge_agent.conftest import WAIT_S, console_process, wait_until
from tests.helpers import scene, tiny_bundle


@pytest.fixture
def line(board_program: Path) -> Iterator[str]:
    """A board on a pseudo-terminal: its path."""
    with running_board(board_program, "--pty") as path:
        yield path


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "a b.wav"
    sf.write(path, scene([(1.0, 1.5), (3.0, 3.4)], 5), 16000)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def lines_of(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_hello(capsys: pytest.CaptureFixture[str], line: str, bundle_path: Path, tmp_path: Path) -> None:
    status, out, err = run(capsys, "hello", "--port", line, "--json", "--bundle", bundle_path)
    (r,) = lines_of(out)
    assert (status, err) == (0, "")
    assert r["model"]["name"] == "tiny"
    assert r["labels"] == [{"label": "cough", "threshold": 0.5}, {"label": "other", "threshold": 0.5}]
    assert (r["sample_rate_hz"], r["samples_per_step"], r["source"]) == (16000, 512, "serial")
    tiny_bundle(tmp_path / "other.pdmu", min_steps=4)
    status, out, err = run(capsys, "hello", "--port", f"port:{line}", "--bundle", tmp_path / "other.pdmu")
    assert status == 0
    assert "model      tiny 1.2.3" in out
    assert re.fullmatch(r"warning: the board runs tiny 1.2.3, bundle \w{12}; .*/other.pdmu is \w{12}: flash firmware made from it.*\n", err)


def test_a_board_has_its_name_until_it_is_restarted(capsys: pytest.CaptureFixture[str], line: str) -> None:
    boots = [lines_of(run(capsys, "hello", "--port", line, "--json", *more)[1])[0]["boot"] for more in ([], [], ["--reboot"])]
    assert boots[0] == boots[1] != boots[2]


def test_verify_golden_and_a_recording(capsys: pytest.CaptureFixture[str], line: str, bundle_path: Path, wav: Path) -> None:
    status, out, err = run(capsys, "verify", "--port", line, "--bundle", bundle_path, wav, "--json")
    golden, recording, verdict = lines_of(out)
    assert (status, err) == (0, "")
    per_step = 8  # the convolution, five stages of the layer, logits, scores
    assert (golden["signal"], golden["equal"], golden["calls"]) == ("golden", True, 62 + 31 * per_step)
    assert (recording["signal"], recording["equal"], recording["samples"]) == (str(wav), True, 80000)
    assert verdict["equal"]


def test_verify_names_the_first_difference(
    capsys: pytest.CaptureFixture[str], board_sources: Path, bundle_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(board_sources, folder)
    data = (folder / "model_data.c").read_text()
    changed, n = re.subn(r"(pdmu0_bq?\[3\] = \{\n    )(-?\d+)", lambda m: m[1] + str(int(m[2]) + 1), data)
    assert n == 1
    (folder / "model_data.c").write_text(changed)
    with running_board(build_board(folder), "--pty") as line:
        status, out, err = run(capsys, "verify", "--port", line, "--bundle", bundle_path, "--json")
    signal_record, verdict = lines_of(out)
    assert (status, verdict["equal"], err) == (1, False, "")
    d = signal_record["difference"]
    assert (d["stage"], d["layer"], d["element"]) == ("pdmu0.m", 0, 0)
    assert d["got"] != d["expected"]
    assert d["message"].endswith(f"element 0: expected {d['expected']}, got {d['got']}")


def test_verify_wants_the_boards_bundle(capsys: pytest.CaptureFixture[str], line: str, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "other.pdmu", min_steps=4)
    status, out, err = run(capsys, "verify", "--port", line, "--bundle", tmp_path / "other.pdmu")
    assert (status, out) == (1, "")
    assert "flash firmware made from it, or name the bundle that the board runs" in err


def analyzed(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path) -> list[dict]:
    """What the agent itself detects, as its C backend would print it."""
    assert agent_main(["analyze", str(wav), "--bundle", str(bundle_path), "--backend", "numpy", "--json"]) == 0
    events = lines_of(capsys.readouterr().out)
    return [e | {"model": e["model"] | {"runtime": "c"}} for e in events]


def test_stream_prints_what_analyze_prints(capsys: pytest.CaptureFixture[str], line: str, bundle_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "stereo.flac"
    loud = np.clip(scene([(1.0, 1.5), (3.0, 3.4)], 8, rate_hz=44100).astype(np.int32) * 8, -32768, 32767).astype(np.int16)
    sf.write(path, np.stack([loud, loud], axis=1), 44100)
    status, out, err = run(capsys, "stream", path, "--port", line, "--bundle", bundle_path, "--json")
    assert (status, err) == (0, "")
    assert lines_of(out) == analyzed(capsys, path, bundle_path)
    assert lines_of(out)[0]["audio"]["clipped"] > 0.001
    status, out, _ = run(capsys, "stream", path, "--port", line, "--format", "csv")
    assert [r["label"] for r in csv.DictReader(io.StringIO(out))] == ["cough", "cough"]


def test_stream_goes_on_after_bad_files_and_ends_an_open_event(
    capsys: pytest.CaptureFixture[str], line: str, bundle_path: Path, tmp_path: Path
) -> None:
    sf.write(tmp_path / "open.wav", scene([(1.0, 2.0)], 2), 16000)
    (tmp_path / "bad.wav").write_text("not audio")
    status, out, err = run(capsys, "stream", tmp_path / "bad.wav", tmp_path / "open.wav", "--port", line, "--json")
    assert status == 1
    assert [(e["t_start_s"], e["t_end_s"]) for e in lines_of(out)] == [(1.024, 1.984)]
    assert err.startswith(f"error: {tmp_path / 'bad.wav'}: not a sound file")
    assert len(err.splitlines()) == 1


def noise(rate: float) -> Callable[[bytes], bytes]:
    """Return a function that changes bytes on their way, one in 1/rate."""
    rng = random.Random(5)

    def damage(data: bytes) -> bytes:
        return bytes(b ^ rng.randrange(1, 256) if rng.random() < rate else b for b in data)

    return damage


def test_a_noisy_line_costs_time_and_nothing_else(
    capsys: pytest.CaptureFixture[str], board_program: Path, bundle_path: Path, wav: Path
) -> None:
    with running_board(board_program, "--tcp", "0") as address, LineCutter(int(address.rpartition(":")[2]), noise(1 / 3000)) as line:
        port = f"socket://127.0.0.1:{line.port}"
        status, out, err = run(capsys, "stream", wav, "--port", port, "--bundle", bundle_path, "--json")
    assert (status, err) == (0, "")
    assert lines_of(out) == analyzed(capsys, wav, bundle_path)


def test_bench(capsys: pytest.CaptureFixture[str], line: str) -> None:
    status, out, _ = run(capsys, "bench", "--port", line, "--hops", "20", "--json")
    (r,) = lines_of(out)
    assert (status, r["hops"], r["instructions_per_tick"]) == (0, 20, 0)
    cost = {part: c["us"] for part, c in r["per_hop"].items()}
    assert cost["all"] >= cost["frontend"] > 0
    status, out, _ = run(capsys, "bench", "--port", line)
    assert re.search(r"^network +\d+\.\d$", out, re.MULTILINE)


def test_files_are_looked_at_before_the_board(capsys: pytest.CaptureFixture[str], bundle_path: Path, wav: Path) -> None:
    nowhere = ("--port", "socket://127.0.0.1:1")
    for arguments in (("stream", wav.parent / "no.wav"), ("verify", "--bundle", bundle_path, wav, wav.parent / "no.wav")):
        status, out, err = run(capsys, *arguments, *nowhere)
        assert (status, out) == (1, "")
        assert err == f"error: {wav.parent / 'no.wav'}: cannot be read: No such file or directory\n"


def test_a_line_cut_in_the_middle_is_one_error(board_program: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "long.wav", scene([], 600), 16000)
    with running_board(board_program, "--tcp", "0") as address, LineCutter(int(address.rpartition(":")[2])) as line:
        console = console_process("stream", tmp_path / "long.wav", "--port", f"socket://127.0.0.1:{line.port}")
        wait_until(lambda: line.connected, "the console")
        time.sleep(0.5)
        line.cut(60)
        _, err = console.communicate(timeout=WAIT_S)
    assert console.returncode == 1
    assert re.fullmatch(r"error: socket://127.0.0.1:\d+: .*is the board still plugged in\?\n", err)


def test_another_version_of_the_protocol(capsys: pytest.CaptureFixture[str], board_sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "newer"
    shutil.copytree(board_sources, folder)
    header = folder / "link" / "pdmu_board.h"
    header.write_text(header.read_text().replace("#define PDMU_BOARD_PROTOCOL 1u", "#define PDMU_BOARD_PROTOCOL 2u"))
    with running_board(build_board(folder), "--pty") as line:
        status, out, err = run(capsys, "hello", "--port", line)
    assert (status, out) == (1, "")
    assert err == "error: the board speaks version 2 of the serial protocol, this program version 1: update pdmu-console\n"


def test_a_line_that_speaks_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    far, near = pty.openpty()
    path = os.ttyname(near)
    assert run(capsys, "hello", "--port", path, "--baud", "9600")[2] == (
        f"error: {path}: nothing answers HELLO at 9600 baud; is PDMU firmware on the board, and is this its line?\n"
    )
    port = SerialPort(path, 9600)
    os.write(far, bytes(range(128, 256)) * 2 + b"\x01\x02\0")
    with pytest.raises(NoAnswer, match=r"no answer to HELLO, but \d+ bytes of garbage; is the baud rate right\?"):
        Board(port).hello(answer_s=0.1, tries=2)
    os.close(far)
    os.close(near)


def test_what_a_board_cannot_is_said_in_its_words(line: str) -> None:
    board, _ = connect(parse_address(line), None)
    with pytest.raises(Refusal, match="the board refuses RESET: no microphone is built in"):
        board.reset(PcmSource.MICROPHONE)
    with pytest.raises(Refusal, match="the board refuses FINISH: fewer samples have come"):
        board.request(Request.FINISH, struct.pack("<I", 5))
    board.port.close()


def test_answers_to_somebody_else_are_not_taken_for_ours(line: str) -> None:
    port = SerialPort(line, 115200)
    others = b"".join(encode_frame(Request.LABEL, tag, bytes([9])) for tag in range(1, 256))  # each refused
    board = Board(port)
    port.write(others)
    hello = board.hello()
    assert [label.name for label in board.labels(hello)] == ["cough", "other"]
    port.close()


def test_monitor_in_a_pipe_survives_a_cut(board_program: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(scene([(0.2, 0.5)], 1).tobytes())
    arguments = ("--tcp", "0", "--source", "clip", "--clip", tmp_path / "clip", "--pace")
    with running_board(board_program, *arguments) as address, LineCutter(int(address.rpartition(":")[2])) as line:
        console = console_process("monitor", "--json", "--port", f"socket://127.0.0.1:{line.port}")
        assert console.stdout is not None
        seen: list[dict] = []

        def until(kind: str) -> dict:
            while True:
                seen.append(json.loads(console.stdout.readline()))  # type: ignore[union-attr]
                if seen[-1]["type"] == kind:
                    return seen[-1]

        assert until("hello")["model"]["name"] == "tiny"
        assert until("detection")["label"] == "cough"
        line.cut(0.3)
        assert "is the board still plugged in" in until("line")["message"]
        until("hello")
        until("health")
        until("detection")
        console.send_signal(signal.SIGTERM)
        console.communicate(timeout=WAIT_S)
    assert console.returncode == 0
    numbers = [r["seq"] for r in seen if r["type"] == "detection"]
    assert len(set(numbers)) == len(numbers)


def test_monitor_takes_nothing_away(capsys: pytest.CaptureFixture[str], board_program: Path) -> None:
    with running_board(board_program, "--pty", "--source", "clip", "--pace") as path:
        assert run(capsys, "monitor", "--port", path, "--seconds", "3")[0] == 0
        heard: list[Frame] = []
        board, _ = connect(parse_address(path), None, lambda item: heard.append(item) if isinstance(item, Frame) else None)
        kept = board.resend()
        wait_until(lambda: board.receive(0.1) or any(f.type == Notice.EVENT for f in heard), "the kept events")
        board.port.close()
    assert kept.first == 1 <= kept.last


def test_monitor_on_a_terminal_leaves_with_its_key(line: str) -> None:
    far, near = pty.openpty()
    console = console_process("monitor", "--port", line, stdin=near, stdout=near, stderr=near)
    shown = b""
    while b"Ctrl+] leaves" not in shown:
        shown += os.read(far, 1000)
    os.write(far, b"\x1d")
    assert console.wait(timeout=WAIT_S) == 0
    os.close(far)
    os.close(near)


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["hello", "--port", "usb0"], ["stream"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "usage: pdmu-console" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--hops", "0"], "argument --hops: '0' is not a positive whole number"),
        (["bench", "--hops", "65536"], "argument --hops: 65536 is more than 65535"),
        (["hello", "--baud", "0"], "argument --baud: '0' is not a positive whole number"),
        (["stream", "a.wav", "--rate", "x"], "argument --rate: 'x' is not a positive whole number"),
        (["monitor", "--seconds", "nan"], "argument --seconds: 'nan' is not a positive number of seconds"),
        (["monitor", "--seconds", "-1"], "argument --seconds: '-1' is not a positive number of seconds"),
    ],
)
def test_wrong_numbers_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


@pytest.mark.parametrize("command", ["monitor", "hello", "verify", "stream", "bench", "bridge"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example: pdmu-console {command}" in capsys.readouterr().out
