"""The serial protocol of a board, the host's side of ``deploy/c/PROTOCOL.md``: bytes to frames to messages and back. It owns no port.

A frame on the wire is ``00 COBS(body) 00`` with ``body = type · tag · payload · CRC-16/XMODEM``; text for people stands between frames.
"""

from __future__ import annotations

import binascii
import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from pdmu.errors import UserError

PROTOCOL = 1
MAX_PAYLOAD = 240
MAX_BODY = MAX_PAYLOAD + 4
MAX_CODE = MAX_BODY + 1
PCM_SAMPLES = 118  # the most a PCM frame holds
REPLY, ERROR = 0x80, 0xFF
REBOOT_MAGIC = 0x74626F6F
PRINTABLE = frozenset([9, 10, 13, *range(32, 127), *range(128, 256)])


class Request(IntEnum):
    """What the host asks; a reply's type is this with the top bit set."""

    HELLO = 0x01
    LABEL = 0x02
    RESET = 0x03
    PCM = 0x04
    FINISH = 0x05
    ACK = 0x06
    RESEND = 0x07
    TRACE = 0x08
    STATE = 0x09
    BENCH = 0x0A
    REBOOT = 0x0B


class Notice(IntEnum):
    """What a board says unasked."""

    EVENT = 0x40
    STAGE = 0x41
    VALUES = 0x42
    HEALTH = 0x43


class Feature(IntFlag):
    """What a board can do, as its HELLO says."""

    TRACE = 1
    MICROPHONE = 2
    CLIP = 4
    BENCH = 8


class PcmSource(IntEnum):
    """Where a board's samples come from."""

    SERIAL = 0
    CLIP = 1
    MICROPHONE = 2


class Outcome(IntEnum):
    """What became of a sound: ``pdmu_outcome``."""

    DETECTED = 0
    CUT = 1
    TOO_SHORT = 2
    REFRACTORY = 3


class ProtocolError(UserError):
    """The board keeps another protocol."""


def malformed(what: str) -> ProtocolError:
    """Return the error of a message that is not what the protocol says."""
    return ProtocolError(f"the board's {what} is malformed: its firmware keeps another protocol")


class Frame(NamedTuple):
    """A frame that arrived whole."""

    type: int
    tag: int
    payload: bytes


class Text(NamedTuple):
    """A piece of what the board prints for people."""

    text: str


class Garbage(NamedTuple):
    """Bytes that are neither."""

    size: int


Received = Frame | Text | Garbage


def cobs_encode(data: bytes) -> bytes:
    """Consistent overhead byte stuffing (Cheshire and Baker 1999) of at most 253 bytes: the same bytes without a zero.

    >>> cobs_encode(b"a\\x00bc").hex(" ")
    '02 61 03 62 63'
    """
    return b"".join(bytes([len(part) + 1]) + part for part in data.split(b"\0"))


def cobs_decode(code: bytes) -> bytes | None:
    """Undo `cobs_encode`; None for what is no code."""
    parts, at = [], 0
    while at < len(code):
        end = at + code[at]
        if end > len(code) or end == at:
            return None
        parts.append(code[at + 1 : end])
        at = end
    return b"\0".join(parts) if parts else None


def encode_frame(kind: int, tag: int, payload: bytes = b"") -> bytes:
    """Return a frame as it goes over the wire."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame holds {MAX_PAYLOAD} bytes, not {len(payload)}")
    body = bytes([kind, tag]) + payload
    return b"\0" + cobs_encode(body + struct.pack("<H", binascii.crc_hqx(body, 0))) + b"\0"


def decode_frame(code: bytes) -> Frame | None:
    """Return the frame of what stood between two zeros; None where it is none."""
    body = cobs_decode(code) if len(code) <= MAX_CODE else None
    if body is None or not 4 <= len(body) <= MAX_BODY:
        return None
    if binascii.crc_hqx(body[:-2], 0) != int.from_bytes(body[-2:], "little"):
        return None
    return Frame(body[0], body[1], body[2:-2])


class Deframer:
    """Tells frames, text and garbage apart in bytes that come in any pieces. What is damaged costs itself alone."""

    def __init__(self) -> None:
        self._chunk = bytearray()  # since the last zero
        self._given = 0  # bytes of it already given as text
        self._too_long = False  # more than a frame has come since the last zero

    def feed(self, data: bytes) -> list[Received]:
        """Take the next bytes; return what they completed."""
        out: list[Received] = []
        *ended, rest = data.split(b"\0")
        for piece in ended:
            self._chunk += piece
            frame = None if self._too_long else decode_frame(bytes(self._chunk))
            out += [frame] if frame else self._rest()
            self._chunk.clear()
            self._given, self._too_long = 0, False
        self._chunk += rest
        if len(self._chunk) > MAX_CODE:
            out += self._rest()
            self._chunk.clear()
            self._given, self._too_long = 0, True
        return out

    def pause(self) -> list[Received]:
        """Return whole lines of text that wait for a zero on a silent line; should they be a frame after all, it still comes."""
        if self._chunk.endswith(b"\n") and len(self._chunk) > self._given and PRINTABLE.issuperset(self._chunk):
            out = self._rest()
            self._given = len(self._chunk)
            return out
        return []

    def _rest(self) -> list[Received]:
        rest = bytes(self._chunk[self._given :])
        if not rest:
            return []
        return [Text(rest.decode(errors="replace")) if PRINTABLE.issuperset(rest) else Garbage(len(rest))]


def _unpack(form: str, payload: bytes, what: str) -> tuple[int, ...]:
    if len(payload) != struct.calcsize(form):
        raise malformed(what)
    return struct.unpack(form, payload)


class Hello(NamedTuple):
    """Who is there: HELLO's reply, field for field."""

    protocol: int
    flags: int
    samples_per_step: int
    sample_rate_hz: int
    boot: int  # names one run of the firmware
    next_seq: int
    pcm_free: int  # samples
    n_labels: int
    source: int
    smooth_steps: int
    state_bytes: int
    board: str
    firmware: str
    model: str
    version: str
    sha256: str
    contract: str  # its first 16 hex digits

    @classmethod
    def unpack(cls, payload: bytes) -> Hello:
        """Read the reply.

        Raises
        ------
        ProtocolError
            The board speaks another version, or says something else.
        """
        if payload[:1] != bytes([PROTOCOL]):
            theirs = f"version {payload[0]}" if payload else "nothing readable"
            older = "pdmu-console" if payload and payload[0] > PROTOCOL else "the board's firmware"
            raise ProtocolError(f"the board speaks {theirs} of the serial protocol, this program version {PROTOCOL}: update {older}")
        form = "<BBHIQIHBBHI"
        size = struct.calcsize(form)
        strings = payload[size:].split(b"\0")
        if len(strings) != 7 or strings[-1]:
            raise malformed("HELLO")
        numbers = _unpack(form, payload[:size], "HELLO")
        return cls(*numbers, *(s.decode(errors="replace") for s in strings[:-1]))  # type: ignore[arg-type]

    @property
    def features(self) -> Feature:
        """The flags by name."""
        return Feature(self.flags & 15)


class BoardEvent(NamedTuple):
    """An EVENT: a detection with its number, or a rejection, whose number is 0."""

    seq: int
    label: int
    outcome: int
    smooth_steps: int
    peak_sum: int
    threshold_sum: int
    onset_step: int
    end_step: int
    energy: int  # sum of the squares of its samples
    clipped: int  # samples at full scale
    lost: int  # detections the board had to drop since its start

    @classmethod
    def unpack(cls, payload: bytes) -> BoardEvent:
        """Read the message; `ProtocolError` for what is none."""
        event = cls(*_unpack("<IBBHiiqqQII", payload, "EVENT"))
        if event.outcome not in list(Outcome) or event.smooth_steps == 0 or not 0 <= event.onset_step < event.end_step:
            raise malformed("EVENT")
        return event


class StageSum(NamedTuple):
    """A STAGE: the CRC-32 of what a stage computed in its `call`-th call since RESET."""

    stage: int
    layer: int  # the protocol's index
    call: int
    size: int  # bytes
    crc32: int

    @classmethod
    def unpack(cls, payload: bytes) -> StageSum:
        """Read the message; `ProtocolError` for what is none."""
        return cls(*_unpack("<BBIHI", payload, "STAGE"))


class StageValues(NamedTuple):
    """A VALUES: bytes `offset` and on of the `total` bytes a stage computed in its `call`-th call."""

    stage: int
    layer: int  # the protocol's index
    call: int
    offset: int
    total: int
    data: bytes

    @classmethod
    def unpack(cls, payload: bytes) -> StageValues:
        """Read the message; `ProtocolError` for what is none."""
        stage, layer, call, offset, total = _unpack("<BBIHH", payload[:10], "VALUES")
        return cls(stage, layer, call, offset, total, payload[10:])


class BoardHealth(NamedTuple):
    """A HEALTH; `samples` and `uptime_ms` go round at 2^32."""

    uptime_ms: int
    samples: int  # since RESET
    rms: int  # since the last HEALTH, PCM units
    clipped: int
    dropped: int  # samples lost before the runtime, since the start
    lost: int  # events
    pending: int  # events not acknowledged
    stack_free: int  # bytes never used

    @classmethod
    def unpack(cls, payload: bytes) -> BoardHealth:
        """Read the message; `ProtocolError` for what is none."""
        return cls(*_unpack("<IIHHIIHI", payload, "HEALTH"))


class PcmTaken(NamedTuple):
    """PCM's reply: the sample the board expects next, and how many from there it has room for."""

    next: int
    free: int

    @classmethod
    def unpack(cls, payload: bytes) -> PcmTaken:
        """Read the reply; `ProtocolError` for what is none."""
        return cls(*_unpack("<IH", payload, "answer to PCM"))


class BenchTicks(NamedTuple):
    """BENCH's reply: ticks for `hops` hops."""

    hops: int
    frontend: int
    network: int
    detector: int
    all: int
    tick_hz: int
    instructions_per_tick: int  # 0 where a tick is time and no count of instructions

    @classmethod
    def unpack(cls, payload: bytes) -> BenchTicks:
        """Read the reply; `ProtocolError` for what is none."""
        return cls(*_unpack("<IIIIIIH", payload, "answer to BENCH"))


class Kept(NamedTuple):
    """RESEND's reply: the events kept, which come again after it, and how many had to be dropped."""

    first: int
    last: int
    lost: int

    @classmethod
    def unpack(cls, payload: bytes) -> Kept:
        """Read the reply; `ProtocolError` for what is none."""
        return cls(*_unpack("<III", payload, "answer to RESEND"))
