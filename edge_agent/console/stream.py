"""`pdmu-console stream`: recordings to a board, its detections printed as `pdmu-agent analyze` prints the agent's."""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edge_agent.audio import FileSource, check_file
from edge_agent.board_messages import BoardEvent, PcmSource
from edge_agent.channel import Found
from edge_agent.console.heard import found_event
from edge_agent.console.progress import Progress
from edge_agent.console.session import Session, fed
from edge_agent.link import Frame, Notice, Received, Request
from edge_agent.pcm_stream import PcmStream
from edge_agent.ports import Pcm
from edge_agent.printer import Printer
from edge_agent.serial_port import LineLost
from pdmu.errors import UserError

BLOCK_S = 0.25
RESEND_S = 2.0  # for what was lost on the line to come again
RESENDS = 5


class Hearing:
    """Takes a board's detections, each once and in order.

    Parameters
    ----------
    met : Session
    next_seq : int
        The number of the first one to come.
    on_found : callable
        Takes each.
    """

    def __init__(self, met: Session, next_seq: int, on_found: Callable[[Found], None]) -> None:
        self._met, self.next_seq, self._on_found = met, next_seq, on_found
        met.board.on_notice = self._take

    def _take(self, item: Received) -> None:
        if not isinstance(item, Frame) or item.type != Notice.EVENT:
            return
        event = BoardEvent.unpack(item.payload)
        if event.seq != self.next_seq:  # a rejection, one that was heard before, or one after another that was lost: that comes again
            return
        found = found_event(event, self._met.model)
        if not isinstance(found, Found):
            return
        self.next_seq += 1
        self._on_found(found)
        self._met.board.send(Request.ACK, struct.pack("<I", event.seq))  # nobody waits for its answer: samples are on their way

    def catch_up(self, last: int) -> None:
        """Have everything up to number `last` that was lost on the line sent again.

        Raises
        ------
        UserError
            The board no longer has it, or it is lost again and again.
        """
        for _ in range(RESENDS):
            if self.next_seq > last:
                return
            kept = self._met.board.resend()
            if kept.first > self.next_seq:
                raise UserError(f"detections {self.next_seq} to {kept.first - 1} are lost: the board had no memory left for them")
            until_s = time.monotonic() + RESEND_S
            while self.next_seq <= last and time.monotonic() < until_s:
                self._met.board.receive(RESEND_S)
        if self.next_seq <= last:
            raise UserError(f"detections {self.next_seq} to {last} did not arrive: the line loses frames; try a lower --baud")


def stream_file(met: Session, path: Path, printer: Printer, rate_hz: int | None, progress: Progress) -> str | None:
    """Have the board hear one recording from a fresh state, and print what it detects as it comes.

    Returns
    -------
    str or None
        What was doubtful about the recording.

    Raises
    ------
    UserError
        The recording could not be read to its end (what came before was heard), or the line broke.
    """
    board, model = met.board, met.model
    source = FileSource(path, model.sample_rate_hz, BLOCK_S, rate_hz=rate_hz)

    def show(found: Found) -> None:
        progress.clear()
        printer.event(str(path), model, found)
        printer.flush()

    hearing = Hearing(met, board.hello().next_seq, show)
    board.reset(PcmSource.SERIAL)
    stream, complaints = PcmStream(board), list[UserError]()
    for pcm in _blocks(source, complaints):
        stream.push(pcm)
        progress.show(stream.samples, source.duration_s * model.sample_rate_hz)
    stream.drain()
    hearing.catch_up(board.finish(stream.samples))
    if complaints:
        raise complaints[0]
    return source.trouble


def _blocks(source: FileSource, complaints: list[UserError]) -> Iterator[Pcm]:
    """Yield what can be read of a recording; what is wrong with its end is added to `complaints`."""
    try:
        for block in source.blocks():
            yield block.pcm
    except UserError as error:
        complaints.append(error)
    finally:
        source.close()


def readable(paths: Sequence[Path], rate_hz: int | None) -> list[Path]:
    """Return the recordings that can be opened; each other one costs one line on stderr."""
    found = []
    for path in paths:
        try:
            check_file(path, rate_hz)
            found.append(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
    return found


def stream_files(met: Session, paths: Sequence[Path], form: str, rate_hz: int | None, discard: bool) -> int:
    """Have the board hear recordings one after another; a bad one costs one line on stderr and the exit status, not the others.

    Parameters
    ----------
    form : str
        See `Printer`.

    Returns
    -------
    int
        0, or 1 when a recording could not be read to its end.

    Raises
    ------
    UserError
        The board keeps detections for somebody, or the line broke.
    """
    failed = 0
    with fed(met, discard):
        printer = Printer(form, sys.stdout)
        for path in paths:
            with Progress(path.name) as progress:
                try:
                    trouble = stream_file(met, path, printer, rate_hz, progress)
                except LineLost:
                    raise
                except UserError as error:
                    failed, trouble = 1, None
                    progress.clear()
                    print(f"error: {error}", file=sys.stderr)
            if trouble:
                print(f"warning: {trouble}", file=sys.stderr)
    return failed
