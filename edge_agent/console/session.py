"""One-shot talks with a board: it is met, asked, and left as it was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_agent.board import Board, connect
from edge_agent.board_messages import Hello, Label, PcmSource
from edge_agent.console.heard import board_model, find_bundle
from edge_agent.events import ModelFacts
from edge_agent.serial_port import Address, LineLost
from pdmu.bundle import Bundle
from pdmu.errors import UserError

REBOOT_S = 10.0  # for USB to find the board again, too


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


def reboot(address: Address, baud: int | None) -> None:
    """Restart the board and wait until it is back.

    Raises
    ------
    UserError
        It was not there, or does not come back.
    """
    with session(address, baud) as met:
        before = met.hello.boot
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


@contextlib.contextmanager
def lent(met: Session) -> Iterator[None]:
    """Have the board wait for what this program sends; at the end it goes on hearing what it heard before, from a fresh state."""
    met.board.reset(PcmSource.SERIAL)
    try:
        yield
    finally:
        with contextlib.suppress(LineLost):  # the board is gone: there is nothing to give back, and what happened is already being said
            met.board.reset(PcmSource(met.hello.source))


@contextlib.contextmanager
def fed(met: Session, discard: bool) -> Iterator[None]:
    """Borrow the board to hear what this program sends, and have it forget what it detected in it.

    Parameters
    ----------
    discard : bool
        Give up detections that the board still keeps for somebody.

    Raises
    ------
    UserError
        It keeps some, and they are not to be discarded.
    """
    kept = met.board.resend()
    if kept.first <= kept.last and not discard:
        raise UserError(
            f"the board keeps {kept.last - kept.first + 1} detections that nobody has taken yet: "
            "let 'pdmu-console bridge' take them, or add --discard to lose them"
        )
    with lent(met):
        try:
            yield
        finally:
            met.board.on_notice = None
            with contextlib.suppress(LineLost):  # as above
                met.board.acknowledge(met.board.hello().next_seq - 1)
