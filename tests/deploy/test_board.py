"""A board on this machine, asked and streamed to by the host's side: what it computes is the law's, whatever the line does."""

from __future__ import annotations

import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from deploy.c_export import export_c
from edge_agent.board import Board, Refusal
from edge_agent.board_messages import Feature, Outcome, PcmSource, PcmTaken, StageSum, StageValues
from edge_agent.link import Frame, Notice, Request, encode_frame
from edge_agent.pcm_stream import PcmStream
from pdmu.state_layout import STAGES, law_trace, split_state, stage_name
from tests.deploy.boards import (
    BANNER,
    LONG_NAME,
    PCM,
    Built,
    assert_state,
    built,
    eventful_bundle,
    heard_within,
    make_board,
    put_pcm,
    running,
    sent,
)

pytest.importorskip("serial", reason="pyserial is not installed: boards are NOT TESTED HERE; pip install pyserial")

TICKS = "(uint32_t)(monotonic_ns() / (1000000000u / TICK_HZ))"  # of pdmu-board


def test_hello_and_labels_tell_the_model(board: Built) -> None:
    with running(board.program) as process:
        line, hello = process.connect()
        labels = line.labels(hello)
    bundle = board.bundle
    assert hello.features == Feature.TRACE | Feature.CLIP | Feature.BENCH
    assert (hello.samples_per_step, hello.sample_rate_hz) == (bundle.samples_per_step, bundle.frontend.sample_rate_hz)
    assert (hello.boot, hello.next_seq, hello.source, hello.pcm_free) == (line.nonce, 1, PcmSource.SERIAL, 1024)
    assert (hello.board, hello.model, hello.version) == (BANNER, LONG_NAME[:15], bundle.info["version"])  # 31 bytes, whole characters
    assert (hello.sha256, hello.contract) == (bundle.sha256, bundle.contract[:16])
    assert tuple(x.name for x in labels) == bundle.labels
    assert [x.threshold_sum for x in labels] == [t * bundle.detector.smooth_steps for t in bundle.detector.threshold_q15]


@pytest.mark.parametrize(
    ("request_type", "payload", "code"),
    [
        (0x20, b"", 1), (Request.HELLO, b"1234", 2), (Request.LABEL, b"\xff", 2), (Request.LABEL, b"", 2), (Request.RESET, b"\3", 2),
        (Request.RESET, b"\2", 4), (Request.PCM, b"\0\0\0", 2), (Request.PCM, b"\0\0\0\0\0", 2), (Request.FINISH, b"\1\0\0\0", 3),
        (Request.ACK, b"\1\0\0\0", 2), (Request.RESEND, b"\0", 2), (Request.TRACE, b"\3" + b"\0" * 6, 2),
        (Request.STATE, b"\xff\xff\xff\xff", 2), (Request.BENCH, b"\0", 2), (Request.REBOOT, b"\0\0\0\0", 2),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused(board: Built, request_type: int, payload: bytes, code: int) -> None:
    with running(board.program) as process:
        line, _ = process.connect()
        with pytest.raises(Refusal) as refused:
            line.request(request_type, payload)  # type: ignore[arg-type]
        assert refused.value.code == code
        assert line.hello().next_seq == 1  # and it goes on


def test_garbage_and_half_frames_cost_themselves_alone(board: Built) -> None:
    rng = np.random.default_rng(1)
    with running(board.program) as process:
        line, _ = process.connect()
        whole = encode_frame(Request.PCM, 9, struct.pack("<I", 0) + b"\1\0" * 50)
        damaged = bytearray(whole)
        damaged[20] ^= 4
        for junk in (bytes(damaged), whole[: len(whole) // 2], b"A" * 3000, rng.bytes(5000)):
            line.port.write(junk)
            assert line.hello().pcm_free == 1024  # nothing was taken


@pytest.fixture(scope="module", params=[0, 2, 6, 12])
def other(request: pytest.FixtureRequest, cc: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return boards of every kind of network."""
    return built(eventful_bundle(request.param, PCM), tmp_path_factory.mktemp("other"))


def test_a_stream_gives_the_law_s_state_and_events(other: Built) -> None:
    pcm, bundle, expected = PCM, other.bundle, other.events
    with running(other.program) as process:
        state, events = sent(process, process.connect()[0], bundle, pcm)
    assert_state(bundle, state, pcm)
    # repetitions do not come before two seconds, but may then: an event is known by its number
    once = list({e.seq or (e.label, e.onset_step): e for e in events}.values())
    assert sorted((e.label, e.outcome, e.onset_step, e.end_step, e.peak_sum) for e in once) == sorted(expected)
    assert [e.seq for e in once if e.seq] == list(range(1, 1 + sum(e[1] in (Outcome.DETECTED, Outcome.CUT) for e in expected)))
    assert all((e.seq > 0) == (e.outcome in (Outcome.DETECTED, Outcome.CUT)) for e in once)
    size = bundle.samples_per_step
    for e in once:
        heard = pcm[e.onset_step * size : e.end_step * size].astype(np.int64)
        assert (e.energy, e.clipped) == (int((heard**2).sum()), int(((heard == 32767) | (heard == -32768)).sum()))
        assert e.threshold_sum == bundle.detector.threshold_q15[e.label] * bundle.detector.smooth_steps


def test_sums_and_values_of_every_stage_are_the_law_s(other: Built) -> None:
    pcm, bundle = PCM[:10000], other.bundle
    law = law_trace(bundle, pcm).stages
    with running(other.program) as process:
        line, _ = process.connect()
        line.trace(1)
        sent(process, line, bundle, pcm)
        sums = [StageSum.unpack(p) for p in process.notices(Notice.STAGE)]
        got = {(stage_name(s.stage, s.layer), s.call): (s.size, s.crc32) for s in sums}
        assert len(got) == len(sums)
        assert got == {(name, k): (v.nbytes, zlib.crc32(v.tobytes())) for name, values in law.items() for k, v in enumerate(values)}
        largest = max(law, key=lambda name: law[name][0].nbytes)
        stage = next(i for i in range(len(STAGES)) if largest in (stage_name(i, k) for k in range(4)))
        layer = next(k for k in range(4) if stage_name(stage, k) == largest)
        line.trace(2, stage, layer, 1)
        sent(process, line, bundle, pcm)
    parts = [StageValues.unpack(p) for p in process.notices(Notice.VALUES)]
    assert {(p.stage, p.layer, p.call, p.total) for p in parts} == {(stage, layer, 1, law[largest][1].nbytes)}
    assert [p.offset for p in parts] == [230 * i for i in range(len(parts))]
    assert b"".join(p.data for p in parts) == law[largest][1].tobytes()


def test_lost_and_repeated_frames_are_neither_skipped_nor_taken_twice(board: Built) -> None:
    with running(board.program) as process:
        line, _ = process.connect()
        line.reset(PcmSource.SERIAL)
        assert put_pcm(line, 0, PCM[:100]).next == 100
        assert put_pcm(line, 200, PCM[200:300]).next == 100  # 100 … 199 were lost
        assert put_pcm(line, 0, PCM[:100]).next == 100
        assert put_pcm(line, 50, PCM[50:150]).next == 100
        assert put_pcm(line, 100, PCM[:0]) == PcmTaken(100, 1024)  # all of it processed: samples wait for no hop
        assert put_pcm(line, 100, PCM[100:200]).next == 200
        with pytest.raises(Refusal, match="fewer samples have come"):
            line.finish(201)
        with pytest.raises(Refusal, match="more samples have come"):
            line.finish(199)
        assert line.finish(200) == line.finish(200)
        with pytest.raises(Refusal, match="the stream has ended"):
            put_pcm(line, 200, PCM[200:300])
        assert_state(board.bundle, split_state(board.bundle, line.state()), PCM[:200])


class LossyPort:
    """A line that loses one frame in seven to the board, and one in eleven from it, and repeats one in five."""

    def __init__(self, line: Board) -> None:
        self._port, self.where, self._n, self._m = line.port, line.port.where, 0, 0

    def read(self, timeout_s: float) -> bytes:
        """Read, sometimes with a hole."""
        data = self._port.read(timeout_s)
        self._m += bool(data)
        return data[:-2] + data[-1:] if self._m % 11 == 10 else data

    def write(self, data: bytes) -> None:
        """Write, once, twice or not at all."""
        self._n += 1
        for _ in range(0 if self._n % 7 == 0 else 2 if self._n % 5 == 0 else 1):
            self._port.write(data)

    def close(self) -> None:
        """Let go."""
        self._port.close()


def test_a_bad_line_costs_time_alone(board: Built) -> None:
    pcm = PCM[:9000]
    with running(board.program) as process:
        line, _ = process.connect()
        line.port = LossyPort(line)
        line.reset(PcmSource.SERIAL)
        stream = PcmStream(line)
        stream.push(pcm)
        stream.drain()
        last = line.finish(len(pcm))
        assert_state(board.bundle, split_state(board.bundle, line.state()), pcm)
        heard_within(process, line, 5.0)
        assert {e.seq for e in process.events()} - {0} == set(range(1, last + 1)), "what was lost came again"


def test_a_full_buffer_takes_nothing_of_what_does_not_fit(board: Built) -> None:
    with running(board.program) as process:
        line, _ = process.connect()
        line.reset(PcmSource.SERIAL)
        process.process.send_signal(signal.SIGSTOP)  # stopped: frames pile up
        tags = {line.send(Request.PCM, struct.pack("<I", 118 * i) + PCM[118 * i : 118 * (i + 1)].tobytes()): i for i in range(14)}
        process.process.send_signal(signal.SIGCONT)
        answers: list[PcmTaken] = []
        while len(answers) < len(tags):
            answers += [PcmTaken.unpack(r.payload) for r in line.receive(1.0) if r.tag in tags]
        assert all(a.next + a.free >= 1024 and a.free <= 1024 for a in answers)
        assert [a.next % 118 for a in answers] == [0] * len(answers)
        state, _ = sent(process, line, board.bundle, PCM[:5000])
        assert_state(board.bundle, state, PCM[:5000])


def test_bench_times_every_part_and_leaves_a_fresh_stream(board: Built) -> None:
    with running(board.program) as process:
        line, _ = process.connect()
        line.reset(PcmSource.SERIAL)
        ticks = line.bench(50, 10.0)
        assert ticks.hops == 50
        assert min(ticks.frontend, ticks.network, ticks.detector) > 0
        assert ticks.all == ticks.frontend + ticks.network + ticks.detector
        put_pcm(line, 0, PCM[:100])
        with pytest.raises(Refusal, match="under way"):
            line.bench(1, 1.0)
        state, _ = sent(process, line, board.bundle, PCM[:3000])
        assert_state(board.bundle, state, PCM[:3000])


def test_a_board_listens_during_a_bench_and_reset_ends_it(board: Built) -> None:
    with running(board.program) as process:
        line, _ = process.connect()
        line.reset(PcmSource.SERIAL)
        begun = line.send(Request.BENCH, struct.pack("<H", 65535))
        assert line.hello().pcm_free == 1024
        refused_meanwhile = {Request.PCM: b"\0" * 4, Request.FINISH: b"\0" * 4, Request.STATE: b"\0" * 4, Request.BENCH: b"\1\0"}
        for request, payload in refused_meanwhile.items():
            with pytest.raises(Refusal, match="BENCH is under way") as refused:
                line.request(request, payload)
            assert refused.value.code == 3
        line.send(Request.RESET, bytes([PcmSource.SERIAL]))
        answers: list[Frame] = []
        while len(answers) < 2:
            answers += line.receive(1.0)
        assert (answers[0].tag, answers[0].payload[:2]) == (begun, bytes([Request.BENCH, 3]))
        assert answers[1].type == Request.RESET | 0x80
        assert line.bench(3, 10.0).hops == 3


def test_a_bench_ends_before_its_sums_go_round(board: Built, tmp_path: Path) -> None:
    export_c(board.bundle, tmp_path)
    source = tmp_path / "host/board.c"
    text = source.read_text()
    assert text.count(TICKS) == 1
    source.write_text(text.replace(TICKS, f"{TICKS} * 40000u"))  # a counter so fast that it goes round every 10 ms
    with running(make_board(tmp_path, "O2")) as process:
        line, _ = process.connect()
        ticks = line.bench(65535, 60.0)
        assert 0 < ticks.hops < 65535
        assert 2**31 <= ticks.all == ticks.frontend + ticks.network + ticks.detector
