"""Boards on this machine: ``pdmu-board`` built for a bundle, and started."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from deploy.c_export import export_c
from deploy.conformance_c import law_events
from edge_agent.board import Board, connect
from edge_agent.board_messages import BoardEvent, Hello, PcmSource, PcmTaken
from edge_agent.link import Frame, Notice, Received, Request
from edge_agent.pcm_stream import PcmStream
from edge_agent.serial_port import parse_address
from pdmu.bundle import Bundle, law_stages
from pdmu.config import DetectorConfig
from pdmu.golden import golden_pcm
from pdmu.state_layout import law_trace, split_state
from tests.deploy.c_harness import BUILDS
from tests.deploy.random_bundle import random_bundle

BANNER = "pdmu-board"
LONG_NAME = "é" * 20  # of a model: longer than HELLO takes
PCM = np.tile(golden_pcm(), 3)


def eventful_bundle(seed: int, pcm: np.ndarray) -> Bundle:
    """Return a random bundle whose detector finds many events in `pcm`, of every outcome."""
    bundle = random_bundle(seed)
    scores = law_stages(bundle, pcm)["scores"]
    thresholds = tuple(int(max(1, v)) for v in np.quantile(scores, 0.6, axis=0))
    detector = DetectorConfig(thresholds, release_ratio=0.9, smooth_steps=2, min_steps=3, max_steps=12, refractory_steps=2)
    return replace(bundle, detector=detector)


def build_board(bundle: Bundle, folder: Path, build: str = "sanitized") -> Path:
    """Export a bundle and build its ``pdmu-board``."""
    export_c(bundle, folder)
    return make_board(folder, build)


def make_board(folder: Path, build: str) -> Path:
    """Build the ``pdmu-board`` of an exported folder."""
    flags = " ".join(BUILDS[build])
    done = subprocess.run(["make", "-s", "pdmu-board", f"CFLAGS={flags}"], cwd=folder, capture_output=True, text=True, check=False)
    if build == "sanitized" and "cannot find -l" in done.stderr:
        pytest.skip("no sanitizer libraries: undefined behaviour in the board's code is NOT TESTED HERE")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "pdmu-board"


class Built(NamedTuple):
    """A board, what it was built from, and what the law makes of `PCM`."""

    bundle: Bundle
    program: Path
    events: list[tuple[int, ...]]  # of law_events


def built(bundle: Bundle, folder: Path) -> Built:
    """Build a board."""
    return Built(bundle, build_board(bundle, folder), law_events(bundle, law_trace(bundle, PCM).stages["scores"]))


@dataclass
class Running:
    """A started board, and what it said unasked on the lines opened so far."""

    process: subprocess.Popen[str]
    where: str
    heard: list[Received] = field(default_factory=list)

    def connect(self) -> tuple[Board, Hello]:
        """Open its line and exchange HELLO."""
        return connect(parse_address(self.where), None, self.heard.append)

    def notices(self, kind: Notice) -> list[bytes]:
        """Payloads of the notices heard, in order."""
        return [x.payload for x in self.heard if isinstance(x, Frame) and x.type == kind]

    def events(self) -> list[BoardEvent]:
        """The events heard, in order."""
        return [BoardEvent.unpack(p) for p in self.notices(Notice.EVENT)]


@contextmanager
def running(program: Path, *options: str) -> Iterator[Running]:
    """Start a board on a pseudo-terminal, or with ``--tcp 0`` on a socket; a sanitizer's finding fails the test."""
    process = subprocess.Popen([program, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Running(process, process.stdout.readline().strip())
        assert process.poll() is None, "the board has ended"
    finally:
        process.terminate()
        _, complaints = process.communicate()
    assert complaints == ""


class Sent(NamedTuple):
    """What a board said while samples went to it."""

    state: dict[str, np.ndarray]
    events: list[BoardEvent]


def sent(process: Running, line: Board, bundle: Bundle, pcm: np.ndarray) -> Sent:
    """Send a stream, to its end."""
    line.reset(PcmSource.SERIAL)
    stream = PcmStream(line)
    stream.push(pcm)
    stream.drain()
    last = line.finish(len(pcm))
    events = process.events()
    assert last == max((e.seq for e in events), default=0)
    return Sent(split_state(bundle, line.state()), events)


def assert_state(bundle: Bundle, state: dict[str, np.ndarray], pcm: np.ndarray) -> None:
    """Hold a board's state to the law's after `pcm`."""
    for name, values in law_trace(bundle, pcm).state.items():
        assert np.array_equal(state[name][: len(values)], values), f"state {name} differs"


def put_pcm(line: Board, offset: int, pcm: np.ndarray) -> PcmTaken:
    """Send one PCM frame, and wait for what the board answers."""
    return PcmTaken.unpack(line.request(Request.PCM, struct.pack("<I", offset) + pcm.tobytes()))


def heard_within(process: Running, line: Board, seconds: float) -> list[BoardEvent]:
    """The events that come within a time, while the host speaks."""
    before, end = len(process.events()), time.monotonic() + seconds
    while time.monotonic() < end:
        line.hello()
        line.receive(0.2)
    return process.events()[before:]
