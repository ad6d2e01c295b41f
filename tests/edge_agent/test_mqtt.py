"""Delivery to real brokers: absent, restarted, refusing, too old for MQTT 5."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.config import MqttConfig
from edge_agent.events import Topics
from edge_agent.mqtt import MqttDelivery, make_client
from edge_agent.outbox import Message, Outbox, message
from pdmu.errors import UserError
from tests.edge_agent.conftest import Broker, Subscriber, wait_until

TOPIC = "pdmu/t1/rec/detection"


class Delivered:
    """A delivery thread with its outbox and its log."""

    def __init__(self, folder: Path, port: int, **mqtt: object) -> None:
        self.log: list[str] = []
        self.outbox = Outbox(folder / "outbox.sqlite")
        config = MqttConfig(**({"host": "127.0.0.1", "port": port, "retry_max_s": 1.0} | mqtt))  # type: ignore[arg-type]
        self.thread = MqttDelivery(config, Topics("t1"), self.outbox, self.log.append, info=json.dumps({"schema": "pdmu.info/1"}))
        self.thread.start()

    def put(self, *numbers: int) -> None:
        self.outbox.put(message("detection", TOPIC, {"n": n}) for n in numbers)
        self.thread.wake()

    def close(self) -> None:
        self.thread.stop(0)
        self.outbox.close()


def numbers(subscriber: Subscriber, ending: str = "/detection") -> list[int]:
    return [p["n"] for p in subscriber.of(ending)]


def test_delivers_and_deletes_on_acknowledgement(tmp_path: Path, broker: Broker, subscriber: Subscriber) -> None:
    d = Delivered(tmp_path, broker.port)
    d.put(*range(100))
    wait_until(lambda: d.outbox.counts()["messages"] == 0, "acknowledgements")
    assert d.thread.stop(1)
    wait_until(lambda: [p for t, p, _ in subscriber.messages if t == "pdmu/t1/status"] == ["online", "offline"], "the farewell")
    assert numbers(subscriber) == list(range(100))
    assert len(subscriber.of("/info")) == 1
    assert d.thread.delivered == 100


def test_status_is_retained_for_late_subscribers(tmp_path: Path, broker: Broker) -> None:
    d = Delivered(tmp_path, broker.port, keepalive_s=5)
    wait_until(lambda: d.thread.trouble is None, "the connection")
    late = Subscriber(broker.port)
    wait_until(lambda: ("pdmu/t1/status", "online", True) in late.messages, "the retained status")
    late.close()
    d.close()


def test_broker_absent_at_start_and_restarted(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    d = Delivered(tmp_path, broker.port)
    d.put(1, 2)
    wait_until(lambda: d.thread.trouble and "cannot connect" in d.thread.trouble, "the first refusal")
    assert d.outbox.counts()["messages"] == 2
    broker.start()
    wait_until(lambda: d.outbox.counts()["messages"] == 0, "delivery after the broker came up")
    broker.stop()
    wait_until(lambda: d.thread.trouble, "the loss to be noticed")
    d.put(3)
    broker.start()
    subscriber = Subscriber(broker.port)
    d.put(4)
    wait_until(lambda: d.outbox.counts()["messages"] == 0, "delivery after the restart")
    assert 4 in numbers(subscriber) or wait_until(lambda: 4 in numbers(subscriber), "the message")
    subscriber.close()
    d.close()
    broker.stop()
    assert any("lost" in line for line in d.log)


def test_old_messages_go_to_replay_marked_historical(tmp_path: Path, broker: Broker, subscriber: Subscriber) -> None:
    d = Delivered(tmp_path, broker.port, replay_after_s=100.0)
    d.outbox.put([Message("detection", TOPIC, '{"n":7,"historical":false}', time.time() - 101)])
    d.put(8)
    wait_until(lambda: numbers(subscriber) == [8] and subscriber.of("/replay"), "both messages")
    assert subscriber.of("/replay") == [{"n": 7, "historical": True}]
    d.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A broker with a user `marsh`, who may publish below pdmu/t1/rec/, status and info only."""
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    broker = Broker(tmp_path, f"allow_anonymous false\npassword_file {passwords}\nacl_file {acl}\n")
    passwords.touch()
    done = subprocess.run(["mosquitto_passwd", "-b", str(passwords), "marsh", "secret"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    acl.write_text(
        "user marsh\ntopic write pdmu/t1/rec/detection\ntopic write pdmu/t1/status\ntopic write pdmu/t1/info\ntopic read pdmu/#\n"
    )
    passwords.chmod(0o644)
    acl.chmod(0o644)
    tmp_path.chmod(0o755)
    yield broker.start()
    broker.stop()


def password(folder: Path, text: str) -> str:
    (folder / "pw").write_text(text + "\n")
    return str(folder / "pw")


def test_wrong_password_is_said_and_delivery_follows_when_it_is_put_right(tmp_path: Path, guarded: Broker) -> None:
    d = Delivered(tmp_path, guarded.port, username="marsh", password_file=password(tmp_path, "wrong"))
    d.put(1)
    trouble = wait_until(lambda: d.thread.trouble if d.thread.trouble and "refuses the login" in d.thread.trouble else None, "the refusal")
    assert "mqtt.password_file" in trouble
    assert d.outbox.counts()["messages"] == 1
    password(tmp_path, "secret")
    wait_until(lambda: d.outbox.counts()["messages"] == 0, "delivery with the right password")
    assert sum("refuses the login" in line for line in d.log) == 1  # said once, not at every attempt
    d.close()
    assert not any("wrong" in line or "secret" in line for line in d.log)


def test_message_the_broker_refuses_is_kept_and_does_not_hold_up_others(tmp_path: Path, guarded: Broker) -> None:
    d = Delivered(tmp_path, guarded.port, username="marsh", password_file=password(tmp_path, "secret"))
    d.outbox.put([message("health", "pdmu/t1/forbidden", {"n": 0})])
    d.put(1, 2)
    wait_until(lambda: d.outbox.counts()["detections"] == 0, "the permitted messages")
    assert d.outbox.counts()["messages"] == 1
    assert any("refuses messages to pdmu/t1/forbidden" in line and "access rules" in line for line in d.log)
    assert d.thread.trouble is not None
    d.close()


def test_falls_back_to_mqtt_3_1_1(tmp_path: Path) -> None:
    from amqtt.broker import Broker as OldBroker  # speaks 3.1.1 only

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    loop = asyncio.new_event_loop()
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}},
    }

    async def start() -> OldBroker:
        broker = OldBroker(config)
        await broker.start()
        return broker

    threading.Thread(target=loop.run_forever, daemon=True).start()
    broker = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    d = Delivered(tmp_path, port)
    d.put(1, 2, 3)
    wait_until(lambda: d.outbox.counts()["messages"] == 0, "delivery over 3.1.1")
    # This broker leaves a login to MQTT 5 with a will unanswered. A node that listens to a file has only its drain time left to
    # find that out: the other version belongs to the same attempt, so the log knows of no failed one.
    assert [line.split(" with ")[1] for line in d.log] == ["MQTT 3.1.1"]
    d.close()

    async def end() -> None:
        await broker.shutdown()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)


class StubbornBroker:
    """Accepts every login to MQTT 5 and then acknowledges nothing; with `hang_up` it closes the connection instead."""

    def __init__(self, hang_up: bool) -> None:
        self.accepted_s: list[float] = []
        self._hang_up = hang_up
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.accepted_s.append(time.monotonic())
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x20\x03\x00\x00\x00")
                while not self._hang_up and connection.recv(4096):
                    pass

    def close(self) -> None:
        self._server.close()


def test_broker_that_acknowledges_nothing_is_left_and_tried_anew(tmp_path: Path) -> None:
    broker = StubbornBroker(hang_up=False)
    d = Delivered(tmp_path, broker.port, ack_timeout_s=1.0)
    d.put(1)
    wait_until(lambda: len(broker.accepted_s) > 1, "a second connection")
    assert any("no acknowledgement for 1 s" in line for line in d.log)
    assert d.outbox.counts()["messages"] == 1
    d.close()
    broker.close()


def test_broker_that_hangs_up_is_not_stormed(tmp_path: Path) -> None:
    broker = StubbornBroker(hang_up=True)
    d = Delivered(tmp_path, broker.port)
    wait_until(lambda: len(broker.accepted_s) > 3, "four connections")
    d.close()
    broker.close()
    assert min(b - a for a, b in zip(broker.accepted_s, broker.accepted_s[1:], strict=False)) > 0.15


def test_two_nodes_of_one_name_are_told_so(tmp_path: Path, broker: Broker) -> None:
    (tmp_path / "b").mkdir()
    both = Delivered(tmp_path, broker.port), Delivered(tmp_path / "b", broker.port)
    wait_until(lambda: any("does another node use the name t1?" in line for d in both for line in d.log), "the advice")
    for d in both:
        d.close()


def test_the_thread_outlives_what_nobody_foresaw(tmp_path: Path, broker: Broker) -> None:
    d = Delivered(tmp_path, broker.port)
    d.outbox.put([Message("detection", TOPIC, "no JSON", time.time() - 1000)])
    wait_until(lambda: any("unexpected JSONDecodeError" in line for line in d.log), "the report")
    assert d.thread.is_alive()
    d.outbox.purge()
    d.put(1)
    wait_until(lambda: d.outbox.counts()["messages"] == 0, "delivery once it is gone")
    d.close()


def test_unresolvable_host_and_plain_port_with_tls_are_said_apart(tmp_path: Path, broker: Broker) -> None:
    d = Delivered(tmp_path, 1883, host="no-such-host.invalid")
    wait_until(lambda: d.thread.trouble and "cannot be resolved" in d.thread.trouble, "the resolver's answer")
    d.close()
    (tmp_path / "b").mkdir()
    d = Delivered(tmp_path / "b", broker.port, tls=True)
    wait_until(lambda: d.thread.trouble and ("TLS failed" in d.thread.trouble or "its TLS port" in d.thread.trouble), "the TLS failure")
    d.close()


def test_delivers_over_tls_to_a_trusted_broker_only(tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    try:
        subprocess.run([*command.split(), *names], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed: TLS is not tested")
    broker = Broker(tmp_path, f"allow_anonymous true\ncertfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem\n").start()
    (tmp_path / "stranger").mkdir()
    stranger = Delivered(tmp_path / "stranger", broker.port, tls=True)
    wait_until(lambda: stranger.thread.trouble and "TLS failed" in stranger.thread.trouble, "the refusal of an unknown certificate")
    stranger.close()
    d = Delivered(tmp_path, broker.port, tls=True, ca_file=str(tmp_path / "cert.pem"))
    d.put(*range(50))
    wait_until(lambda: d.outbox.counts()["messages"] == 0, "delivery over TLS")
    d.close()
    broker.stop()


def test_credentials_that_cannot_be_read() -> None:
    with pytest.raises(UserError, match="/none/pw: the MQTT password cannot be read"):
        make_client(MqttConfig(username="a", password_file="/none/pw"), "n", "5")
    with pytest.raises(UserError, match="/none/ca: cannot be used as a CA certificate file"):
        make_client(MqttConfig(tls=True, ca_file="/none/ca"), "n", "5")
