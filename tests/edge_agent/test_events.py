"""Messages hold to their schemas, and the schemas to the published contract."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edge_agent.channel import Channel, LevelMeter, Listener, load_listener
from edge_agent.config import AgentConfig
from edge_agent.events import SCHEMA_DIR, ClockInfo, Detection, StreamClock, clock_info, detection, model_facts, node_info, rejection, utc
from edge_agent.health import Health
from edge_agent.ports import AudioBlock
from pdmu.config import to_dict
from pdmu.detector import Rejected
from tests.helpers import scene

GOLDEN = {
    "schema": "pdmu.detection/1", "id": "0b9f4e0e-64ad-4c58-9d35-4d2f0f0d7a11", "node": "marsh-01", "source": "mic0", "seq": 1042,
    "ts": "2026-09-01T05:12:33.120Z", "utc_offset_s": 7200, "clock": {"src": "ntp", "synced": True, "err_ms": 12},
    "t_start_s": 8123.40, "dur_s": 1.28, "label": "cough", "task": "cough", "score": 0.91, "threshold": 0.70,
    "model": {"name": "cough", "version": "1.2.0", "sha256": "0" * 64, "runtime": "tflite", "quant": "int16x8"},
    "audio": {"rms_dbfs": -31.2, "clipped": 0.0}, "latency_ms": 14, "historical": False, "clip": None, "privacy": "no_audio",
}  # fmt: skip


def schema(name: str) -> Any:
    found = json.loads((SCHEMA_DIR / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def check(payload: dict[str, Any], name: str) -> None:
    jsonschema.Draft202012Validator(schema(name)).validate(json.loads(json.dumps(payload)))


@pytest.fixture(scope="module")
def listener(bundle_path: Path) -> Listener:
    return load_listener(bundle_path, "numpy")


def a_detection(listener: Listener) -> Detection:
    heard = Channel(listener).process(scene([(1.0, 1.5)], 3))
    model = model_facts(listener)
    return detection(heard.found[0], model, node="t1", source="rec", seq=1, start_s=1_000_000.0, clock=clock_info(), latency_s=0.0142)


def test_published_example_holds_to_the_schema() -> None:
    check(GOLDEN, "detection")


def test_schema_has_the_examples_fields_and_no_others() -> None:
    found = schema("detection")
    assert list(found["properties"]) == found["required"] == list(GOLDEN)
    for part in ("clock", "model", "audio"):
        assert found["properties"][part]["required"] == list(GOLDEN[part])  # type: ignore[call-overload]


@pytest.mark.parametrize("change", [{"score": "0.9"}, {"ts": "2026-09-01 05:12:33"}, {"node": "a/b"}, {"dur_s": 0}, {"extra": 1}])
def test_schema_refuses_what_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(GOLDEN | change, "detection")


def test_detections_hold_to_the_schema_field_for_field(listener: Listener) -> None:
    d = a_detection(listener)
    payload = to_dict(d)
    check(payload, "detection")
    assert list(payload) == list(GOLDEN)
    assert (d.t_start_s, d.dur_s, d.latency_ms) == (1.024, 0.544, 14)
    assert d.ts == utc(1_000_001.024)
    assert d.audio.rms_dbfs == pytest.approx(-21.5, abs=0.5)
    assert d.model.sha256 == listener.bundle.sha256


def test_other_messages_hold_to_their_schemas(listener: Listener) -> None:
    check(rejection(Rejected(0, 4, 6, 0.7, "too_short"), model_facts(listener), node="n", source="s", start_s=0), "rejected")
    check(node_info("n", [model_facts(listener)], AgentConfig().hash), "info")
    counts = {"messages": 0, "detections": 0, "bytes": 0, "unsaved": 0, "dropped": 0}
    health = Health("n", "s")
    check(health.report(time.time(), counts, []), "health")
    health.heard(AudioBlock(np.full(1600, 32767, np.int16), n_clipped=1600, n_invalid=2, n_gaps=1), 0.004)
    payload = health.report(time.time(), counts, ["outbox: full"])
    check(payload, "health")
    assert (payload["level_dbfs"], payload["clipped_samples"], payload["invalid_samples"], payload["gaps"]) == (0.0, 1600, 2, 1)
    assert health.report(time.time(), counts, [])["audio_arriving"] is False


def test_clock_of_a_file_keeps_its_start_and_a_live_one_follows() -> None:
    still = StreamClock(16000, live=False)
    still.observe(16000, 100.0)
    still.observe(160000, 500.0)
    assert still.start_s(170000) == 100.0
    live = StreamClock(16000, live=True)
    live.observe(16000, 101.0)
    assert live.start_s(0) == 100.0
    live.observe(16000, 102.4)
    assert live.start_s(31999) == 100.0  # buffering
    live.observe(16000, 110.0)
    assert live.start_s(32000) == 107.0  # seven seconds of audio were lost
    live.observe(16000, 111.0)
    assert live.start_s(63999) == 107.0


def test_what_was_heard_before_a_gap_keeps_its_date() -> None:
    live = StreamClock(16000, live=True)
    live.observe(16000, 101.0)
    live.observe(16000, 110.0)  # its end is known only after the gap
    assert live.start_s(15999) == 100.0
    live.observe(0, 200.0)  # the end of the stream, long after its last sample
    assert (live.start_s(15999), live.start_s(16000)) == (100.0, 108.0)
    for i in range(100):
        live.observe(16000, 1000.0 * i)
    assert live.start_s(102 * 16000 - 1) == 99000.0 - 102


def test_level_of_an_event_is_that_of_its_own_steps() -> None:
    pcm = np.zeros(5120, np.int16)
    pcm[1024:2048] = 16384
    pcm[2048:2560] = 32767
    meter = LevelMeter(512, keep_steps=20)
    for part in np.split(pcm, [100, 1500, 1501, 4000]):
        meter.push(part)
    assert meter.over(2, 4) == (pytest.approx(-6.02, abs=0.01), 0.0)
    assert meter.over(2, 5)[1] == pytest.approx(1 / 3)
    assert meter.over(0, 2) == (-120.0, 0.0)
    meter.forget(25)
    assert meter.over(5, 6) == (-120.0, 0.0)


def test_clock_info_is_one_of_two_things() -> None:
    info = clock_info()
    assert info == ClockInfo("system", False, None) or (info.src, info.synced) == ("ntp", True)
