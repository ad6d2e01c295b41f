"""A board's detections reach the host, whatever happens to the line; and ``pdmu-board``'s lines and mistakes."""

from __future__ import annotations

import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.conformance_c import law_events
from edge_agent.board import Board, Refusal
from edge_agent.board_messages import BoardHealth, Hello, Outcome, PcmSource
from edge_agent.link import Deframer, Frame, Notice, Request, encode_frame
from edge_agent.pcm_stream import PcmStream
from pdmu.state_layout import law_trace, split_state
from tests.deploy.boards import BANNER, PCM, Built, Running, assert_state, heard_within, put_pcm, running, sent

pytest.importorskip("serial", reason="pyserial is not installed: boards are NOT TESTED HERE; pip install pyserial")

KEPT = 16  # PDMU_BOARD_EVENTS
HOST_GONE_S = 10.0


def test_events_come_again_until_they_are_acknowledged(board: Built) -> None:
    with running(board.program) as process:
        line, _ = process.connect()
        events = list({e.seq: e for e in sent(process, line, board.bundle, PCM[:16000]).events if e.seq}.values())
        assert 2 <= len(events) <= KEPT
        again = heard_within(process, line, 2.5)
        assert again == events
        line.acknowledge(1)
        assert heard_within(process, line, 2.5) == events[1:]
        line.acknowledge(events[-1].seq)
        line.acknowledge(events[-1].seq)
        assert heard_within(process, line, 2.5) == []
        assert line.resend() == (events[-1].seq + 1, events[-1].seq, 0)


def test_a_full_memory_drops_the_oldest_and_counts_them(board: Built) -> None:
    found = [e for e in board.events if e[1] in (Outcome.DETECTED, Outcome.CUT)]
    assert len(found) > KEPT + 5
    with running(board.program) as process:
        line, _ = process.connect()
        sent(process, line, board.bundle, PCM)
        before = len(process.events())
        assert line.resend() == (len(found) - KEPT + 1, len(found), len(found) - KEPT)
        line.hello()  # the events come after the reply
        again = heard_within(process, line, 0.3)
        kept = process.events()[before : before + KEPT]
        assert [(e.label, e.outcome, e.onset_step, e.end_step, e.peak_sum) for e in kept] == found[-KEPT:]
        assert {e.lost for e in kept} == {len(found) - KEPT}
        assert len(again) <= KEPT
        health = BoardHealth.unpack(process.notices(Notice.HEALTH)[-1])
        assert (health.pending, health.lost) == (KEPT, len(found) - KEPT)


def greeted(line: Board, nonce: int) -> Hello:
    """Exchange HELLO with a nonce of one's own."""
    return Hello.unpack(line.request(Request.HELLO, struct.pack("<Q", nonce)))


def test_a_run_keeps_its_first_name_until_it_ends(board: Built) -> None:
    with running(board.program) as process:
        first, hello = process.connect()
        first.port.close()
        second, again = process.connect()
        assert second.nonce != hello.boot == first.nonce == again.boot
        second.reboot()
        assert second.hello().boot == second.nonce
        assert greeted(second, 0).boot == second.nonce


def test_a_run_after_a_restart_has_a_name_of_its_own_though_its_line_stayed_open(board: Built) -> None:
    with running(board.program) as process:
        line, hello = process.connect()
        line.reboot()
        assert line.hello().boot not in (0, hello.boot)


def test_before_hello_events_are_kept_and_not_sent(board: Built) -> None:
    with running(board.program) as process:
        line, _ = process.connect()
        line.reboot()
        line.request(Request.LABEL, b"\0")  # it is back
        stream = PcmStream(line)
        stream.push(PCM[:16000])
        stream.drain()
        assert line.finish(16000) == 0
        assert process.events() == []
        with pytest.raises(Refusal, match="HELLO comes first"):
            line.resend()
        assert greeted(line, 0).boot == 0  # no name: a board without one stays silent
        line.receive(0.3)
        assert process.events() == []
        assert greeted(line, 77).boot == 77
        heard_within(process, line, 0.5)
        assert [e.seq for e in process.events()] == list(range(1, line.hello().next_seq))


def test_a_cut_line_is_taken_up_where_it_was(board: Built) -> None:
    with running(board.program, "--tcp", "0") as process:
        line, hello = process.connect()
        stream = PcmStream(line)
        stream.push(PCM[:8000])
        stream.drain()
        line.port.close()
        line, again = process.connect()
        assert again.boot == hello.boot
        assert put_pcm(line, 0, PCM[:0]).next == 8000
        for at in range(8000, 16000, 100):
            assert put_pcm(line, at, PCM[at : at + 100]).next == at + 100
        line.finish(16000)
        assert_state(board.bundle, split_state(board.bundle, line.state()), PCM[:16000])
        heard_within(process, line, 2.5)  # what the cut swallowed comes again
        assert {e.seq for e in process.events()} - {0} == set(range(1, line.hello().next_seq))


def lent_to_nobody(process: Running, clip_s: float) -> tuple[int, int]:
    """Let a board hear its clip, then a host's stream under trace, then no more; return the numbers of the next event after either."""
    line, hello = process.connect()
    assert hello.source == PcmSource.CLIP
    heard_within(process, line, clip_s)
    line.reset(PcmSource.SERIAL)
    first = line.hello().next_seq
    line.trace(1)
    stream = PcmStream(line)
    stream.push(PCM[:5000])
    stream.drain()
    line.receive(0.2)
    after = line.hello().next_seq
    line.port.close()
    time.sleep(HOST_GONE_S + 0.5)
    return first, after


def test_a_board_lent_to_a_host_that_is_gone_returns_to_its_own_source(board: Built, tmp_path: Path) -> None:
    clip = tmp_path / "clip.s16le"
    clip.write_bytes(np.concatenate([PCM[:7001], np.zeros(16000 * 60, np.int16)]).astype("<i2").tobytes())
    with running(board.program, "--source", "clip", "--clip", str(clip), "--pace") as process:
        first, after = lent_to_nobody(process, 0.4)
        assert 1 < first < after < KEPT, "both streams have detections, and the memory holds all"
        process.heard.clear()
        line, hello = process.connect()
        assert hello.source == PcmSource.CLIP
        kept = line.resend()
        line.hello()
        events = {e.seq: e for e in process.events() if e.seq}
        assert kept.first == 1 and set(events) == set(range(1, first)) | set(range(after, hello.next_seq))
        assert process.notices(Notice.STAGE) == [], "the trace is off"
        line.hello()
        assert BoardHealth.unpack(process.notices(Notice.HEALTH)[-1]).pending == len(events)
        line.acknowledge(first - 1)  # and the gap closes
        assert line.resend().first == after


def test_the_clip_plays_in_real_time_and_round(board: Built, tmp_path: Path) -> None:
    clip = tmp_path / "clip.s16le"
    clip.write_bytes(PCM[:7001].astype("<i2").tobytes())
    with running(board.program, "--source", "clip", "--clip", str(clip), "--pace") as process:
        begun = time.monotonic()
        line, hello = process.connect()
        assert hello.source == PcmSource.CLIP
        with pytest.raises(Refusal, match="RESET to 0"):
            put_pcm(line, 0, PCM[:10])
        with pytest.raises(Refusal, match="has no end"):
            line.finish(0)
        with pytest.raises(Refusal, match="under way"):
            line.bench(1, 1.0)
        heard_within(process, line, 1.5)
        passed_s = time.monotonic() - begun
        samples = BoardHealth.unpack(process.notices(Notice.HEALTH)[-1]).samples
    rate = board.bundle.frontend.sample_rate_hz
    assert rate * (passed_s - 1.0) < samples <= rate * (passed_s + 0.5)
    size = board.bundle.samples_per_step
    looped = np.tile(PCM[:7001], 2 + int(passed_s) * rate // 7001 + rate // 7001)
    found = law_events(board.bundle, law_trace(board.bundle, looped).stages["scores"])
    got = [(e.label, e.outcome, e.onset_step, e.end_step, e.peak_sum) for e in process.events() if e.seq]
    assert max(e[3] for e in got) * size > 7001  # round once at least
    assert set(got) <= set(found)


def test_standard_input_and_output_are_a_line_too(board: Built) -> None:
    asked = encode_frame(Request.HELLO, 5, struct.pack("<Q", 3)) + encode_frame(Request.LABEL, 6, b"\0")
    done = subprocess.run([board.program, "--stdio"], input=asked, capture_output=True, check=True)
    deframer = Deframer()
    items = deframer.feed(done.stdout + b"\0")
    replies = [(x.type & 0x7F, x.tag) for x in items if isinstance(x, Frame) and x.type & 0x80]
    assert replies == [(Request.HELLO, 5), (Request.LABEL, 6)]
    assert done.stdout.startswith(BANNER.encode())


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--tpc"], 2, "unknown option '--tpc'"), (["--tcp"], 2, "a value is missing after '--tcp'"),
        (["--tcp", "70000"], 2, "needs a port"), (["--source", "tape"], 2, "serial or clip, not 'tape'"),
        (["--clip", "nowhere"], 1, "nowhere: No such file"),
        (["--clip", "odd"], 1, "cut in half"), (["--clip", "empty"], 1, "no samples"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_line(board: Built, tmp_path: Path, options: list[str], status: int, message: str) -> None:
    (tmp_path / "odd").write_bytes(b"123")
    (tmp_path / "empty").write_bytes(b"")
    done = subprocess.run([board.program, *options], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
