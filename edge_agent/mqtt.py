"""Delivery over MQTT: one thread that connects, publishes what the outbox holds, and deletes what the broker acknowledges.

The client's own socket is driven from this thread (paho's external loop), so there is one order of events and no callback from
elsewhere. Every attempt to connect, the first like any other, makes a fresh client: what was in flight is in the outbox anyway.
"""

from __future__ import annotations

import json
import random
import select
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from edge_agent.config import MqttConfig, read_password
from edge_agent.events import Topics
from edge_agent.outbox import Message, Outbox
from pdmu.errors import UserError

Report = Callable[[str], None]
CONNECT_S = 10.0  # wait for TCP, TLS and CONNACK, each
PROBE_S = 3.0  # wait for CONNACK where another version of MQTT remains to be tried: some brokers of 3.1.1 leave a CONNECT of 5 unanswered
POLL_S = 0.5
REFUSED_PAUSE_S = 60.0  # before a message that the broker refused is offered again
STABLE_S = 10.0  # a connection that held so long was a good one: the next attempt comes soon
UNSUPPORTED_PROTOCOL = 132  # MQTT 5 reason code; paho gives it too for the 3.1.1 answer "unacceptable protocol version"


class Refused(Exception):
    """The broker could not be reached or said no; the message says why and what to do.

    `protocol` is true where the broker may only be too old for this version of MQTT.
    """

    def __init__(self, message: str, protocol: bool = False) -> None:
        super().__init__(message)
        self.protocol = protocol


def make_client(config: MqttConfig, node: str, version: str, suffix: str = "") -> Any:
    """Return a paho client for MQTT `version` ("5" or "3.1.1") with credentials and TLS set up, not connected.

    Raises
    ------
    UserError
        paho-mqtt is missing, or the password or CA file cannot be read.
    """
    try:
        import paho.mqtt.client as paho
    except ImportError:
        raise UserError("MQTT needs the paho-mqtt package (2.1 or later); pip install 'pdmu[agent]'") from None
    five = version == "5"
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2,
        client_id=(config.client_id or f"pdmu-{node}") + suffix,
        protocol=paho.MQTTv5 if five else paho.MQTTv311,
        clean_session=None if five else True,
    )
    client.connect_timeout = CONNECT_S
    if config.username:
        client.username_pw_set(config.username, read_password(config))
    if config.tls:
        try:
            client.tls_set_context(ssl.create_default_context(cafile=config.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"{config.ca_file}: cannot be used as a CA certificate file: {error}") from None
    return client


class Connection:
    """One connection, alive from the CONNACK until something breaks. Raises `Refused` when it cannot be had."""

    def __init__(self, client: Any, config: MqttConfig, wake: socket.socket | None = None, answer_s: float = CONNECT_S) -> None:
        self._client, self._wake = client, wake
        self.acks: list[tuple[int, int]] = []  # (message id, reason code) since last taken
        self.closed: str | None = None
        self._connack: Any = None
        client.on_connect = lambda c, u, flags, reason, properties: setattr(self, "_connack", reason)
        client.on_disconnect = lambda c, u, flags, reason, properties: setattr(self, "closed", str(reason))
        client.on_publish = lambda c, u, mid, reason, properties: self.acks.append((mid, reason.value))
        where = f"{config.host}:{config.port}"
        try:
            client.connect(config.host, config.port, keepalive=config.keepalive_s)
        except ssl.SSLError as error:
            raise Refused(f"{where}: TLS failed: {error.reason or error}; check mqtt.ca_file, the host name and the port") from None
        except socket.gaierror as error:
            raise Refused(f"{where}: the name cannot be resolved ({error.strerror}); check mqtt.host and the network") from None
        except OSError as error:
            hint = ", and is this its TLS port (mostly 8883)" if config.tls else ""
            raise Refused(f"{where}: cannot connect ({error.strerror or error}); is the broker running and reachable{hint}?") from None
        deadline = time.monotonic() + answer_s
        while self._connack is None and self.closed is None and time.monotonic() < deadline:
            self.turn(POLL_S)
        if self._connack is None:
            raise Refused(
                f"{where}: the broker closed the connection or did not answer; is this an MQTT port, and is mqtt.tls right?", protocol=True
            )
        if self._connack.is_failure:
            raise Refused(
                f"{where}: the broker refuses the login: {_login_advice(self._connack)}", self._connack.value == UNSUPPORTED_PROTOCOL
            )

    def turn(self, timeout_s: float) -> None:
        """Exchange what there is to exchange, waiting at most so long for something to happen."""
        sock = self._client.socket()
        if sock is None:
            self.closed = self.closed or "connection lost"
            return
        pending = hasattr(sock, "pending") and sock.pending() > 0
        watched = [sock] + ([self._wake] if self._wake else [])
        readable, writable, _ = select.select(watched, [sock] if self._client.want_write() else [], [], 0 if pending else timeout_s)
        if self._wake in readable:
            self._wake.recv(4096)  # type: ignore[union-attr]
        if pending or sock in readable:
            self._client.loop_read()
        if sock in writable:
            self._client.loop_write()
        self._client.loop_misc()

    def publish(self, topic: str, payload: str, retain: bool = False) -> int:
        """Publish at QoS 1 and return the message id its acknowledgement will carry."""
        return int(self._client.publish(topic, payload, qos=1, retain=retain).mid)

    def subscribe(self, filters: list[tuple[str, int]]) -> None:
        """Ask for the messages of these (topic filter, QoS)."""
        self._client.subscribe(filters)

    def take_acks(self) -> list[tuple[int, int]]:
        """Return the acknowledgements that came since the last call."""
        acks, self.acks = self.acks, []
        return acks

    def abandon(self, why: str) -> None:
        """Give up a connection that is of no use."""
        self.close()
        self.closed = why

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        if self._client.socket() is not None:
            self.turn(0.1)


def connect(config: MqttConfig, node: str, *, offline_topic: str | None = None, on_message: Callable[[str, bytes], None] | None = None,
            wake: socket.socket | None = None, suffix: str = "", first: str = "5") -> tuple[Connection, str]:  # fmt: skip
    """Connect with the version of MQTT the configuration names; with "auto", in the same breath, with the one the broker speaks.

    Parameters
    ----------
    offline_topic : str, optional
        Where the broker says ``offline``, retained, when this connection dies (the last will).
    on_message : callable, optional
        Takes the topic and the payload of each message received.
    wake : socket, optional
        Ends a wait of `Connection.turn` when it becomes readable.
    suffix : str
        Appended to the client id.
    first : str
        With "auto", the version to try first.

    Returns
    -------
    connection : Connection
    version : str
        "5" or "3.1.1".

    Raises
    ------
    Refused
        Unreachable, or the broker said no, to the last version tried.
    UserError
        See `make_client`.
    """
    versions = [config.protocol] if config.protocol != "auto" else [first, "3.1.1" if first == "5" else "5"]
    for version in versions:
        last = version == versions[-1]
        client = make_client(config, node, version, suffix)
        if offline_topic is not None:
            client.will_set(offline_topic, "offline", qos=1, retain=True)
        if on_message is not None:
            client.on_message = lambda _client, _userdata, m: on_message(m.topic, m.payload)
        try:
            return Connection(client, config, wake, CONNECT_S if last else PROBE_S), version
        except Refused as error:
            if last or not error.protocol:
                raise
    raise AssertionError("the last version either connects or raises")


def _login_advice(reason: Any) -> str:
    text = str(reason)
    if reason.value in (134, 135):  # bad user name or password, not authorised
        return f"{text}; check mqtt.username and the file mqtt.password_file names"
    return text


class MqttDelivery(threading.Thread):
    """The delivery thread.

    Parameters
    ----------
    config : MqttConfig
    topics : Topics
    outbox : Outbox
    announce : bool
        Say under ``status`` that the node is there, and have the broker say when it no longer is.
    info : str, optional
        JSON, retained under ``info`` at every connect; may be set anew at any time.
    report : callable
        Takes one line for the log; the same line is not repeated within a minute.

    Attributes
    ----------
    trouble : str or None
        Why nothing is being delivered at present.
    """

    def __init__(self, config: MqttConfig, topics: Topics, outbox: Outbox, report: Report, *, announce: bool = True,
                 info: str | None = None) -> None:  # fmt: skip
        super().__init__(name="mqtt", daemon=True)
        self.config, self.topics, self.outbox = config, topics, outbox
        self.announce, self.info = announce, info
        self.trouble: str | None = "not connected yet"
        self.delivered = 0
        self._report, self._said, self._said_at = report, "", 0.0
        self._stop_event = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._version = "5"  # with "auto", what to try first: what the broker spoke last
        self._refused_until: dict[int, float] = {}  # outbox id → monotonic time

    def wake(self) -> None:
        """Tell the thread that the outbox has something new."""
        try:
            self._wake_in.send(b"x")
        except BlockingIOError:
            return  # it has been told often enough already

    def run(self) -> None:
        """Connect and deliver until stopped, for ever."""
        failures = 0
        while not self._stop_event.is_set():
            connected_s = float("inf")
            try:
                connection = self._connect()
                connected_s = time.monotonic()
                self.trouble = None
                self._say(f"connected to {self.config.host}:{self.config.port} with MQTT {self._version}")
                self._deliver(connection)
            except (Refused, UserError) as error:
                self._say(str(error))
            except Exception as error:  # whatever a broker's bytes did to the client: a dead thread would never deliver again
                self._say(f"unexpected {type(error).__name__}: {error}\n{traceback.format_exc()}")
            # Full jitter over a doubling range: nodes that lost the same broker do not come back in step, and two that throw each other
            # out (one client id) or a broker that hangs up at once do not make a storm.
            failures = 0 if time.monotonic() - connected_s > STABLE_S else failures + 1
            limit = min(self.config.retry_max_s, 2.0 ** min(max(0, failures - 1), 10))
            self._stop_event.wait(random.uniform(0.2, limit))

    def stop(self, drain_s: float) -> bool:
        """Deliver what waits for at most `drain_s`, say ``offline`` and end; return whether the outbox was emptied."""
        deadline = time.monotonic() + drain_s
        while time.monotonic() < deadline and self.outbox.counts()["messages"]:
            self.wake()
            time.sleep(0.02)
        emptied = self.outbox.counts()["messages"] == 0
        self._stop_event.set()
        self.wake()
        self.join(timeout=2 * CONNECT_S)
        return emptied

    def _connect(self) -> Connection:
        topic = self.topics.of_node("status") if self.announce else None
        connection, self._version = connect(self.config, self.topics.node, offline_topic=topic, wake=self._wake_out, first=self._version)
        return connection

    def _deliver(self, connection: Connection) -> None:
        """Publish and take acknowledgements until the connection breaks or the thread is stopped."""
        if self.announce:
            connection.publish(self.topics.of_node("status"), "online", retain=True)
        info_said = None
        inflight: dict[int, Message] = {}  # by MQTT message id
        began_s = progress_s = time.monotonic()  # progress: the broker acknowledged something, or had nothing to acknowledge
        while connection.closed is None and not self._stop_event.is_set():
            now = time.monotonic()
            if (info := self.info) != info_said and info is not None:
                connection.publish(self.topics.of_node("info"), info, retain=True)
                info_said = info
            if self._settle(connection, inflight) or not inflight:
                progress_s = now
            elif now - progress_s > self.config.ack_timeout_s:
                connection.abandon(f"no acknowledgement for {self.config.ack_timeout_s:.0f} s")
                break
            held = [i for i, until in self._refused_until.items() if until > now]
            for m in self.outbox.waiting(self.config.inflight - len(inflight), [*(m.id for m in inflight.values()), *held]):
                topic, payload = self._outgoing(m)
                inflight[connection.publish(topic, payload, m.retain)] = m
            connection.turn(POLL_S)
        self._settle(connection, inflight)
        if self._stop_event.is_set():
            if connection.closed is None:
                if self.announce:
                    connection.publish(self.topics.of_node("status"), "offline", retain=True)
                    connection.turn(POLL_S)
                connection.close()
            return
        where, hint = f"{self.config.host}:{self.config.port}", ""
        if time.monotonic() - began_s < STABLE_S:  # not every broker says so when it lets a second client of one id in
            hint = f" (it held shortly: does another node use the name {self.topics.node}? give each its own agent.node)"
        self._say(f"connection to {where} lost ({connection.closed}); {len(inflight)} messages will be sent again{hint}")

    def _settle(self, connection: Connection, inflight: dict[int, Message]) -> bool:
        """Do what the acknowledgements that came ask for; return whether there were any."""
        done = []
        acks = connection.take_acks()
        for mid, reason in acks:
            m = inflight.pop(mid, None)
            if m is None:
                continue  # status or info
            if reason >= 0x80:
                self._refused_until[m.id] = time.monotonic() + REFUSED_PAUSE_S
                self._say(f"the broker refuses messages to {m.topic} (reason {reason}); they are kept: check the broker's access rules")
            else:
                done.append(m.id)
                self._refused_until.pop(m.id, None)
        if done:
            self.delivered += len(done)
            self.outbox.acknowledge(done)
            if not self._refused_until:
                self.trouble = None
        return bool(acks)

    def _outgoing(self, m: Message) -> tuple[str, str]:
        if m.kind == "detection" and time.time() - m.created_s > self.config.replay_after_s:
            return self.topics.of_node("replay"), json.dumps(json.loads(m.payload) | {"historical": True}, separators=(",", ":"))
        return m.topic, m.payload

    def _say(self, text: str) -> None:
        """Log a line, and remember it as the trouble unless it is good news; the same line at most once a minute."""
        if not text.startswith("connected"):
            self.trouble = text
        if text != self._said or time.monotonic() - self._said_at > 60:
            self._report(f"mqtt: {text}")
            self._said, self._said_at = text, time.monotonic()
