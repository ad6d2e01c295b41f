"""Compile exported bundles with the tests' harness and read what it prints."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deploy.c_export import SOURCES, export_c
from pdmu.bundle import Bundle
from pdmu.state_layout import stage_name

HARNESS = Path(__file__).with_name("harness.c")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Werror")
BUILDS = {
    "O0": ("-O0",),
    "O2": ("-O2",),
    "sanitized": ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
OWN_STAGES = {100: "returned", 101: "state"}  # the harness's: what pdmu_process returned, and the state at the end


@dataclass(frozen=True)
class Program:
    """A compiled harness for one bundle."""

    path: Path

    def run(self, mode: str, data: bytes) -> bytes:
        """Return its standard output; a sanitizer's finding or a broken promise fails the test."""
        done = subprocess.run([self.path, mode], input=data, capture_output=True, check=False)
        assert done.returncode == 0, f"harness exit {done.returncode}\n{done.stderr.decode()[-3000:]}"
        return done.stdout

    def trace(self, chunks: list[np.ndarray]) -> dict[str, bytes]:
        """Return stage → all its values' bytes, in order of time."""
        data = b"".join(np.int32(len(c)).tobytes() + c.astype(np.int16).tobytes() for c in chunks)
        stages: defaultdict[str, list[bytes]] = defaultdict(list)
        for name, values in _records(self.run("trace", data)):
            stages[name].append(values)
        return {name: b"".join(values) for name, values in stages.items()}


def _records(raw: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(raw):
        stage, index, size = np.frombuffer(raw[at : at + 12], np.int32)
        yield OWN_STAGES.get(int(stage)) or stage_name(int(stage), int(index)), raw[at + 12 : at + 12 + size]
        at += 12 + int(size)


def compile_harness(bundle: Bundle, folder: Path, cc: str, build: str) -> Program:
    """Export `bundle` into `folder` and compile it with the harness, every warning an error."""
    export_c(bundle, folder)
    program = folder / f"harness-{build}"
    command = [cc, *STRICT, *BUILDS[build], "-I.", "-Iinclude", "-Isrc", "model_data.c", *SOURCES, str(HARNESS), "-o", str(program)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if build == "sanitized" and "cannot find -l" in done.stderr:
        pytest.skip(f"{cc} has no sanitizer libraries: undefined behaviour in the C runtime is NOT TESTED HERE")
    assert done.returncode == 0, done.stderr[-3000:]
    return Program(program)


def cut(pcm: np.ndarray, rng: np.random.Generator, largest: int) -> list[np.ndarray]:
    """Cut a signal into random chunks of 0 to `largest` samples."""
    chunks, at = [], 0
    while at < len(pcm):
        n = int(rng.integers(0, largest + 1)) if rng.random() < 0.8 else int(rng.integers(0, 3))
        chunks.append(pcm[at : at + n])
        at += n
    return chunks
