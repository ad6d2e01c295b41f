"""`pdmu-agent check`: every stage from the configuration to the golden self-test, each ok, failed or skipped, with the way out."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edge_agent.agent import load_listeners, make_source, shortest_step_s
from edge_agent.alsa import AlsaSource
from edge_agent.audio import FileSource
from edge_agent.board import connect as connect_board
from edge_agent.channel import Listener
from edge_agent.config import AgentConfig, read_config
from edge_agent.events import Topics
from edge_agent.mqtt import CONNECT_S, Connection, Refused, connect
from edge_agent.outbox import Outbox
from edge_agent.serial_port import parse_address
from pdmu.errors import UserError

Status = Literal["ok", "failed", "skipped"]


class Stage(NamedTuple):
    """The outcome of one stage."""

    name: str
    status: Status
    detail: str
    ms: float = 0.0


def run_check(path: Path | None, overrides: list[str]) -> Iterator[Stage]:
    """Yield the stages as they are done. A stage that needs a failed one is skipped; the others still run."""
    began = time.monotonic()
    try:
        config = read_config(path, overrides=overrides)
    except UserError as error:
        yield Stage("config", "failed", str(error))
        return
    yield Stage("config", "ok", f"node {config.agent.node}, {len(config.source)} sources, {len(config.model)} models", _ms(began))
    yield _stage("outbox", lambda: _outbox(config))
    yield from _broker_stages(config)
    for source in config.source:
        yield _stage(f"source {source.name}", lambda source=source: _source(config, source))  # type: ignore[misc]
    listeners: list[Listener] = []
    if not config.model and config.source and all(s.type == "serial" for s in config.source):
        yield Stage("model", "skipped", "none is configured: boards bring their own")
        return
    yield _stage("model", lambda: _models(config, listeners))
    for x in listeners:
        yield _stage(f"self-test {x.path.name}", lambda x=x: _self_test(x))  # type: ignore[misc]


def _ms(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)


def _stage(name: str, work: Callable[[], str]) -> Stage:
    began = time.monotonic()
    try:
        return Stage(name, "ok", work(), _ms(began))
    except (UserError, Refused) as error:
        return Stage(name, "failed", str(error), _ms(began))


def _outbox(config: AgentConfig) -> str:
    outbox = Outbox(config.outbox_path, config.outbox)
    try:
        if outbox.trouble:
            raise UserError(outbox.trouble)
        return f"{config.outbox_path}: {outbox.counts()['messages']} messages wait"
    finally:
        outbox.close()


def _broker_stages(config: AgentConfig) -> Iterator[Stage]:
    """Yield DNS, TCP, TLS, login and publish, skipping what a failure makes pointless."""
    mqtt = config.mqtt
    addresses: list[Any] = []
    connections: list[Connection] = []
    work: list[tuple[str, Callable[[], str]]] = [
        ("DNS", lambda: _resolve(mqtt.host, mqtt.port, addresses)),
        ("TCP", lambda: _tcp(mqtt.host, mqtt.port)),
        ("TLS", lambda: _tls(mqtt.host, mqtt.port, mqtt.ca_file)),
        ("login", lambda: _login(config, connections)),
        ("publish", lambda: _publish(config, connections[0])),
    ]
    failed = ""
    for name, do in work:
        if failed:
            yield Stage(name, "skipped", f"{failed} failed")
        elif name == "TLS" and not mqtt.tls:
            yield Stage(name, "skipped", "mqtt.tls is false")
        else:
            stage = _stage(name, do)
            failed = name if stage.status == "failed" else ""
            yield stage
    for connection in connections:
        connection.close()


def _resolve(host: str, port: int, found: list[Any]) -> str:
    try:
        found += socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"'{host}' cannot be resolved ({error.strerror}); check mqtt.host and the network's name server") from None
    return ", ".join(sorted({str(a[4][0]) for a in found}))


def _tcp(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(f"{host}:{port}: {error.strerror or error}; is the broker running, and is the port open in the firewall?") from None
    return f"{host}:{port} accepts connections"


def _tls(host: str, port: int, ca_file: str | None) -> str:
    try:
        context = ssl.create_default_context(cafile=ca_file)
        with socket.create_connection((host, port), timeout=CONNECT_S) as raw, context.wrap_socket(raw, server_hostname=host) as secured:
            return str(secured.version())
    except OSError as error:  # ssl.SSLError is one
        raise UserError(
            f"TLS with {host}:{port} failed: {error}; check mqtt.ca_file, the host name in the certificate and the port"
        ) from None


def _login(config: AgentConfig, connections: list[Connection]) -> str:
    # A client id of its own: the agent that may be running must not be thrown out by its check.
    connection, version = connect(config.mqtt, config.agent.node, suffix=f"-check-{uuid.uuid4().hex[:6]}")
    connections.append(connection)
    return f"accepted with MQTT {version}"


def _publish(config: AgentConfig, connection: Connection) -> str:
    topic = Topics(config.agent.node).of_node("check")
    mid, began = connection.publish(topic, json.dumps({"schema": "pdmu.check/1", "node": config.agent.node})), time.monotonic()
    while time.monotonic() - began < CONNECT_S and connection.closed is None:
        connection.turn(0.1)
        for acked, reason in connection.take_acks():
            if acked == mid:
                if reason >= 0x80:
                    raise UserError(f"the broker refuses messages to {topic} (reason {reason}); check its access rules")
                return f"{topic} acknowledged in {_ms(began)} ms"
    raise UserError(f"{topic} was not acknowledged within {CONNECT_S:.0f} s ({connection.closed or 'no answer'}); check the broker's log")


def _source(config: AgentConfig, source_config: Any) -> str:
    if source_config.type == "stdin":
        return "stdin is not read by a check"
    if source_config.type == "serial":
        board, hello = connect_board(parse_address(source_config.port), source_config.baud)
        board.port.close()
        return f"{hello.board} on {board.port.where} runs {hello.model} {hello.version}, bundle {hello.sha256[:12]}"
    source = make_source(source_config, source_config.rate_hz or 16000, 0.032, threading.Event())
    try:
        if isinstance(source, AlsaSource):
            block = source.once()
            return f"{source_config.device} delivers audio" + (" (all samples zero: is it muted?)" if not block.pcm.any() else "")
        assert isinstance(source, FileSource)
        return f"{source_config.path}: {source.duration_s:.1f} s at {source.rate_hz} Hz"
    finally:
        source.close()


def _models(config: AgentConfig, listeners: list[Listener]) -> str:
    listeners += load_listeners(config)
    step_s = shortest_step_s(listeners)
    names = [
        f"{x.path.name} {x.bundle.sha256[:12]} on {x.backend.runtime} {x.backend.quant}, "
        f"licence {x.bundle.info.get('licence', 'not stated')}"
        for x in listeners
    ]
    return "; ".join(names) + f"; step {step_s * 1000:.0f} ms"


def _self_test(listener: Listener) -> str:
    listener.self_test()
    return "the golden signal gives the promised scores"
