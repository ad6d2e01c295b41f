"""Frames and CRCs in C, against the host's side; and what compilers say of the board's side."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.c_export import export_c
from edge_agent.link import MAX_BODY, MAX_PAYLOAD, Deframer, Frame, encode_frame
from tests.deploy.c_harness import STRICT
from tests.deploy.random_bundle import random_bundle


@pytest.fixture(scope="module")
def link(cc: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return frames and CRCs alone, as a shared library."""
    folder = tmp_path_factory.mktemp("link")
    export_c(random_bundle(1), folder)
    sources = ["link/pdmu_crc.c", "link/pdmu_frame.c"]
    done = subprocess.run([cc, *STRICT, "-O2", "-fPIC", "-shared", *sources, "-o", "link.so"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "link.so"))
    library.pdmu_crc32.restype = ctypes.c_uint32
    library.pdmu_crc16.restype = ctypes.c_uint16
    library.pdmu_frame_end.restype = library.pdmu_deframer_byte.restype = ctypes.c_size_t
    return library


class CFrame(ctypes.Structure):
    """``pdmu_frame``."""

    _fields_ = (("bytes", ctypes.c_uint8 * (MAX_BODY + 3)), ("size", ctypes.c_size_t))


class CDeframer(ctypes.Structure):
    """``pdmu_deframer``."""

    _fields_ = (("bytes", ctypes.c_uint8 * (MAX_BODY + 1)), ("size", ctypes.c_size_t))


def c_frame(link: ctypes.CDLL, frame: Frame) -> bytes:
    """A frame as C writes it."""
    out = CFrame()
    link.pdmu_frame_begin(ctypes.byref(out), frame.type, frame.tag)
    link.pdmu_frame_bytes(ctypes.byref(out), frame.payload, ctypes.c_size_t(len(frame.payload)))
    return bytes(out.bytes[: link.pdmu_frame_end(ctypes.byref(out))])


def c_received(link: ctypes.CDLL, wire: bytes) -> list[Frame]:
    """The frames that C finds in bytes."""
    deframer, frames = CDeframer(), []
    for byte in wire:
        size = link.pdmu_deframer_byte(ctypes.byref(deframer), ctypes.c_uint8(byte))
        if size:
            frames.append(Frame(deframer.bytes[0], deframer.bytes[1], bytes(deframer.bytes[2:size])))
    return frames


PAYLOADS = st.binary(max_size=MAX_PAYLOAD) | st.binary(max_size=30).map(lambda b: b * 8)
FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 255), PAYLOADS)


def test_check_values_of_the_crcs(link: ctypes.CDLL) -> None:
    # the check values of the catalogue of CRCs
    assert link.pdmu_crc16(0, b"123456789", ctypes.c_size_t(9)) == 0x31C3
    assert link.pdmu_crc32(0, b"123456789", ctypes.c_size_t(9)) == 0xCBF43926
    assert link.pdmu_crc32(link.pdmu_crc32(0, b"1234", ctypes.c_size_t(4)), b"56789", ctypes.c_size_t(5)) == 0xCBF43926


@given(FRAMES)
def test_frames_of_c_and_python_are_the_same(link: ctypes.CDLL, frame: Frame) -> None:
    assert c_frame(link, frame) == encode_frame(*frame)
    assert c_received(link, encode_frame(*frame)) == [frame]


def test_the_longest_and_the_hardest_payloads(link: ctypes.CDLL) -> None:
    for payload in (b"", b"\0" * MAX_PAYLOAD, b"\xff" * MAX_PAYLOAD, b"\0", b"\1\0" * 120):
        frame = Frame(1, 0, payload)
        assert c_received(link, c_frame(link, frame)) == [frame]
    too_long = CFrame()
    link.pdmu_frame_begin(ctypes.byref(too_long), 1, 2)
    link.pdmu_frame_bytes(ctypes.byref(too_long), b"x" * 1000, ctypes.c_size_t(1000))
    wire = bytes(too_long.bytes[: link.pdmu_frame_end(ctypes.byref(too_long))])
    assert wire == encode_frame(1, 2, b"x" * MAX_PAYLOAD)


@given(st.lists(st.binary(max_size=400) | FRAMES, max_size=8))
def test_both_sides_find_the_same_frames_in_any_bytes(link: ctypes.CDLL, items: list[bytes | Frame]) -> None:
    wire = b"".join(x if isinstance(x, bytes) else encode_frame(*x) for x in items) + b"\0"
    assert c_received(link, wire) == [x for x in Deframer().feed(wire) if isinstance(x, Frame)]


@pytest.mark.parametrize("cc_name", ["gcc", "clang", "arm-none-eabi-gcc", "riscv64-unknown-elf-gcc"])
def test_clean_for_every_compiler(cc_name: str, tmp_path: Path) -> None:
    if shutil.which(cc_name) is None:
        pytest.skip(f"{cc_name} is not installed")
    export_c(random_bundle(1), tmp_path)
    target = {
        "gcc": ["-fno-pie"],  # constant tables of pointers stay constant
        "arm-none-eabi-gcc": ["-mcpu=cortex-m0", "-mthumb"],
        "riscv64-unknown-elf-gcc": ["-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs"],
    }
    for source in sorted((tmp_path / "link").glob("*.c")):
        command = [cc_name, *STRICT, "-O2", *target.get(cc_name, []), "-I.", "-Iinclude", "-Ilink", "-c", str(source), "-o", "x.o"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if cc_name == "gcc":
            symbols = subprocess.run(["nm", "x.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
            kinds = {line.split()[-1]: line.split()[-2] for line in symbols.splitlines()}
            assert not [name for name, kind in kinds.items() if kind in "bBdDC"]  # no variables
            asked = {name for name, kind in kinds.items() if kind == "U" and not name.startswith(("pdmu_", "board_"))}
            assert asked <= {"memcpy", "memmove", "memset", "__stack_chk_fail"}
