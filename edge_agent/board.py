"""A board at the other end of a line: its requests, asked again until they are answered."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable
from typing import Protocol

from edge_agent.board_messages import REBOOT_MAGIC, BenchTicks, Hello, Kept, Label, PcmSource, malformed
from edge_agent.link import ERROR, REPLY, Deframer, Frame, Garbage, Received, Request, encode_frame
from edge_agent.serial_port import BAUD_RATES, Address, LineLost, SerialPort, resolve
from pdmu.errors import UserError

ANSWER_S = 1.0  # a request unanswered for so long is sent again
TRIES = 5
FIRST_TRIES = 2  # of a HELLO at a baud rate that may be wrong
FIRST_ANSWER_S = 0.5
MAX_STATE = 1 << 20  # bytes; no board's model comes near

OnNotice = Callable[[Received], None]


class Port(Protocol):
    """What carries the bytes: see `SerialPort`."""

    where: str

    def read(self, timeout_s: float) -> bytes:
        """Return what has come, or nothing after `timeout_s`."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Refusal(UserError):
    """The board cannot do what it was asked; `code` is the protocol's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class NoAnswer(LineLost):
    """The board does not answer."""


class Board:
    """Requests to a board. What it says unasked goes to `on_notice`, in order, while any of the methods waits.

    Parameters
    ----------
    port : Port
    on_notice : callable, optional
        Takes notices, text and garbage.

    Attributes
    ----------
    nonce : int
        Of the last HELLO: names the board's run where it has no name yet.
    garbage : int
        Bytes so far that were neither frame nor text.
    """

    def __init__(self, port: Port, on_notice: OnNotice | None = None) -> None:
        self.port, self.on_notice = port, on_notice
        self.nonce = self.garbage = 0
        self._deframer, self._tag = Deframer(), secrets.randbelow(255)  # answers to whoever was here before may still come

    def send(self, request: Request, payload: bytes = b"") -> int:
        """Send a request and return its tag without waiting."""
        self._tag = self._tag % 255 + 1
        self.port.write(encode_frame(request, self._tag, payload))
        return self._tag

    def greet(self) -> int:
        """Send a HELLO and return its tag without waiting."""
        # A board keeps the first nonce of its run. Were one sent twice, a board that restarts on an open line would get its old name back,
        # and its new events, which it counts from 1, be taken for the old ones.
        self.nonce = secrets.randbelow((1 << 64) - 1) + 1
        return self.send(Request.HELLO, struct.pack("<Q", self.nonce))

    def received(self, timeout_s: float) -> list[Received]:
        """Wait for something to come, at most so long; return all of it, in order."""
        data = self.port.read(timeout_s)
        items = self._deframer.feed(data) if data else self._deframer.pause()
        self.garbage += sum(item.size for item in items if isinstance(item, Garbage))
        return items

    def receive(self, timeout_s: float) -> list[Frame]:
        """Wait for something to come, at most so long; return the replies in it."""
        replies = []
        for item in self.received(timeout_s):
            if isinstance(item, Frame) and item.type & REPLY:
                replies.append(item)
            elif self.on_notice is not None:
                self.on_notice(item)
        return replies

    def request(self, request: Request, payload: bytes = b"", answer_s: float = ANSWER_S, tries: int = TRIES) -> bytes:
        """Ask until an answer comes, and return its payload.

        Raises
        ------
        NoAnswer
            After `tries` requests.
        Refusal
            The board cannot.
        LineLost
            The line broke.
        """
        return self._ask(lambda: self.send(request, payload), request, answer_s, tries)

    def _ask(self, send: Callable[[], int], request: Request, answer_s: float, tries: int) -> bytes:
        for _ in range(tries):
            tag, deadline = send(), time.monotonic() + answer_s
            while (left_s := deadline - time.monotonic()) > 0:
                for reply in self.receive(left_s):
                    if reply.tag == tag and (answer := answer_of(reply, request)) is not None:
                        return answer
        garbage = f", but {self.garbage} bytes of garbage; is the baud rate right" if self.garbage else "; is PDMU firmware on the board"
        raise NoAnswer(f"{self.port.where}: no answer to {request.name}{garbage}?")

    def hello(self, answer_s: float = ANSWER_S, tries: int = TRIES) -> Hello:
        """Ask who is there; `ProtocolError` where it speaks another version."""
        return Hello.unpack(self._ask(self.greet, Request.HELLO, answer_s, tries))

    def labels(self, hello: Hello) -> list[Label]:
        """Ask for every label with its threshold."""
        out = []
        for i in range(hello.n_labels):
            label = Label.unpack(self.request(Request.LABEL, bytes([i])))
            if label.number != i:
                raise malformed("answer to LABEL")
            out.append(label)
        return out

    def reset(self, source: PcmSource) -> None:
        """Begin a new stream from `source`."""
        self.request(Request.RESET, bytes([source]))

    def finish(self, samples: int) -> int:
        """End the stream after `samples` samples; return the number of the last event sent so far."""
        got = self.request(Request.FINISH, struct.pack("<I", samples))
        if len(got) != 8:
            raise malformed("answer to FINISH")
        return int(struct.unpack("<II", got)[1])

    def acknowledge(self, seq: int) -> None:
        """Let the board forget its events up to `seq`."""
        self.request(Request.ACK, struct.pack("<I", seq))

    def resend(self) -> Kept:
        """Have the events kept sent again."""
        return Kept.unpack(self.request(Request.RESEND))

    def trace(self, mode: int, stage: int = 0, index: int = 0, call: int = 0) -> None:
        """Turn the trace off (0), to sums (1), or to the values of one call of one stage (2)."""
        self.request(Request.TRACE, struct.pack("<BBBI", mode, stage, index, call))

    def state(self) -> bytes:
        """Read the model's state struct."""
        out, total = b"", 1
        while len(out) < total:
            got = self.request(Request.STATE, struct.pack("<I", len(out)))
            total = int.from_bytes(got[:4], "little")
            if len(got) <= 4 or total > MAX_STATE:
                raise malformed("answer to STATE")
            out += got[4:]
        return out

    def bench(self, hops: int, answer_s: float) -> BenchTicks:
        """Have `hops` hops timed."""
        return BenchTicks.unpack(self.request(Request.BENCH, struct.pack("<H", hops), answer_s, tries=1))

    def reboot(self) -> None:
        """Restart the board; there is no answer."""
        self.send(Request.REBOOT, struct.pack("<I", REBOOT_MAGIC))


def refusal(reply: Frame) -> Refusal:
    """Return the error of an error reply."""
    asked, code = (*reply.payload[:2], 0, 0)[:2]
    name = Request(asked).name if asked in list(Request) else f"request {asked:02x}"
    text = reply.payload[2:].rstrip(b"\0").decode(errors="replace")
    return Refusal(f"the board refuses {name}: {text or f'code {code}'}", code)


def answer_of(reply: Frame, request: Request) -> bytes | None:
    """Return the payload of a reply to this kind of request, None of one to another; raises `Refusal` for an error reply."""
    if reply.type == ERROR and reply.payload[:1] == bytes([request]):
        raise refusal(reply)
    return reply.payload if reply.type == request | REPLY else None


def connect(address: Address, baud: int | None, on_notice: OnNotice | None = None) -> tuple[Board, Hello]:
    """Open a board's line and exchange HELLO, at `baud` or at the first of `BAUD_RATES` at which the board answers.

    Raises
    ------
    UserError
        No line, no answer, another protocol.
    """
    where = resolve(address)
    rates = (baud,) if baud else BAUD_RATES[:1] if address.kind == "socket" else BAUD_RATES
    garbage = 0
    for rate in rates:
        board = Board(SerialPort(where, rate), on_notice)
        try:
            return board, board.hello(FIRST_ANSWER_S, FIRST_TRIES if len(rates) > 1 else TRIES)
        except NoAnswer:
            board.port.close()
            garbage += board.garbage
        except BaseException:
            board.port.close()
            raise
    tried = "" if address.kind == "socket" else f" at {', '.join(map(str, rates))} baud"
    if garbage:
        raise NoAnswer(f"{where}: no HELLO{tried}, but {garbage} bytes of garbage: another baud rate (--baud) or another firmware?")
    raise NoAnswer(f"{where}: nothing answers HELLO{tried}; is PDMU firmware on the board, and is this its line?")
