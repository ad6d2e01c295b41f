"""What a board's frames say: the payloads of ``deploy/c/PROTOCOL.md``, field for field."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from pdmu.errors import UserError

PROTOCOL = 1
PCM_SAMPLES = 118  # the most a PCM frame holds
REBOOT_MAGIC = 0x74626F6F


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


class Label(NamedTuple):
    """LABEL's reply."""

    number: int
    threshold_sum: int  # threshold times smooth_steps, Q15
    name: str

    @classmethod
    def unpack(cls, payload: bytes) -> Label:
        """Read the reply; `ProtocolError` for what is none."""
        if payload[5:].count(0) != 1 or payload[-1]:
            raise malformed("answer to LABEL")
        number, threshold_sum = _unpack("<Bi", payload[:5], "answer to LABEL")
        return cls(number, threshold_sum, payload[5:-1].decode(errors="replace"))


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
    """RESEND's reply: the events kept (none where `first` is beyond `last`), which come again after it, and how many had to be dropped."""

    first: int
    last: int
    lost: int

    @classmethod
    def unpack(cls, payload: bytes) -> Kept:
        """Read the reply; `ProtocolError` for what is none."""
        return cls(*_unpack("<III", payload, "answer to RESEND"))
