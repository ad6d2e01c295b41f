"""Boards that `pdmu-console` borrows: given back however a command ends, and never at the cost of what they keep for somebody."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile as sf

from benchmarks.board_program import build_board, running_board
from edge_agent.board import connect
from edge_agent.board_messages import PcmSource
from edge_agent.console.session import fed, session
from edge_agent.link import Deframer, Frame, Notice, Request
from edge_agent.serial_port import SerialPort, parse_address
from tests.edge_agent.conftest import WAIT_S, console_process, wait_until
from tests.edge_agent.test_console import lines_of, run
from tests.helpers import scene


def kept_by(path: str) -> tuple[int, str, int]:
    """Return how many detections a board keeps, where its samples come from, and the number of its next one."""
    board, hello = connect(parse_address(path), None)
    kept = board.resend()
    board.port.close()
    return kept.last - kept.first + 1, PcmSource(hello.source).name.lower(), hello.next_seq


@pytest.fixture
def hearing_line(board_program: Path, tmp_path: Path) -> Iterator[str]:
    """A board that hears a burst a second from its own source and keeps at least one detection: its path."""
    clip = tmp_path / "clip"
    clip.write_bytes(scene([(0.2, 0.6)], 1).tobytes())
    with running_board(board_program, "--pty", "--source", "clip", "--clip", clip, "--pace") as path:
        wait_until(lambda: kept_by(path)[0], "a detection")
        yield path


@pytest.mark.parametrize("command", [("bench",), ("hello", "--reboot"), ("stream", "a.wav"), ("verify", "--bundle", "tiny.pdmu")])
def test_commands_refuse_to_lose_what_is_kept(
    capsys: pytest.CaptureFixture[str], hearing_line: str, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    command: tuple[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copy(bundle_path, tmp_path)
    sf.write("a.wav", scene([(1.0, 1.5)], 2), 16000)
    kept, _, _ = kept_by(hearing_line)
    status, out, err = run(capsys, *command, "--port", hearing_line)
    assert (status, out) == (1, "")  # no header either
    assert re.fullmatch(r"error: the board keeps \d+ detections that nobody has taken yet: .*--discard to lose them\n", err)
    kept_after, source, _ = kept_by(hearing_line)
    assert kept_after >= kept
    assert source == "clip"
    assert run(capsys, *command, "--port", hearing_line, "--discard")[0] == 0
    assert kept_by(hearing_line)[1] == "clip"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_a_signal_ends_gives_the_board_back(board_program: Path, bundle_path: Path, tmp_path: Path, number: int) -> None:
    sf.write(tmp_path / "long.wav", scene([(0.2 + i, 0.6 + i) for i in range(0, 60, 2)], 60), 16000)
    (tmp_path / "silence").write_bytes(scene([], 10).tobytes())
    with running_board(board_program, "--pty", "--source", "clip", "--clip", tmp_path / "silence", "--pace") as path:
        console = console_process("verify", "--port", path, "--bundle", bundle_path, "--json", tmp_path / "long.wav")
        assert console.stdout is not None
        assert json.loads(console.stdout.readline())["signal"] == "golden"
        time.sleep(1.0)  # in the midst of the recording, by the law or on the line
        console.send_signal(number)
        _, err = console.communicate(timeout=WAIT_S)
        assert (console.returncode, err) == (130 if number == signal.SIGINT else 128 + number, "")
        assert kept_by(path)[:2] == (0, "clip")
        heard: list[Frame] = []
        board, _ = connect(parse_address(path), None, lambda item: heard.append(item) if isinstance(item, Frame) else None)
        wait_until(lambda: board.receive(0.1) or any(f.type == Notice.HEALTH for f in heard), "a sign of life")
        board.port.close()
    assert all(f.type != Notice.STAGE for f in heard)  # nor does its trace go on


def test_a_command_that_is_over_leaves_nothing_of_its_own(capsys: pytest.CaptureFixture[str], board_program: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", scene([(0.5, 1.0), (1.2, 1.9)], 2), 16000)
    (tmp_path / "silence").write_bytes(scene([], 10).tobytes())
    with running_board(board_program, "--pty", "--source", "clip", "--clip", tmp_path / "silence", "--pace") as path:
        status, out, _ = run(capsys, "stream", tmp_path / "a.wav", "--port", path, "--json")
        assert (status, len(lines_of(out))) == (0, 2)
        assert kept_by(path) == (0, "clip", 3)


def test_a_source_that_is_not_known_is_not_borrowed(capsys: pytest.CaptureFixture[str], board_sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "newer"
    shutil.copytree(board_sources, folder)
    requests = folder / "link" / "board_requests.c"
    requests.write_text(requests.read_text().replace("pdmu_frame_number(f, board->source, 1);", "pdmu_frame_number(f, 9, 1);"))
    with running_board(build_board(folder), "--pty") as line:
        status, out, err = run(capsys, "bench", "--port", line)
        assert (status, out) == (1, "")
        assert err == "error: the board hears from unknown (9), which this program does not know: update pdmu\n"


def test_what_is_kept_is_looked_at_when_nothing_more_can_come(
    capsys: pytest.CaptureFixture[str], hearing_line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    write = SerialPort.write

    def noted(port: SerialPort, data: bytes) -> None:
        asked.extend(Request(item.type).name for item in Deframer().feed(data) if isinstance(item, Frame))
        write(port, data)

    monkeypatch.setattr(SerialPort, "write", noted)
    assert run(capsys, "bench", "--port", hearing_line, "--discard")[0] == 0
    assert [x for x in asked if x != "LABEL"] == [
        "HELLO", "RESET", "RESEND", "ACK", "BENCH", "HELLO", "RESET", "HELLO", "TRACE", "RESET"
    ]  # fmt: skip


def test_what_a_board_hears_of_its_own_again_is_left_to_it(hearing_line: str) -> None:
    with session(parse_address(hearing_line), None) as met, fed(met, discard=True):
        met.board.reset(PcmSource.CLIP)  # as a board does that has heard nobody for long
        before = met.board.hello().next_seq
        wait_until(lambda: met.board.hello().next_seq > before, "a detection")
    assert kept_by(hearing_line)[0] >= 1
