"""`pdmu-console monitor`: whatever a board says, as it comes; unplugged boards come back."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from edge_agent.board import Board, NoAnswer, connect
from edge_agent.board_messages import BoardEvent, BoardHealth, Hello, ProtocolError
from edge_agent.console.heard import board_model, find_bundle
from edge_agent.console.records import health_record, health_text, heard_record, heard_text, hello_record, record
from edge_agent.events import ModelFacts
from edge_agent.link import REPLY, Frame, Garbage, Notice, Received, Request, Text
from edge_agent.serial_port import BAUD_RATES, Address, SerialPort, resolve
from pdmu.errors import UserError

LEAVE = b"\x1d"  # Ctrl+]
POLL_S = 0.1
HELLO_S = 8.0  # between HELLOs: a board that was restarted gets its name again, and one that is late its first
GARBAGE_S = 1.0  # between two lines about it
RETRY_S = 5.0  # longest wait before a line is tried again
SHOWN = 1024  # detections remembered: many times what a board keeps


class Monitor:
    """Prints what a board says.

    Parameters
    ----------
    out : TextIO
    as_json : bool
        One JSON object a line instead of text.
    """

    def __init__(self, out: TextIO, as_json: bool) -> None:
        self._out, self._json = out, as_json
        self._where, self._boot = "", 0
        self._model: ModelFacts | None = None
        self._shown: deque[tuple[int, int]] = deque(maxlen=SHOWN)  # the last (boot, seq): they come again until somebody takes them
        self._early: list[Frame] = []  # notices that came before the board had told its labels
        self._garbage, self._garbage_s = 0, 0.0  # bytes not yet told of, and when some last were
        self._line_open = False  # the last text did not end its line

    def run(self, address: Address, baud: int | None, stop: threading.Event, deadline_s: float | None = None) -> None:
        """Listen until stopped, until Ctrl+] or until the monotonic time `deadline_s`; a line that breaks is opened again."""
        wait_s, said = 0.2, ""
        with _keys() as leaves:

            def done() -> bool:
                return stop.is_set() or leaves() or (deadline_s is not None and time.monotonic() >= deadline_s)

            while not done():
                try:
                    self._listen(*self._open(address, baud), done)
                    return
                except UserError as error:
                    wait_s = 0.2 if self._where else min(RETRY_S, 2 * wait_s)
                    if str(error) != said:
                        said = str(error)
                        self._say(said)
                    self._where = ""
                again_s = time.monotonic() + random.uniform(0.1, wait_s)
                while time.monotonic() < again_s and not done():
                    time.sleep(POLL_S / 2)

    def _open(self, address: Address, baud: int | None) -> tuple[Board, Hello | None]:
        """Open the line; a board that knows no HELLO may still print text."""
        self._model = None
        try:
            return connect(address, baud, self._show)
        except NoAnswer as error:
            self._say(f"{error} Text is shown all the same.")
            return Board(SerialPort(resolve(address), baud or BAUD_RATES[0]), self._show), None

    def _meet(self, board: Board, hello: Hello) -> None:
        labels = board.labels(hello)
        r = hello_record(board.port.where, hello, labels)
        model = r["model"]
        self._write(r, f"# {r['board']} on {r['port']}: {model['name']} {model['version']}, firmware {r['firmware']}; Ctrl+] leaves")
        self._model, self._boot = board_model(hello, labels, find_bundle(hello.sha256)), hello.boot
        early, self._early = self._early, []
        for frame in early:
            self._notice(frame, self._model)

    def _listen(self, board: Board, hello: Hello | None, done: Callable[[], bool]) -> None:
        self._where, asked_s = board.port.where, time.monotonic()
        try:
            if hello is not None:
                self._meet(board, hello)
            while not done():
                for reply in board.receive(POLL_S):
                    if reply.type == Request.HELLO | REPLY:
                        hello = Hello.unpack(reply.payload)
                        if self._model is None or hello.boot != self._boot:
                            self._meet(board, hello)
                if time.monotonic() - asked_s > HELLO_S:
                    board.greet()
                    asked_s = time.monotonic()
        finally:
            board.port.close()

    def _show(self, item: Received) -> None:
        if isinstance(item, Garbage):
            self._garbage += item.size
        if self._garbage and (not isinstance(item, Garbage) or time.monotonic() - self._garbage_s > GARBAGE_S):
            size, self._garbage, self._garbage_s = self._garbage, 0, time.monotonic()
            self._write(record("garbage", port=self._where, bytes=size), f"# {size} bytes of garbage")
        if isinstance(item, Garbage):
            return
        if isinstance(item, Text):
            self._text(item.text)
        elif self._model is not None:
            self._notice(item, self._model)
        else:
            self._early.append(item)

    def _notice(self, frame: Frame, model: ModelFacts) -> None:
        try:
            if frame.type == Notice.HEALTH:
                r = health_record(self._where, BoardHealth.unpack(frame.payload))
                self._write(r, f"# {health_text(r)}")
            elif frame.type == Notice.EVENT:
                event = BoardEvent.unpack(frame.payload)
                if event.seq:
                    if (self._boot, event.seq) in self._shown:
                        return
                    self._shown.append((self._boot, event.seq))
                r = heard_record(self._where, self._boot, event, model)
                self._write(r, f"# {heard_text(r)}")
        except ProtocolError as error:
            self._say(str(error))

    def _text(self, text: str) -> None:
        if self._json:
            self._write(record("text", port=self._where, text=text), "")
            return
        self._out.write(text.replace("\r\n", "\n"))
        self._out.flush()
        self._line_open = not text.endswith("\n")

    def _say(self, text: str) -> None:
        self._write(record("line", message=text), f"# {text}")

    def _write(self, r: dict[str, Any], text: str) -> None:
        self._out.write(json.dumps(r) + "\n" if self._json else ("\n" if self._line_open else "") + text + "\n")
        self._out.flush()
        self._line_open = False


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl+] was pressed; without a terminal nobody can, and input is left alone."""
    if not sys.stdin or not sys.stdin.isatty():
        yield lambda: False
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def leaves() -> bool:
        return bool(select.select([fd], [], [], 0)[0]) and LEAVE in os.read(fd, 64)

    tty.setcbreak(fd)
    try:
        yield leaves
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
