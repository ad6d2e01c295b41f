"""`pdmu-console bridge`: boards' detections into the outbox and to the broker, for as long as it runs."""

from __future__ import annotations

import json
import random
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_agent.agent import OnDetection, serve
from edge_agent.board import Board, connect, refusal
from edge_agent.board_messages import BoardEvent, BoardHealth, Hello, Kept, PcmSource
from edge_agent.config import AgentConfig, SourceConfig
from edge_agent.console.heard import board_model, find_bundle
from edge_agent.console.intake import Answer, Intake
from edge_agent.console.records import record
from edge_agent.events import ModelFacts, node_info
from edge_agent.link import ERROR, REPLY, Frame, Notice, Received, Request
from edge_agent.mqtt import MqttDelivery, Report
from edge_agent.outbox import Outbox
from edge_agent.serial_port import LineLost, parse_address
from pdmu.errors import UserError

POLL_S = 0.2
HELLO_S = 4.0  # between HELLOs: they keep the board sending, bring its count of samples, and tell when it was restarted
SILENT_S = 12.0  # without a frame the line is taken for dead
RESEND_S = 1.0  # between two requests for what was missed
RETRY_MAX_S = 10.0
BORROWED_S = 12.0  # a board that hears nobody for 10 s takes itself back


class Borrowed(UserError):
    """The board hears what a program has sent it."""


class BoardThread(threading.Thread):
    """One board, from its line to stored messages; a line that breaks is opened again.

    Attributes
    ----------
    cuts : int
        How often the line was lost.
    model : ModelFacts or None
        The board's, once it has said so; then `on_model` was called.
    """

    def __init__(self, source: SourceConfig, bundles: Sequence[Path], intake: Intake, stop: threading.Event,
                 on_model: Callable[[], None], report: Report) -> None:  # fmt: skip
        super().__init__(name=source.name, daemon=True)
        self.intake, self.health = intake, intake.health
        self.error: Exception | None = None
        self.cuts = 0
        self.model: ModelFacts | None = None
        self._source, self._bundles, self._stop_event, self._on_model, self._report = source, bundles, stop, on_model, report
        self._line_trouble: str | None = None
        self._inbox: deque[Received] = deque()  # what came while an answer was waited for
        self._run_of_board: tuple[int, int] = (0, 0)  # its boot and its source of samples
        self._resend_s = 0.0  # when what was missed was last asked for

    @property
    def trouble(self) -> str | None:
        """What keeps the board from being heard, or was lost of late."""
        return self._line_trouble or self.intake.trouble

    def run(self) -> None:
        """Work until stopped; what went wrong beyond lines and boards is left in `error`."""
        failures = 0
        try:
            while not self._stop_event.is_set():
                try:
                    self._connect_and_listen()
                except Borrowed as error:
                    self._line_trouble = str(error)
                    self._stop_event.wait(BORROWED_S)
                except UserError as error:
                    failures = 0 if self._line_trouble is None else failures + 1  # a line that worked is soon tried again
                    self._line_trouble = str(error)
                self._stop_event.wait(random.uniform(0.1, min(RETRY_MAX_S, 0.25 * 2.0 ** min(failures, 10))))
        except Exception as error:  # a thread's exception would otherwise vanish: the bridge ends on it
            traceback.print_exc()
            self.error = error

    def _connect_and_listen(self) -> None:
        self._inbox.clear()
        self._run_of_board = (0, 0)
        board, hello = connect(parse_address(self._source.port), self._source.baud, self._inbox.append)
        try:
            self._forget_events()
            self._meet(board, hello)
            self._line_trouble = None
            self._listen(board)
        except LineLost:
            self.cuts += 1
            raise
        finally:
            board.port.close()

    def _listen(self, board: Board) -> None:
        """Take what comes, in order, until the line breaks or the bridge is stopped."""
        heard_s = asked_s = time.monotonic()
        while not self._stop_event.is_set():
            items = [*self._inbox]
            self._inbox.clear()
            items += board.received(0 if items else POLL_S)
            frames = [item for item in items if isinstance(item, Frame)]
            now_s = time.monotonic()
            if frames:  # text and garbage are no sign of the firmware's life
                heard_s = now_s
            for frame in frames:
                if frame.type & REPLY:
                    self._reply(board, frame)
                else:
                    self._notice(board, frame)
            if now_s - heard_s > SILENT_S:
                raise LineLost(f"{board.port.where}: the board has sent no frame for {SILENT_S:.0f} s; has it stopped?")
            if now_s - asked_s > HELLO_S:
                board.greet()
                asked_s = now_s

    def _forget_events(self) -> None:
        """Leave out events that came before the HELLO, whose run they need not be of; they come again."""
        self._inbox = deque(x for x in self._inbox if not (isinstance(x, Frame) and x.type == Notice.EVENT))

    def _meet(self, board: Board, hello: Hello) -> None:
        """Learn who is there, at the beginning and when it is no longer the same."""
        if hello.source == PcmSource.SERIAL:  # its events are of no sound that was there
            raise Borrowed(
                f"{board.port.where}: the board hears what is sent to it: another program borrowed it and was killed, and it goes back to "
                "its own source after 10 s of silence, or at the latest by pdmu-console hello --reboot; or its firmware has no other source"
            )
        if (hello.boot, hello.source) != self._run_of_board:
            model = board_model(hello, board.labels(hello), find_bundle(hello.sha256, self._bundles))
            self.intake.meet(hello, model)
            self._run_of_board = (hello.boot, hello.source)
            if model != self.model:
                self.model = model
                self._on_model()
        if hello.next_seq - 1 > self.intake.last:
            self._ask_again(board)

    def _reply(self, board: Board, reply: Frame) -> None:
        if reply.type == Request.HELLO | REPLY:
            self._meet(board, Hello.unpack(reply.payload))
        elif reply.type == Request.RESEND | REPLY:
            self.intake.told_kept(Kept.unpack(reply.payload))
        elif reply.type == ERROR and reply.payload[:1] in (bytes([Request.ACK]), bytes([Request.RESEND])):
            board.greet()  # it knows nothing of what it is asked for: it may have begun anew
        elif reply.type == ERROR:
            self._report(f"source {self.name}: {refusal(reply)}")

    def _notice(self, board: Board, frame: Frame) -> None:
        if frame.type == Notice.HEALTH:
            undated = not self.intake.dated
            self.intake.told_health(BoardHealth.unpack(frame.payload))
            if undated:
                self._ask_again(board)
        elif frame.type == Notice.EVENT:
            answer = self.intake.told_event(BoardEvent.unpack(frame.payload))
            if answer is Answer.ACKNOWLEDGE:
                board.send(Request.ACK, struct.pack("<I", self.intake.last))
            elif answer is Answer.RESEND:
                self._ask_again(board)

    def _ask_again(self, board: Board) -> None:
        """Have the board send what it keeps; not for each of many events that tell of the same gap."""
        if self.intake.dated and time.monotonic() - self._resend_s > RESEND_S:
            self._resend_s = time.monotonic()
            board.send(Request.RESEND)


def serial_sources(config: AgentConfig, name: str | None, port: str | None, baud: int | None) -> list[SourceConfig]:
    """Return the boards to bridge: the configuration's, or the one that the command line names.

    Raises
    ------
    UserError
        There is none, or its port is given twice.
    """
    found = [s for s in config.source if s.type == "serial" and name in (None, s.name)]
    if port is not None or baud is not None:
        if len(found) > 1:
            raise UserError(f"--port and --baud are for one board: name it with --source ({', '.join(s.name for s in found)})")
        base = found[0] if found else SourceConfig(name=name or "board0", type="serial")
        try:
            return [SourceConfig(name=base.name, type="serial", port=port or base.port, baud=baud or base.baud)]
        except ValueError as error:
            raise UserError(str(error)) from None
    if not found:
        which = f"no source '{name}' of type serial is configured" if name else "no source of type serial is configured"
        raise UserError(f'{which}: add [[source]] with type = "serial" and port = "auto", or give --port')
    return found


def bridge(config: AgentConfig, sources: Sequence[SourceConfig], stop: threading.Event, report: Report,
           on_detection: OnDetection) -> tuple[int, dict[str, Any]]:  # fmt: skip
    """Run until stopped; then deliver what waits, as far as the broker lets us.

    Returns
    -------
    status : int
        0, or 1 when something was lost here or went wrong beyond lines and boards.
    summary : dict
        What has come and gone.

    Raises
    ------
    UserError
        The bridge cannot start as configured.
    """
    threads: list[BoardThread] = []
    deliveries: list[MqttDelivery] = []

    def make_threads(outbox: Outbox, delivery: MqttDelivery) -> list[BoardThread]:
        def announce() -> None:
            models = [t.model for t in threads if t.model is not None]
            delivery.info = json.dumps(node_info(config.agent.node, models, config.hash))

        deliveries.append(delivery)
        for source in sources:
            intake = Intake(config, source.name, outbox, delivery, on_detection)
            threads.append(BoardThread(source, [Path(m.bundle) for m in config.model], intake, stop, announce, report))
        return threads

    status = serve(config, make_threads, stop, report)
    counts = [t.intake.counts for t in threads]
    return status, record(
        "summary", node=config.agent.node, sources=[s.name for s in sources], detections=sum(c.detections for c in counts),
        repeated=sum(c.repeated for c in counts), lost=sum(c.lost for c in counts), cuts=sum(t.cuts for t in threads),
        messages_delivered=sum(d.delivered for d in deliveries),
    )  # fmt: skip


def summary_text(r: dict[str, Any]) -> str:
    """Return the line of `bridge`'s summary."""
    lost = f", {r['lost']} LOST on the board for want of memory" if r["lost"] else ""
    return (
        f"bridge: {r['detections']} detections stored, {r['repeated']} heard again and known{lost}; the line was lost {r['cuts']} times; "
        f"{r['messages_delivered']} messages acknowledged by the broker"
    )
