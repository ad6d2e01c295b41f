"""The whole agent as its own process against a real broker: nothing lost, whatever happens to either."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import soundfile as sf

from edge_agent.events import SCHEMA_DIR
from edge_agent.outbox import Outbox
from tests.edge_agent.conftest import REPO, Broker, Subscriber, agent_process, agent_toml, wait_until
from tests.helpers import scene

BURSTS = [(1.0, 1.5), (3.0, 3.4), (5.0, 5.6)]
STARTS = [1.024, 3.04, 5.024]


def recording(folder: Path, bursts: list[tuple[float, float]] = BURSTS, length_s: float = 7) -> Path:
    path = folder / "rec.flac"
    sf.write(path, scene(bursts, length_s), 16000)
    return path


def file_source(path: Path) -> str:
    return f'type = "file"\npath = "{path}"'


def test_a_recording_reaches_the_subscriber(tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, file_source(recording(tmp_path)))
    agent = agent_process("run", "--config", config, "--json")
    out, err = agent.communicate(timeout=60)
    assert agent.returncode == 0, err
    wait_until(lambda: subscriber.of("/health"), "the health report")
    got = subscriber.of("rec/detection")
    assert [d["t_start_s"] for d in got] == STARTS
    assert [d["seq"] for d in got] == [1, 2, 3]
    assert got == [json.loads(line) for line in out.splitlines()]
    for name in ("detection", "health", "info"):
        validator = jsonschema.Draft202012Validator(json.loads((SCHEMA_DIR / f"{name}.json").read_text()))
        assert subscriber.of(f"/{name}")
        for payload in subscriber.of(f"/{name}"):
            validator.validate(payload)
    late = Subscriber(broker.port)
    wait_until(lambda: late.of("rec/state"), "the retained state")
    assert late.of("rec/state") == [got[-1]]
    assert ("pdmu/t1/status", "offline", True) in late.messages
    late.close()


def test_broker_absent_all_along_then_delivered_by_the_next_start(tmp_path: Path, bundle_path: Path) -> None:
    broker = Broker(tmp_path)
    config = agent_toml(tmp_path, broker.port, bundle_path, file_source(recording(tmp_path)), extra="drain_s = 0.2")
    agent = agent_process("run", "--config", config)
    _, err = agent.communicate(timeout=60)
    assert agent.returncode == 0, err
    assert "cannot connect" in err
    assert "are delivered after the next start" in err
    broker.start()
    subscriber = Subscriber(broker.port)
    flush = agent_process("outbox", "flush", "--config", config)
    out, err = flush.communicate(timeout=60)
    assert flush.returncode == 0, err
    wait_until(lambda: len(subscriber.of("rec/detection")) == 3, "the detections")
    subscriber.close()
    broker.stop()


def test_kill_9_mid_stream_loses_nothing_that_was_detected(tmp_path: Path, bundle_path: Path) -> None:
    broker = Broker(tmp_path)  # not started: everything has to come through the outbox
    config = agent_toml(tmp_path, broker.port, bundle_path, 'type = "stdin"\nrate_hz = 16000')
    agent = agent_process("run", "--config", config, "--json", stdin=subprocess.PIPE)
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.buffer.write(scene(BURSTS, 7).tobytes())
    agent.stdin.flush()
    said = [json.loads(agent.stdout.readline()) for _ in range(3)]
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    broker.start()
    subscriber = Subscriber(broker.port)
    again = agent_process("run", "--config", config, stdin=subprocess.PIPE)
    _, err = again.communicate("\0" * 512, timeout=60)
    assert again.returncode == 0, err
    assert "messages from before will be delivered" in err
    wait_until(lambda: len(subscriber.of("rec/detection")) >= 3, "the detections of the killed agent")
    assert subscriber.of("rec/detection") == said
    subscriber.close()
    broker.stop()


def test_last_will_says_offline_for_a_killed_agent(tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, 'type = "stdin"\nrate_hz = 16000')
    agent = agent_process("run", "--config", config, stdin=subprocess.PIPE)
    wait_until(lambda: ("pdmu/t1/status", "online", False) in subscriber.messages, "online")
    agent.send_signal(signal.SIGKILL)
    agent.communicate()
    wait_until(lambda: ("pdmu/t1/status", "offline", False) in subscriber.messages, "the last will")


def test_sigterm_ends_the_event_going_on_and_delivers(tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, 'type = "stdin"\nrate_hz = 16000')
    agent = agent_process("run", "--config", config, stdin=subprocess.PIPE)
    assert agent.stdin is not None
    agent.stdin.buffer.write(scene([(0.5, 1.0), (1.5, 2.0)], 2).tobytes())  # the second burst has not ended
    agent.stdin.flush()
    wait_until(lambda: len(subscriber.of("rec/detection")) == 1, "the first burst")
    agent.send_signal(signal.SIGTERM)
    agent.stdin = None
    _, err = agent.communicate(timeout=60)
    assert agent.returncode == 0, err
    wait_until(lambda: len(subscriber.of("rec/detection")) == 2, "the unfinished burst")
    assert subscriber.of("rec/detection")[1]["t_start_s"] + subscriber.of("rec/detection")[1]["dur_s"] == 1.984
    assert subscriber.messages[-1][:2] == ("pdmu/t1/status", "offline")


def test_event_is_published_while_the_stream_goes_on(tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, 'type = "stdin"\nrate_hz = 16000')
    agent = agent_process("run", "--config", config, stdin=subprocess.PIPE)
    assert agent.stdin is not None
    agent.stdin.buffer.write(scene([(0.5, 1.0)], 1.25).tobytes())
    agent.stdin.flush()
    wait_until(lambda: subscriber.of("rec/detection"), "the event, with the stream still open")
    assert agent.poll() is None
    agent.communicate(timeout=60)


def test_nan_and_clipping_are_counted_and_the_rest_is_heard(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path
) -> None:
    x = scene(BURSTS, 7).astype(np.float32) / 32768
    x[100:110] = np.nan
    x[50000:50020] = 3.0
    sf.write(tmp_path / "bad.wav", x, 16000, subtype="FLOAT")
    config = agent_toml(tmp_path, broker.port, bundle_path, file_source(tmp_path / "bad.wav"))
    agent = agent_process("run", "--config", config)
    _, err = agent.communicate(timeout=60)
    assert agent.returncode == 0, err
    wait_until(lambda: subscriber.of("/health"), "the health report")
    assert len(subscriber.of("rec/detection")) == 3
    health = subscriber.of("/health")[-1]
    assert (health["invalid_samples"], health["clipped_samples"]) == (10, 20)


def test_truncated_file_among_sources_costs_the_status_and_no_event(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path
) -> None:
    path = recording(tmp_path, BURSTS, 14)
    path.write_bytes(path.read_bytes()[:-40000])
    config = agent_toml(tmp_path, broker.port, bundle_path, file_source(path))
    agent = agent_process("run", "--config", config)
    _, err = agent.communicate(timeout=60)
    assert agent.returncode == 1
    assert err.count("truncated or damaged") == 1
    assert "Traceback" not in err
    wait_until(lambda: len(subscriber.of("rec/detection")) == 3, "what came before the damage")


def test_two_sources_and_two_bundles(tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path) -> None:
    rec = recording(tmp_path)
    config = agent_toml(tmp_path, broker.port, bundle_path, file_source(rec))
    second_model = f'[[model]]\nbundle = "{bundle_path}"\nbackend = "numpy"\nthresholds = {{ cough = 0.9 }}\n'
    config.write_text(config.read_text() + f'[[source]]\nname = "two"\n{file_source(rec)}\n' + second_model)
    agent = agent_process("run", "--config", config)
    _, err = agent.communicate(timeout=60)
    assert agent.returncode == 0, err
    for source in ("rec", "two"):
        wait_until(lambda source=source: len(subscriber.of(f"{source}/detection")) == 6, f"both bundles on {source}")  # type: ignore[misc]
        assert sorted(d["seq"] for d in subscriber.of(f"{source}/detection")) == list(range(1, 7))


def test_rejected_events_are_published_when_asked(tmp_path: Path, broker: Broker, subscriber: Subscriber) -> None:
    from tests.helpers import tiny_bundle

    tiny_bundle(tmp_path / "strict.pdmu", min_steps=15)
    config = agent_toml(tmp_path, broker.port, tmp_path / "strict.pdmu", file_source(recording(tmp_path)), extra="rejected_per_minute = 60")
    agent = agent_process("run", "--config", config)
    agent.communicate(timeout=60)
    wait_until(lambda: subscriber.of("/health"), "the end")
    assert [d["t_start_s"] for d in subscriber.of("rec/detection")] == [1.024, 5.024]
    assert [(r["t_start_s"], r["reason"]) for r in subscriber.of("rec/rejected")] == [(3.04, "too_short")]


def test_read_only_state_is_reported_and_events_still_delivered(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path
) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, file_source(recording(tmp_path)))
    agent = agent_process("run", "--config", config, "--set", "outbox.path=/proc/pdmu/outbox.sqlite")
    _, err = agent.communicate(timeout=60)
    assert agent.returncode == 0, err
    assert "outbox: error: /proc/pdmu/outbox.sqlite: the outbox cannot be written" in err
    wait_until(lambda: len(subscriber.of("rec/detection")) == 3, "the detections")


def test_second_agent_on_one_outbox_is_refused(tmp_path: Path, broker: Broker, bundle_path: Path) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, 'type = "stdin"')
    first = agent_process("run", "--config", config, stdin=subprocess.PIPE)
    wait_until(lambda: (tmp_path / "state" / "outbox.sqlite").exists(), "the first agent's outbox")
    second = agent_process("run", "--config", config, stdin=subprocess.PIPE)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another pdmu-agent uses this outbox" in err
    first.communicate(timeout=60)
    assert Outbox(tmp_path / "state" / "outbox.sqlite").counts()["messages"] == 0


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("soundfile", "soxr", "matplotlib", "torch", "librosa", "tensorflow", "scipy"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from edge_agent.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_microphone_side_runs_without_audio_libraries(tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, 'type = "stdin"\nrate_hz = 16000')
    command = [sys.executable, "-c", BLOCKED, "run", "--config", str(config)]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, input=scene(BURSTS, 7).tobytes(), capture_output=True, env=env, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: len(subscriber.of("rec/detection")) == 3, "the detections")


def test_messages_that_no_disk_and_no_broker_took_are_called_lost(tmp_path: Path, bundle_path: Path) -> None:
    config = agent_toml(tmp_path, 1, bundle_path, file_source(recording(tmp_path)), extra="drain_s = 0.1")
    agent = agent_process("run", "--config", config, "--set", "outbox.path=/proc/pdmu/outbox.sqlite")
    _, err = agent.communicate(timeout=60)
    assert agent.returncode == 1
    assert "messages could neither be stored nor delivered and are lost: /proc/pdmu/outbox.sqlite" in err
    assert "after the next start" not in err


def test_output_that_cannot_be_written_stops_neither_hearing_nor_delivery(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, bundle_path: Path
) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, file_source(recording(tmp_path)))
    with Path("/dev/full").open("w") as full:
        agent = agent_process("run", "--config", config, "--json", stdout=full)
        _, err = agent.communicate(timeout=60)
    assert agent.returncode == 0, err
    assert err.count("stdout: error: No space left on device") == 1
    assert "Traceback" not in err
    wait_until(lambda: len(subscriber.of("rec/detection")) == 3, "every detection")
    with Path("/dev/full").open("w") as full:  # the log as well
        agent = agent_process("run", "--config", config, stdout=full, stderr=full)
        agent.communicate(timeout=60)
    assert agent.returncode == 0
    wait_until(lambda: len(subscriber.of("rec/detection")) == 6, "every detection again")


def test_standard_input_without_audio_is_said(tmp_path: Path, broker: Broker, bundle_path: Path) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, 'type = "stdin"')
    empty = agent_process("run", "--config", config, stdin=subprocess.DEVNULL)
    _, err = empty.communicate(timeout=60)
    assert empty.returncode == 1
    assert "rec: ended without any audio; did the program that should write it fail?" in err
    closed = agent_process("run", "--config", config, preexec_fn=lambda: os.close(0))
    _, err = closed.communicate(timeout=60)
    assert (closed.returncode, err.splitlines()[0]) == (
        1, "error: source rec: standard input is closed; pipe PCM into it, or choose another type of source",
    )  # fmt: skip
