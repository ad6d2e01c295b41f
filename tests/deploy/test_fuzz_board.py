"""Anything on a board's line: libFuzzer with the sanitizers, from requests that mean something and from inputs it found before."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy.c_export import export_c
from edge_agent.board_messages import PCM_SAMPLES, REBOOT_MAGIC
from edge_agent.link import Request
from tests.deploy.boards import PCM, eventful_bundle

FOUND = Path(__file__).with_name("fuzz_board.hex")  # inputs of an earlier run, each for code that no shorter one reached
FUZZ_S = 5
LOUD = PCM[9000:11400]


def feed(data: bytes) -> bytes:
    """Bytes as they are."""
    return bytes([0, len(data)]) + data


def ask(request: int, payload: bytes = b"") -> bytes:
    """A request in a whole frame."""
    return bytes([1, len(payload) + 2, request - 1, 1]) + payload


def work(turns: int = 31) -> bytes:
    """Turns of the main loop."""
    return bytes([2, turns])


def wait(tenths: int) -> bytes:
    """Time that passes."""
    return bytes([3, tenths])


def u32(value: int) -> bytes:
    """Four bytes, the lowest first."""
    return struct.pack("<I", value)


def pcm(first: int, samples: np.ndarray) -> bytes:
    """Samples over the line, in one go."""
    frames = [(at, samples[at : at + PCM_SAMPLES]) for at in range(0, len(samples), PCM_SAMPLES)]
    return b"".join(ask(Request.PCM, u32(first + at) + part.astype("<i2").tobytes()) for at, part in frames)


def streamed(samples: np.ndarray) -> bytes:
    """Samples over the line, with time to work on them."""
    return b"".join(pcm(at, samples[at : at + PCM_SAMPLES]) + work() for at in range(0, len(samples), PCM_SAMPLES))


HELLO = ask(Request.HELLO, struct.pack("<Q", 5))
CLIP = ask(Request.RESET, b"\1")
SEEDS = {
    "labels": HELLO + work() + b"".join(ask(Request.LABEL, bytes([i])) for i in range(3)),
    "stream": HELLO + streamed(LOUD) + ask(Request.FINISH, u32(len(LOUD))) + ask(Request.STATE, u32(0)) + ask(Request.STATE, u32(232)),
    "sums": HELLO + ask(Request.TRACE, b"\1" + bytes(6)) + streamed(LOUD[:600]),
    "values": HELLO + ask(Request.TRACE, struct.pack("<BBBI", 2, 4, 0, 1)) + streamed(LOUD[:900]),
    "burst": HELLO + pcm(0, LOUD[: 5 * PCM_SAMPLES]) + work() + pcm(2 * PCM_SAMPLES, LOUD[2 * PCM_SAMPLES : 5 * PCM_SAMPLES]),
    "gap": HELLO + pcm(0, LOUD[:100]) + pcm(200, LOUD[200:300]) + pcm(100, LOUD[100:218]) + ask(Request.FINISH, u32(9)),
    "clip": HELLO + CLIP + (work() * 6 + wait(21)) * 3 + ask(Request.ACK, u32(3)) + ask(Request.RESEND) + work(),
    "events before HELLO": CLIP + work() * 14 + HELLO + work() * 4 + ask(Request.RESEND) + work(),
    "bench": HELLO + ask(Request.BENCH, b"\2\0") + ask(Request.REBOOT, u32(REBOOT_MAGIC)) + ask(0x3F),
    "text": feed(b"text\n\0\3\1\2\0") + HELLO,
    "a frame too long": feed(b"A" * 255) + feed(b"B" * 255) + HELLO,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported folder with the fuzzer built, or skip."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed: the board's line is NOT FUZZED HERE; install clang")
    folder = tmp_path_factory.mktemp("fuzz")
    export_c(eventful_bundle(13, PCM), folder)
    done = subprocess.run(["make", "-s", "fuzz-board"], cwd=folder, capture_output=True, text=True, check=False)
    if "libclang_rt.fuzzer" in done.stderr or "cannot find -l" in done.stderr:
        pytest.skip("clang has no libFuzzer: the board's line is NOT FUZZED HERE; install libclang-rt-dev")
    assert done.returncode == 0, done.stderr[-3000:]
    inputs = SEEDS | {f"found{i}": bytes.fromhex(line) for i, line in enumerate(FOUND.read_text().split())}
    (folder / "seeds").mkdir()
    for name, data in inputs.items():
        (folder / "seeds" / name).write_bytes(data)
    return folder


def fuzz(folder: Path, *options: str) -> None:
    """Run the fuzzer; what it finds fails the test."""
    done = subprocess.run(["./fuzz-board", *options], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_known_inputs(exported: Path) -> None:
    fuzz(exported, "-runs=0", "seeds")


def test_new_inputs(exported: Path) -> None:
    (exported / "corpus").mkdir()
    fuzz(exported, f"-max_total_time={FUZZ_S}", "corpus", "seeds")
