"""The frames of a board's serial line, the host's side of ``deploy/c/PROTOCOL.md``. What is in them is read by `edge_agent.board_messages`.

A frame on the wire is ``00 COBS(body) 00`` with ``body = type · tag · payload · CRC-16/XMODEM``; text for people stands between frames.
"""

from __future__ import annotations

import binascii
import struct
from enum import IntEnum
from typing import NamedTuple

MAX_PAYLOAD = 240
MAX_BODY = MAX_PAYLOAD + 4
MAX_CODE = MAX_BODY + 1
REPLY, ERROR = 0x80, 0xFF
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
