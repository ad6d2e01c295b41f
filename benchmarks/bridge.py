"""A board's detections at the broker though its serial line is cut again and again:  python -m benchmarks.bridge --minutes 10 --cuts 20

`pdmu-board` plays a recording in a loop, in real time. `pdmu-console bridge` hears it through a line that is cut at random moments, for up
to ten seconds each, in whatever is passing, and brings its detections to a real mosquitto. At the end the board is asked how many it has
made and been told to forget: each must be at the broker exactly once by its id. The exit status is the verdict.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import soundfile

from benchmarks.board_program import build_board, export_board, running_board
from benchmarks.common import ROOT, STREAM, mosquitto, parser, report
from benchmarks.line_cutter import LineCutter
from edge_agent.board import connect
from edge_agent.config import MqttConfig
from edge_agent.console.heard import event_id
from edge_agent.mqtt import connect as connect_broker
from edge_agent.serial_port import parse_address

NODE, SOURCE = "bench", "board0"
LONGEST_CUT_S = 10.0
SETTLE_S = 15.0  # after the last cut: for the line to come back and what waited to be delivered


class Collector(threading.Thread):
    """Counts the detections that a broker passes on, by id."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.ids: Counter[str] = Counter()
        self._ended = threading.Event()
        self._connection, _ = connect_broker(MqttConfig(host="127.0.0.1", port=port), "collector", on_message=self._take)
        self._connection.subscribe([(f"pdmu/{NODE}/{SOURCE}/detection", 1), (f"pdmu/{NODE}/replay", 1)])

    def _take(self, _topic: str, payload: bytes) -> None:
        self.ids[json.loads(payload)["id"]] += 1

    def run(self) -> None:
        """Listen until `close`."""
        while not self._ended.is_set():
            self._connection.turn(0.2)

    def __enter__(self) -> Collector:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self.join()
        self._connection.close()


def start_bridge(line: LineCutter, broker_port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start `pdmu-console bridge` at one end of the line, its outbox in `folder`."""
    config = folder / "agent.toml"
    config.write_text(
        f'[agent]\nnode = "{NODE}"\nstate_dir = "{folder}"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker_port}\n'
        f'[[source]]\nname = "{SOURCE}"\ntype = "serial"\nport = "socket://127.0.0.1:{line.port}"\n'
    )
    command = [sys.executable, "-m", "edge_agent.console.cli", "bridge", "--config", str(config)]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def cut_again_and_again(line: LineCutter, cuts: int, seconds: float, longest_s: float) -> None:
    """Spread cuts over a time, each at a random moment of its share."""
    share_s, began_s = seconds / cuts, time.monotonic()
    for i in range(cuts):
        at_s = began_s + (i + random.uniform(0, 0.5)) * share_s
        while time.monotonic() < at_s or not line.connected:
            time.sleep(0.02)
        line.cut(random.uniform(0, min(longest_s, share_s / 3)))
    time.sleep(max(0.0, began_s + seconds - time.monotonic()))


def verdict(line: LineCutter, ids: Counter[str]) -> dict[str, Any]:
    """Ask the board what it has made, and compare with what came to the broker."""
    board, hello = connect(parse_address(f"socket://127.0.0.1:{line.port}"), None)
    kept = board.resend()
    board.port.close()
    expected = {str(event_id(hello.boot, seq, NODE, SOURCE)) for seq in range(1, kept.first)}
    waiting = {str(event_id(hello.boot, seq, NODE, SOURCE)) for seq in range(kept.first, kept.last + 1)}
    return {
        "detections": len(expected), "exactly_once": sum(ids[i] == 1 for i in expected), "missing": sum(i not in ids for i in expected),
        "repeated": sum(n > 1 for n in ids.values()), "unknown": len(set(ids) - expected - waiting), "dropped_by_the_board": kept.lost,
        "waiting_on_the_board": len(waiting),
    }  # fmt: skip


def main() -> int:
    arguments = parser(__doc__.partition("\n")[0])
    arguments.add_argument("--minutes", type=float, default=10.0, help="how long the bridge runs (default: %(default)s)")
    arguments.add_argument("--cuts", type=int, default=20, help="how often the line is cut (default: %(default)s)")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build_board(export_board(options.bundle.resolve(), folder))
        pcm, rate_hz = soundfile.read(STREAM, dtype="int16")
        (folder / "clip").write_bytes(pcm.astype("<i2").tobytes())
        clip = ("--source", "clip", "--clip", folder / "clip", "--pace")
        with (mosquitto() as port, Collector(port) as collector, running_board(program, "--tcp", "0", *clip) as address,
              LineCutter(int(address.rpartition(":")[2])) as line):  # fmt: skip
            bridge = start_bridge(line, port, folder)
            began = time.monotonic()
            cut_again_and_again(line, options.cuts, 60 * options.minutes - SETTLE_S, LONGEST_CUT_S)
            time.sleep(SETTLE_S)
            ran_s = time.monotonic() - began
            bridge.send_signal(signal.SIGTERM)
            status, cuts = bridge.wait(), line.cuts
            found = verdict(line, collector.ids)
        if status != 0:
            raise SystemExit(f"error: pdmu-console bridge ended with status {status}: {(folder / 'log').read_text()[-2000:]}")
    result = {"bundle": options.bundle.name, "minutes": round(ran_s / 60, 1), "cuts": cuts, **found}
    report("bridge", result, options.out)
    return 0 if found["detections"] and found["exactly_once"] == found["detections"] and not found["repeated"] + found["unknown"] else 1


if __name__ == "__main__":
    sys.exit(main())
