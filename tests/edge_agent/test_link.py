"""Frames: what is sent comes back, in whatever pieces; what is damaged costs itself alone."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.board_messages import BoardEvent, Hello, ProtocolError
from edge_agent.link import MAX_BODY, MAX_PAYLOAD, Deframer, Frame, Garbage, Received, Text, cobs_decode, cobs_encode, encode_frame

PAYLOAD = st.binary(max_size=MAX_PAYLOAD) | st.binary(max_size=30).map(lambda b: b * 8)
FRAMES = st.builds(Frame, st.integers(1, 255), st.integers(0, 255), PAYLOAD)
LINES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=60).map(lambda s: s + "\n")


def received(pieces: list[bytes]) -> list[Received]:
    deframer = Deframer()
    return [item for piece in pieces for item in deframer.feed(piece)]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of these sizes in turn."""
    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


def joined(items: list[Received]) -> tuple[list[Frame], str]:
    """Frames in order, and all text as one."""
    return [x for x in items if isinstance(x, Frame)], "".join(x.text for x in items if isinstance(x, Text))


@given(st.binary(max_size=MAX_BODY))
def test_cobs_round_trip_without_a_zero(data: bytes) -> None:
    code = cobs_encode(data)
    assert 0 not in code
    assert len(code) == len(data) + 1
    assert cobs_decode(code) == data


@given(st.binary(min_size=1, max_size=MAX_BODY).filter(lambda b: 0 not in b))
def test_what_decodes_encodes_to_itself(code: bytes) -> None:
    data = cobs_decode(code)
    assert data is None or cobs_encode(data) == code


def test_a_known_frame() -> None:
    # CRC-16/XMODEM of "123456789" is 0x31C3, the check value of the catalogue of CRCs.
    wire = encode_frame(ord("1"), ord("2"), b"3456789")
    assert wire == b"\x00\x0c123456789\xc3\x31\x00"
    assert received([wire]) == [Frame(ord("1"), ord("2"), b"3456789")]


@given(st.lists(FRAMES | LINES, max_size=8), st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_frames_and_text_on_one_wire_in_any_pieces(items: list[Frame | str], sizes: list[int]) -> None:
    wire = b"".join(x.encode() if isinstance(x, str) else encode_frame(*x) for x in items) + b"\0"
    text = "".join(x for x in items if isinstance(x, str))
    frames, got = joined(received(cut(wire, sizes)))
    assert frames == [x for x in items if isinstance(x, Frame)]
    if len(text.encode()) < MAX_PAYLOAD:  # longer text may be handed over in the middle of a character
        assert got == text


@given(st.lists(FRAMES, min_size=3, max_size=3), st.data())
def test_damage_costs_one_frame(frames: list[Frame], data: st.DataObject) -> None:
    wires = [encode_frame(*f) for f in frames]
    body = bytearray(wires[1])
    at = data.draw(st.integers(1, len(body) - 2))
    body[at] ^= data.draw(st.integers(1, 255))
    got, _ = joined(received([wires[0], bytes(body), wires[2]]))
    assert got[0] == frames[0]
    assert got[-1] == frames[2]
    assert frames[1] not in got[1:-1] or frames[1] in (frames[0], frames[2])


@given(FRAMES, FRAMES, st.data())
def test_a_half_frame_costs_itself(first: Frame, second: Frame, data: st.DataObject) -> None:
    wire = encode_frame(*first)
    got, _ = joined(received([wire[: data.draw(st.integers(0, len(wire) - 2))], encode_frame(*second)]))
    assert got[-1:] == [second]


@given(st.binary(max_size=600), FRAMES)
def test_noise_before_a_frame_does_not_hide_it(noise: bytes, frame: Frame) -> None:
    assert received([noise, encode_frame(*frame)])[-1] == frame


def test_garbage_is_counted_and_memory_bounded() -> None:
    deframer = Deframer()
    got = [item for _ in range(100) for item in deframer.feed(b"\x01\x02\x03" * 50)] + deframer.feed(b"\0")
    assert sum(x.size for x in got if isinstance(x, Garbage)) == 15000
    assert all(isinstance(x, Garbage) for x in got)


def test_text_on_a_silent_line_is_not_kept_waiting_nor_said_twice() -> None:
    deframer = Deframer()
    assert deframer.feed(b"\0starting\nready\nhal") == []
    assert deframer.pause() == []  # a line is being printed
    assert deframer.feed(b"f\n") == []
    assert deframer.pause() == [Text("starting\nready\nhalf\n")]
    assert deframer.pause() == []
    assert deframer.feed(b"more\n\0") == [Text("more\n")]


def test_a_frame_that_looked_like_text_when_the_line_paused_still_comes() -> None:
    frame = Frame(0x40, 0x41, b"x" * 30 + b"\n" + b"y" * 10)
    wire = encode_frame(*frame)
    at = wire.index(b"\n") + 1
    deframer = Deframer()
    deframer.feed(wire[:at])
    assert deframer.pause() == [Text(wire[1:at].decode())]
    assert [x for x in deframer.feed(wire[at:]) if isinstance(x, Frame)] == [frame]


HELLO = struct.pack("<BBHIQIHBBHI", 1, 9, 512, 16000, 7, 3, 1024, 2, 1, 4, 5000)


def test_hello() -> None:
    hello = Hello.unpack(HELLO + b"qemu-m4\x001.0\x00cough\x001.2\x00" + b"a" * 64 + b"\x000123456789abcdef\x00")
    assert (hello.boot, hello.board, hello.model, hello.version, hello.sha256) == (7, "qemu-m4", "cough", "1.2", "a" * 64)
    assert [f.name for f in hello.features] == ["TRACE", "BENCH"]


@pytest.mark.parametrize(
    ("payload", "message"),
    [(b"\x02anything", "version 2 of the serial protocol, this program version 1: update pdmu-console"), (HELLO[:20], "HELLO is malformed"),
     (HELLO + b"a\0b\0", "HELLO is malformed"), (b"", "nothing readable")],
)  # fmt: skip
def test_another_protocol_is_said(payload: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        Hello.unpack(payload)


@given(st.binary(max_size=80))
def test_events_are_refused_or_whole(payload: bytes) -> None:
    try:
        event = BoardEvent.unpack(payload)
    except ProtocolError:
        return
    assert event.onset_step < event.end_step
