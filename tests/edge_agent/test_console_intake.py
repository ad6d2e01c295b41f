"""A board's detections on their way to disk: dated, each once, acknowledged only when they are there."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import jsonschema
import pytest

from edge_agent.board_messages import BoardEvent, BoardHealth, Hello, Kept, Label, Outcome, PcmSource, ProtocolError
from edge_agent.config import AgentConfig, NodeConfig
from edge_agent.console.board_clock import WRAP, BoardClock
from edge_agent.console.heard import board_model
from edge_agent.console.intake import Answer, Intake
from edge_agent.events import SCHEMA_DIR, Detection, ModelFacts, ModelInfo
from edge_agent.outbox import Outbox
from pdmu.errors import UserError
from tests.helpers import tiny_bundle

RATE_HZ, STEP = 16000, 512
UP_MS = 60_000
INFO = ModelInfo("m", "1", "a" * 64, "c", "int16x8")
MODEL = ModelFacts(INFO, "cough", "0" * 16, ("cough", "other"), (0.5, 0.5), RATE_HZ, STEP, (0, 8000))


class Wakes:
    """A delivery that has nothing to do."""

    def wake(self) -> None:
        """Nobody sleeps."""


class Bench:
    """An intake over a real outbox, and what it said."""

    def __init__(self, path: Path, boot: int = 7) -> None:
        self.outbox = Outbox(path)
        self.said: list[Detection] = []
        self.intake = Intake(AgentConfig(NodeConfig(node="t1", rejected_per_minute=5)), "b0", self.outbox, Wakes(), self.said.append)
        self.meet(boot)

    def meet(self, boot: int, next_seq: int = 9) -> None:
        hello = Hello(1, 0, STEP, RATE_HZ, boot, next_seq, 0, 2, PcmSource.MICROPHONE, 3, 0, "b", "f", "m", "1", "a" * 64, "0" * 16)
        self.intake.meet(hello, MODEL)
        self.health(100 * STEP)

    def health(self, samples: int, lost: int = 0) -> None:
        self.intake.told_health(BoardHealth(UP_MS, samples % WRAP, 100, 0, 0, lost, 0, 0))

    def event(self, seq: int, onset: int = 10, outcome: Outcome = Outcome.DETECTED) -> Answer:
        return self.intake.told_event(BoardEvent(seq, 0, outcome, 3, 60000, 49152, onset, onset + 10, 5120 * 10000, 512, 0))

    def stored(self, kind: str = "detection") -> list[dict]:
        return [json.loads(m.payload) for m in self.outbox.waiting(100) if m.kind == kind]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "outbox.sqlite")


def test_a_detection_is_the_agents_own_message(bench: Bench) -> None:
    assert bench.event(1) is Answer.ACKNOWLEDGE
    (d,) = bench.stored()
    jsonschema.Draft202012Validator(json.loads((SCHEMA_DIR / "detection.json").read_text())).validate(d)
    assert (d["seq"], d["label"], d["score"], d["threshold"], d["t_start_s"], d["dur_s"]) == (1, "cough", 0.6104, 0.5, 0.32, 0.32)
    assert d["audio"] == {"rms_dbfs": -50.3, "clipped": 0.1}
    assert bench.stored("state") == [d]


def test_a_date_is_as_old_as_what_came_after(bench: Bench) -> None:
    bench.event(1, onset=10)
    ends_s = datetime.fromisoformat(bench.stored()[0]["ts"].replace("Z", "+00:00")).timestamp() + 0.32
    assert time.time() - ends_s == pytest.approx(80 * STEP / RATE_HZ, abs=0.5)  # the margin is a slow machine's
    assert bench.outbox.waiting(1)[0].created_s == pytest.approx(ends_s, abs=0.5)  # so an outage of the line is told as one of the broker


def test_repetitions_are_known_and_acknowledged_again(bench: Bench) -> None:
    bench.event(1)
    bench.event(2)
    assert [bench.event(n) for n in (1, 2, 2)] == [Answer.ACKNOWLEDGE] * 3
    assert len(bench.stored()) == 2
    assert (bench.intake.counts.detections, bench.intake.counts.repeated) == (2, 3)


def test_what_was_stored_is_known_after_a_restart_and_by_the_same_id_elsewhere(tmp_path: Path) -> None:
    first = Bench(tmp_path / "outbox.sqlite")
    first.event(1)
    (stored,) = first.stored()
    first.outbox.close()
    again = Bench(tmp_path / "outbox.sqlite")
    assert again.event(1) is Answer.ACKNOWLEDGE
    assert again.stored() == [stored]
    other = Bench(tmp_path / "other.sqlite")
    other.event(1)
    assert other.stored()[0]["id"] == stored["id"]


def test_another_run_of_the_board_counts_anew(bench: Bench) -> None:
    bench.event(1)
    bench.meet(boot=8)
    bench.event(1)
    bench.meet(boot=7)
    assert bench.event(1) is Answer.ACKNOWLEDGE
    assert [d["seq"] for d in bench.stored()] == [1, 2]
    assert len({d["id"] for d in bench.stored()}) == 2


def test_a_run_that_counts_anew_by_its_old_name_is_refused(bench: Bench) -> None:
    bench.event(1)
    bench.event(2)
    with pytest.raises(UserError, match="next detection is 2, but 2 of its run 0000000000000007 are known"):
        bench.meet(boot=7, next_seq=2)
    again = Bench(bench.outbox.path, boot=8)
    with pytest.raises(UserError, match="restart it: pdmu-console hello --reboot"):
        again.meet(boot=7, next_seq=2)
    bench.meet(boot=7, next_seq=3)


def test_what_the_board_lost_is_a_trouble_until_a_health_report_has_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.intake.trouble is None
    bench.health(101 * STEP, lost=3)
    assert "no memory left for 3 detections" in (bench.intake.trouble or "")
    assert bench.intake.counts.lost == 3
    later_s = time.monotonic() + NodeConfig().health_interval_s + 2
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    assert bench.intake.trouble is None


def test_a_gap_is_asked_for_until_the_board_says_that_it_has_no_more(bench: Bench) -> None:
    bench.event(1)
    assert bench.event(3) is Answer.RESEND
    bench.intake.told_kept(Kept(2, 3, 0))
    assert [bench.event(2), bench.event(3)] == [Answer.ACKNOWLEDGE] * 2
    assert bench.event(6) is Answer.RESEND
    bench.intake.told_kept(Kept(6, 6, 2))
    assert bench.event(6) is Answer.ACKNOWLEDGE
    assert (bench.intake.last, bench.intake.counts.lost, len(bench.stored())) == (6, 2, 4)


def test_nothing_is_acknowledged_that_no_disk_has(tmp_path: Path) -> None:
    bench = Bench(Path("/proc/pdmu/outbox.sqlite"))
    assert [bench.event(1), bench.event(1)] == [Answer.NOTHING] * 2
    assert len(bench.stored()) == 1
    bench.outbox.path = tmp_path / "outbox.sqlite"  # the disk is back
    assert bench.event(1) is Answer.ACKNOWLEDGE
    assert len(bench.stored()) == 1


def test_events_before_the_count_is_known_wait_to_be_sent_again(bench: Bench) -> None:
    bench.intake.meet(Hello(1, 0, STEP, RATE_HZ, 7, 9, 0, 2, 2, 3, 0, "b", "f", "m", "1", "a" * 64, "0" * 16), MODEL)
    assert bench.event(1) is Answer.NOTHING
    assert bench.stored() == []


def test_rejections_are_published_up_to_the_limit(bench: Bench) -> None:
    for _ in range(9):
        assert bench.event(0, outcome=Outcome.TOO_SHORT) is Answer.NOTHING
    assert [r["reason"] for r in bench.stored("rejected")] == ["too_short"] * 5


def test_a_label_that_does_not_exist_is_refused(bench: Bench) -> None:
    with pytest.raises(ProtocolError, match="names label 9 of 2"):
        bench.intake.told_event(BoardEvent(1, 9, 0, 3, 1, 1, 0, 1, 0, 0, 0))


def test_health_adds_up_over_resets_and_the_counters_end(bench: Bench) -> None:
    bench.health(200 * STEP)
    bench.health(10 * STEP)  # a RESET between
    report = bench.intake.health.report(0, bench.outbox.counts(), [])
    assert (report["total_samples"], report["level_dbfs"], report["peak_dbfs"]) == (110 * STEP, -50.3, None)
    jsonschema.Draft202012Validator(json.loads((SCHEMA_DIR / "health.json").read_text())).validate(report)


def test_the_clock_goes_round_with_the_boards_counter() -> None:
    clock = BoardClock(RATE_HZ)
    for rounds in (1, 5, 40):  # the uptime goes round with the 17th
        count = rounds * WRAP - RATE_HZ
        clock.observe(count % WRAP, count * 1000 // RATE_HZ % WRAP, 100.0)
        assert clock.observe((count + 2 * RATE_HZ) % WRAP, (count * 1000 // RATE_HZ + 2000) % WRAP, 102.0) == 2 * RATE_HZ
        assert clock.age_s(count, 103.0) == 3.0
        assert clock.age_s(count + 2 * RATE_HZ, 103.0) == 1.0


def test_a_late_count_does_not_move_the_clock_and_lost_audio_does() -> None:
    clock = BoardClock(RATE_HZ)
    clock.observe(10 * RATE_HZ, 10_000, 10.0)
    clock.observe(20 * RATE_HZ, 20_000, 20.3)
    assert clock.age_s(20 * RATE_HZ, 21.0) == 1.0
    clock.observe(22 * RATE_HZ, 25_000, 25.0)
    assert clock.age_s(22 * RATE_HZ, 25.0) == 0.0
    assert clock.age_s(23 * RATE_HZ, 25.0) == 0.0  # it has come further than it said
    assert clock.age_s(23 * RATE_HZ, 26.0) == 1.0


@pytest.mark.parametrize("end_s", [5, 30, 100, 3000])
def test_an_event_of_an_earlier_stream_is_dated_by_its_arrival(end_s: int) -> None:
    clock = BoardClock(RATE_HZ)
    clock.observe(RATE_HZ, 3_600_000, 10.0)  # an hour after its start, a second after a RESET
    assert clock.age_s(end_s * RATE_HZ, 10.0) == 0.0
    assert clock.age_s(RATE_HZ // 2, 10.0) == 0.5  # and those of this one by the count, as before


def test_a_known_bundle_names_the_model_in_full(tmp_path: Path) -> None:
    hello = Hello(1, 0, STEP, RATE_HZ, 7, 9, 0, 1, 2, 3, 0, "b", "f", "cut short", "1.2", "a" * 64, "0" * 16)
    labels = [Label(0, 49152, "cough")]
    assert board_model(hello, labels, None).info == ModelInfo("cut short", "1.2", "a" * 64, "c", "int16x8")
    bundle = tiny_bundle(tmp_path / "m.pdmu")
    info = board_model(hello, labels, replace(bundle, info={"name": "cut short by the board", "version": "1.2.3"})).info
    assert (info.name, info.version) == ("cut short by the board", "1.2.3")
    assert board_model(hello, labels, replace(bundle, info={})).info.name == "cut short"


def test_payloads_are_packed_as_the_protocol_says() -> None:
    raw = struct.pack("<IBBHiiqqQII", 1, 0, 1, 3, 60000, 49152, 10, 20, 1 << 40, 5, 2)
    assert BoardEvent.unpack(raw) == BoardEvent(1, 0, Outcome.CUT, 3, 60000, 49152, 10, 20, 1 << 40, 5, 2)
