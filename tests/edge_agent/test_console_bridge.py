"""A board's detections at a real broker: each once, whatever is cut, killed or absent meanwhile."""

from __future__ import annotations

import json
import random
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import jsonschema
import pytest

from benchmarks.board_program import running_board
from benchmarks.line_cutter import LineCutter
from edge_agent.board import connect
from edge_agent.board_messages import REBOOT_MAGIC
from edge_agent.cli import main as agent_main
from edge_agent.console.cli import main
from edge_agent.console.heard import event_id
from edge_agent.events import SCHEMA_DIR
from edge_agent.link import ERROR, REPLY, Deframer, Frame, Received, Request, encode_frame
from edge_agent.pcm_stream import PcmStream
from edge_agent.serial_port import parse_address
from tests.edge_agent.conftest import WAIT_S, Broker, Subscriber, console_process, wait_until
from tests.helpers import scene

PERIOD_S = 1.0  # of the clip: a detection each


@pytest.fixture
def line(board_program: Path, tmp_path: Path) -> Iterator[LineCutter]:
    """A board that hears a burst a second, behind a line that can be cut."""
    (tmp_path / "clip").write_bytes(scene([(0.2, 0.6)], PERIOD_S).tobytes())
    arguments = ("--tcp", "0", "--source", "clip", "--clip", tmp_path / "clip", "--pace")
    with running_board(board_program, *arguments) as address, LineCutter(int(address.rpartition(":")[2])) as cutter:
        yield cutter


def bridge_toml(folder: Path, broker: Broker, line: LineCutter | str, extra: str = "") -> Path:
    port = line if isinstance(line, str) else f"socket://127.0.0.1:{line.port}"
    path = folder / "agent.toml"
    path.write_text(
        f'[agent]\nnode = "t1"\nstate_dir = "{folder}/state"\n{extra}\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        f'[[source]]\nname = "b0"\ntype = "serial"\nport = "{port}"\n'
    )
    return path


def stopped(bridge: subprocess.Popen[str]) -> tuple[str, str]:
    """End a bridge and return its output; it must have ended well."""
    bridge.send_signal(signal.SIGTERM)
    out, err = bridge.communicate(timeout=WAIT_S)
    assert bridge.returncode == 0, err
    assert "Traceback" not in err
    return out, err


def taken(line: LineCutter) -> tuple[int, int]:
    """Return the board's boot, and the number of the last detection that it was told to forget."""
    board, hello = connect(parse_address(f"socket://127.0.0.1:{line.port}"), None)
    kept = board.resend()
    board.port.close()
    assert kept.lost == 0
    return hello.boot, kept.first - 1


def test_each_detection_once_after_20_cuts_and_a_kill(tmp_path: Path, line: LineCutter, broker: Broker, subscriber: Subscriber) -> None:
    config = bridge_toml(tmp_path, broker, line)
    bridge = console_process("bridge", "--config", config)
    rng = random.Random(1)
    while line.cuts < 20:
        wait_until(lambda: line.connected, "the line to be opened again")
        time.sleep(rng.uniform(0, 1.0))
        line.cut(rng.uniform(0, 0.2))
        if line.cuts == 10 and bridge.poll() is None:
            bridge.kill()
            bridge.communicate()
            bridge = console_process("bridge", "--config", config)
    so_far = len(subscriber.of("b0/detection"))
    wait_until(lambda: len(subscriber.of("b0/detection")) > so_far + 2, "detections after the last cut")
    _, err = stopped(bridge)
    boot, last = taken(line)
    ids = Counter(d["id"] for d in subscriber.of("b0/detection") + subscriber.of("/replay"))
    assert last > 10
    assert {str(event_id(boot, seq, "t1", "b0")) for seq in range(1, last + 1)} == set(ids)
    assert set(ids.values()) == {1}
    assert sorted(d["seq"] for d in subscriber.of("b0/detection") + subscriber.of("/replay")) == list(range(1, last + 1))
    assert "source b0: works again" in err


def test_a_board_that_restarts_on_an_open_line_loses_nothing(
    tmp_path: Path, board_program: Path, broker: Broker, subscriber: Subscriber
) -> None:
    clip = tmp_path / "clip"
    clip.write_bytes(scene([(0.2, 0.6)], PERIOD_S).tobytes())
    with running_board(board_program, "--pty", "--source", "clip", "--clip", clip, "--pace") as path:
        config = bridge_toml(tmp_path, broker, f"port:{path}")
        bridge = console_process("bridge", "--config", config)
        wait_until(lambda: len(subscriber.of("b0/detection")) >= 3, "detections")
        with Path(path).open("wb", buffering=0) as line:  # the bridge has it open all the while
            line.write(encode_frame(Request.REBOOT, 0, struct.pack("<I", REBOOT_MAGIC)))
        before = len(subscriber.of("b0/detection"))
        wait_until(lambda: len(subscriber.of("b0/detection")) >= before + 6, "those of the next run")
        out, err = stopped(bridge)
        board, hello = connect(parse_address(path), None)
        kept = board.resend()
        board.port.close()
    ids = [d["id"] for d in subscriber.of("b0/detection") + subscriber.of("/replay")]
    assert len(set(ids)) == len(ids)
    assert kept.first > 4
    assert {str(event_id(hello.boot, seq, "t1", "b0")) for seq in range(1, kept.first)} <= set(ids)
    assert "the line was lost 0 times" in err


def test_what_a_borrowed_board_hears_is_not_published(tmp_path: Path, board_program: Path, broker: Broker, subscriber: Subscriber) -> None:
    with running_board(board_program, "--pty") as path:
        board, _ = connect(parse_address(path), None)
        stream = PcmStream(board)
        stream.push(scene([(0.5, 1.0)], 2))
        stream.drain()
        assert board.finish(stream.samples) == 1
        board.port.close()  # as a program that was killed
        config = bridge_toml(tmp_path, broker, f"port:{path}", "health_interval_s = 1.0")
        bridge = console_process("bridge", "--config", config)
        wait_until(lambda: any("borrowed it and was killed" in str(h["troubles"]) for h in subscriber.of("/health")), "the trouble")
        time.sleep(3)  # a kept detection is sent every 2 s
        _, err = stopped(bridge)
        board, _ = connect(parse_address(path), None)
        assert board.resend().first == 1
        board.port.close()
    assert subscriber.of("b0/detection") == []
    assert "the board hears what is sent to it" in err


def relay(damage: Callable[[Received], bytes | None], upstream: int, listener: socket.socket) -> None:
    """Forward between one client of `listener` and a board; what the board says is replaced by what `damage` returns, if it does."""
    deframer = Deframer()
    client, board = listener.accept()[0], socket.create_connection(("127.0.0.1", upstream))
    with client, board:
        while True:
            for end in select.select([client, board], [], [])[0]:
                data = end.recv(4096)
                if not data:
                    return
                if end is client:
                    board.sendall(data)
                    continue
                for item in deframer.feed(data):
                    if isinstance(item, Frame):
                        changed = damage(item)
                        client.sendall(encode_frame(*item) if changed is None else changed)


@contextmanager
def relayed_board(board_program: Path, clip: Path, damage: Callable[[Received], bytes | None]) -> Iterator[str]:
    """A board that hears a burst a second, behind `relay`: its address."""
    clip.write_bytes(scene([(0.2, 0.6)], PERIOD_S).tobytes())
    arguments = ("--tcp", "0", "--source", "clip", "--clip", clip, "--pace")
    with running_board(board_program, *arguments) as address, socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = int(address.rpartition(":")[2])
        threading.Thread(target=relay, args=(damage, upstream, listener), daemon=True).start()
        yield f"socket://127.0.0.1:{listener.getsockname()[1]}"


def test_text_is_no_sign_of_life(tmp_path: Path, board_program: Path, broker: Broker, subscriber: Subscriber) -> None:
    hung = threading.Event()
    with relayed_board(board_program, tmp_path / "clip", lambda _: b"bootloader: no image\r\n" if hung.is_set() else None) as port:
        bridge = console_process("bridge", "--config", bridge_toml(tmp_path, broker, port, "health_interval_s = 1.0"))
        wait_until(lambda: subscriber.of("b0/detection"), "a detection")
        hung.set()
        wait_until(lambda: any("has sent no frame for 12 s" in str(h["troubles"]) for h in subscriber.of("/health")), "the trouble")
        stopped(bridge)


def test_a_refused_request_does_not_take_the_line_down(tmp_path: Path, board_program: Path, broker: Broker, subscriber: Subscriber) -> None:
    refused: list[int] = []

    def refuse(item: Received) -> bytes | None:
        if not isinstance(item, Frame) or item.type != Request.ACK | REPLY or len(refused) >= 2:
            return None
        refused.append(Request.ACK if not refused else Request.BENCH)
        return encode_frame(ERROR, item.tag, bytes([refused[-1], 2]) + b"not so\0")

    with relayed_board(board_program, tmp_path / "clip", refuse) as port:
        bridge = console_process("bridge", "--config", bridge_toml(tmp_path, broker, port))
        wait_until(lambda: len(subscriber.of("b0/detection")) >= 4, "detections after it")
        _, err = stopped(bridge)
    assert refused == [Request.ACK, Request.BENCH]
    assert "source b0: the board refuses BENCH: not so" in err
    assert "the board refuses ACK" not in err
    assert "the line was lost 0 times" in err


def test_payloads_status_and_summary(tmp_path: Path, line: LineCutter, broker: Broker, subscriber: Subscriber) -> None:
    config = bridge_toml(tmp_path, broker, line, "health_interval_s = 1.0")
    bridge = console_process("bridge", "--config", config, "--json")
    wait_until(lambda: len(subscriber.of("b0/detection")) >= 3, "detections")
    line.cut(3.0)
    wait_until(lambda: any(h["troubles"] for h in subscriber.of("/health")), "the trouble in the health report")
    wait_until(lambda: not subscriber.of("/health")[-1]["troubles"], "its end")
    out, err = stopped(bridge)
    for name in ("detection", "health", "info"):
        validator = jsonschema.Draft202012Validator(json.loads((SCHEMA_DIR / f"{name}.json").read_text()))
        for payload in subscriber.of(f"/{name}"):
            validator.validate(payload)
    assert subscriber.of("/info")[-1]["models"][0]["labels"] == ["cough", "other"]
    *printed, summary = [json.loads(text) for text in out.splitlines()]
    got = subscriber.of("b0/detection")
    assert got == printed
    assert {d["model"]["runtime"] for d in got} == {"c"}
    assert subscriber.of("b0/state")[-1] == got[-1]
    assert (summary["type"], summary["detections"], summary["cuts"], summary["lost"]) == ("summary", len(got), 1, 0)
    assert subscriber.messages[-1][:2] == ("pdmu/t1/status", "offline")
    dates = [datetime.fromisoformat(d["ts"].replace("Z", "+00:00")).timestamp() - d["t_start_s"] for d in got]
    assert max(dates) - min(dates) < 1.0  # one sample clock dates them all; a second allows for a busy machine


def test_what_a_board_kept_comes_as_history_with_its_own_dates(
    tmp_path: Path, line: LineCutter, broker: Broker, subscriber: Subscriber
) -> None:
    board, _ = connect(parse_address(f"socket://127.0.0.1:{line.port}"), None)  # gives the board's run its name
    board.port.close()
    time.sleep(4)
    bridge = console_process("bridge", "--config", bridge_toml(tmp_path, broker, line), "--set", "mqtt.replay_after_s=2")
    wait_until(lambda: subscriber.of("b0/detection"), "what is new")
    stopped(bridge)
    old = subscriber.of("/replay")
    assert len(old) >= 2
    assert all(d["historical"] for d in old)
    assert min(d["latency_ms"] for d in old) > 1000
    starts = [datetime.fromisoformat(d["ts"].replace("Z", "+00:00")).timestamp() for d in old]
    assert [b - a for a, b in zip(starts[:-1], starts[1:], strict=True)] == pytest.approx([PERIOD_S] * (len(old) - 1), abs=0.1)


def test_the_command_line_names_a_board_without_a_configured_one(
    tmp_path: Path, line: LineCutter, broker: Broker, subscriber: Subscriber
) -> None:
    settings = ("--set", f"mqtt.port={broker.port}", "--set", f"agent.state_dir={tmp_path}", "--set", "agent.node=t2")
    bridge = console_process("bridge", "--port", f"socket://127.0.0.1:{line.port}", "--source", "pond", *settings)
    wait_until(lambda: subscriber.of("pdmu/t2/pond/detection"), "a detection")
    stopped(bridge)


def test_boards_that_are_not_there_are_waited_for(tmp_path: Path, broker: Broker, subscriber: Subscriber) -> None:
    settings = ("--set", f"mqtt.port={broker.port}", "--set", f"agent.state_dir={tmp_path}", "--set", "agent.node=t1")
    bridge = console_process("bridge", "--port", "socket://127.0.0.1:1", *settings)
    wait_until(lambda: ("pdmu/t1/status", "online", False) in subscriber.messages, "the node")
    _, err = stopped(bridge)
    assert "source board0: error: socket://127.0.0.1:1: cannot connect" in err
    assert err.splitlines()[-1].startswith("bridge: 0 detections stored")


def test_check_meets_the_board(capsys: pytest.CaptureFixture[str], tmp_path: Path, line: LineCutter, broker: Broker) -> None:
    assert agent_main(["check", "--config", str(bridge_toml(tmp_path, broker, line)), "--json"]) == 0
    stages = {s["name"]: s for s in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (stages["source b0"]["status"], stages["model"]["status"]) == ("ok", "skipped")
    assert "pdmu-board on socket://127.0.0.1" in stages["source b0"]["detail"]


def test_output_that_nobody_reads_stops_nothing(tmp_path: Path, line: LineCutter, broker: Broker, subscriber: Subscriber) -> None:
    with Path("/dev/full").open("w") as full:
        bridge = console_process("bridge", "--config", bridge_toml(tmp_path, broker, line), "--json", stdout=full)
        wait_until(lambda: len(subscriber.of("b0/detection")) >= 2, "detections")
        _, err = stopped(bridge)
    assert err.count("stdout: error: No space left on device") == 1


def test_what_cannot_be_bridged_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[[source]]\ntype = "serial"\nname = "b0"\n[[source]]\ntype = "serial"\nname = "b1"\nport = "id:2"\n')
    refusals = (
        (["--source", "b2"], "no source 'b2' of type serial is configured"),
        (["--port", "/dev/x"], "--port and --baud are for one board: name it with --source (b0, b1)"),
    )
    for arguments, message in refusals:
        assert main(["bridge", "--config", str(path), *arguments]) == 1
        assert message in capsys.readouterr().err
    bundle = Path("models/cough.pdmu").resolve()
    path.write_text(path.read_text() + f'[agent]\nstate_dir = "{tmp_path}"\n[[model]]\nbundle = "{bundle}"\nbackend = "numpy"\n')
    assert agent_main(["run", "--config", str(path)]) == 1
    assert "source b0: a board hears for itself; start: pdmu-console bridge --source b0" in capsys.readouterr().err
