"""One-shot talks with a board: it is met, asked, and left as it was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple, TypeVar

from edge_agent.board import Board, connect
from edge_agent.board_messages import Feature, Hello, Kept, Label, PcmSource
from edge_agent.console.heard import board_model, find_bundle
from edge_agent.console.records import source_name
from edge_agent.events import ModelFacts
from edge_agent.serial_port import Address, LineLost
from pdmu.bundle import Bundle
from pdmu.errors import UserError

REBOOT_S = 10.0  # for USB to find the board again, too
ATTEND_S = 3.0  # between two signs of life; without one for 10 s a board takes the host for gone

Result = TypeVar("Result")


class Session(NamedTuple):
    """A board that has said who it is."""

    board: Board
    hello: Hello
    labels: list[Label]
    bundle: Bundle | None  # the board's, where it is known here
    model: ModelFacts


@contextlib.contextmanager
def session(address: Address, baud: int | None, bundle_path: Path | None = None) -> Iterator[Session]:
    """Meet the board; the line is closed at the end. `bundle_path` may name the bundle that the board runs.

    Raises
    ------
    UserError
        No board, another protocol, or the line broke.
    """
    board, hello = connect(address, baud)
    try:
        labels = board.labels(hello)
        bundle = find_bundle(hello.sha256, [bundle_path] if bundle_path else [])
        yield Session(board, hello, labels, bundle, board_model(hello, labels, bundle))
    finally:
        board.port.close()


def reboot(address: Address, baud: int | None, discard: bool) -> None:
    """Restart the board and wait until it is back.

    Parameters
    ----------
    discard : bool
        Give up detections that the board still keeps for somebody.

    Raises
    ------
    UserError
        It was not there, keeps detections, or does not come back.
    """
    with session(address, baud) as met:
        before = met.hello.boot
        _refuse_kept(met.board.resend(), discard)
        met.board.reboot()
    until_s, trouble = time.monotonic() + REBOOT_S, "it answers as if nothing had happened"
    while time.monotonic() < until_s:
        time.sleep(REBOOT_S / 20)
        try:
            with session(address, baud) as met:
                if met.hello.boot != before:
                    return
        except UserError as error:  # its line may be gone for a while
            trouble = str(error)
    raise UserError(f"the board was told to restart and is not back after {REBOOT_S:.0f} s: {trouble}")


def _refuse_kept(kept: Kept, discard: bool) -> None:
    if kept.first <= kept.last and not discard:
        raise UserError(
            f"the board keeps {kept.last - kept.first + 1} detections that nobody has taken yet: "
            "let 'pdmu-console bridge' take them, or add --discard to lose them"
        )


@contextlib.contextmanager
def fed(met: Session, discard: bool) -> Iterator[None]:
    """Borrow the board to hear what this program sends; at the end it forgets that, and hears what it heard before from a fresh state.

    Parameters
    ----------
    discard : bool
        Give up detections that the board still keeps for somebody.

    Raises
    ------
    UserError
        It keeps some, and they are not to be discarded.
    """
    board, hello = met.board, met.hello
    if hello.source not in list(PcmSource):  # it could not be given back
        raise UserError(f"the board hears from {source_name(hello.source)}, which this program does not know: update pdmu")
    last_before = None
    try:
        board.reset(PcmSource.SERIAL)  # before looking at what is kept: from here on nothing is added to it
        kept = board.resend()
        _refuse_kept(kept, discard)
        board.acknowledge(kept.last)
        last_before = kept.last
        yield
    finally:
        board.on_notice = None
        with contextlib.suppress(LineLost):  # the board is gone: there is nothing to give back, and what happened is already being said
            if last_before is not None:
                _forget(met, last_before)
            if Feature.TRACE in hello.features:
                board.trace(0)
            board.reset(PcmSource(hello.source))


def _forget(met: Session, last_before: int) -> None:
    """Have a borrowed board forget what it detected; where it has gone back to its own source by itself, some of that would be real."""
    now = met.board.hello()
    if (now.boot, now.source) != (met.hello.boot, PcmSource.SERIAL):
        return
    met.board.reset(PcmSource.SERIAL)  # what it has not worked through yet adds nothing more
    last = met.board.hello().next_seq - 1
    if last > last_before:
        met.board.acknowledge(last)


def attended(board: Board, work: Callable[[], Result]) -> Result:
    """Return what `work` returns, which may take long: a borrowed board that hears nobody meanwhile would go back to its own source."""
    pool = ThreadPoolExecutor(1)
    try:
        done = pool.submit(work)
        while wait([done], ATTEND_S).not_done:
            board.hello()
        return done.result()
    finally:
        pool.shutdown(wait=False)
