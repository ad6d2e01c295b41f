"""A stream of samples to a board, with flow control."""

from __future__ import annotations

import struct
import time

import numpy as np
from numpy.typing import NDArray

from edge_agent.board import ANSWER_S, TRIES, Board, NoAnswer, answer_of
from edge_agent.board_messages import PCM_SAMPLES, PcmTaken, ProtocolError
from edge_agent.link import Frame, Request

WINDOW_FRAMES = 16  # PCM frames on the way, whatever room the board has
FULL_PAUSE_S = 0.005  # before a board without room is asked again


class PcmStream:
    """Samples on their way to a board: as many unanswered as it has room for, and whatever it missed again.

    Parameters
    ----------
    board : Board
        After RESET to `PcmSource.SERIAL`.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._taken, self._end = 0, 0  # the board expects sample `taken` next and has room up to `end`: none until it says so
        self._sent = 0
        self._pcm = np.zeros(0, np.int16)  # from sample `taken` on
        self._on_the_way: dict[int, int] = {}  # tag → the sample after the frame's last
        self._heard_s, self._silences = time.monotonic(), 0

    @property
    def samples(self) -> int:
        """Samples the board has taken."""
        return self._taken

    def push(self, pcm: NDArray[np.int16]) -> None:
        """Send PCM int16 [n]; returns when the last of it is on its way."""
        self._pcm = np.concatenate([self._pcm, pcm])
        while self._sent < self._taken + len(self._pcm):
            self._turn()

    def drain(self) -> None:
        """Return when the board has taken everything."""
        while len(self._pcm):
            self._turn()

    def _turn(self) -> None:
        self._send()
        replies = self._board.receive(ANSWER_S)
        for reply in replies:
            self._settle(reply)
        if replies:
            self._heard_s, self._silences = time.monotonic(), 0
        elif time.monotonic() - self._heard_s >= ANSWER_S:
            self._heard_s, self._silences = time.monotonic(), self._silences + 1
            if self._silences >= TRIES:
                raise NoAnswer(f"{self._board.port.where}: the board has stopped answering at sample {self._taken}")
            self._go_back()

    def _send(self) -> None:
        available = self._taken + len(self._pcm)
        while len(self._on_the_way) < WINDOW_FRAMES:
            n = min(PCM_SAMPLES, available - self._sent, self._end - self._sent)
            # A short frame is only worth its overhead where nothing else keeps the board busy or it is the last.
            if n <= 0 or (n < PCM_SAMPLES and self._on_the_way and self._sent + n < available):
                break
            self._put(self._sent, n)
            self._sent += n
        if not self._on_the_way and len(self._pcm):
            time.sleep(FULL_PAUSE_S)
            self._put(self._sent, 0)

    def _put(self, offset: int, n: int) -> None:
        begin = offset - self._taken
        payload = struct.pack("<I", offset) + self._pcm[begin : begin + n].astype("<i2").tobytes()
        self._on_the_way[self._board.send(Request.PCM, payload)] = offset + n

    def _settle(self, reply: Frame) -> None:
        payload = answer_of(reply, Request.PCM)
        expected = self._on_the_way.pop(reply.tag, None) if payload is not None else None
        if payload is None or expected is None:
            return  # to something else, or to a frame from before going back
        answer = PcmTaken.unpack(payload)
        if not self._taken <= answer.next <= self._taken + len(self._pcm):
            raise ProtocolError(f"the board expects sample {answer.next}, this program {self._taken}: was it reset meanwhile?")
        self._pcm = self._pcm[answer.next - self._taken :]
        self._taken, self._end = answer.next, answer.next + answer.free
        self._sent = max(self._sent, self._taken)
        if answer.next < expected:
            self._go_back()

    def _go_back(self) -> None:
        """Send again from the sample that the board expects; answers to what is on the way no longer count."""
        self._sent = self._taken
        self._on_the_way.clear()
