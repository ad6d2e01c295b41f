"""A TCP forwarder between an MQTT client and its broker that notes when each PUBLISH was acknowledged, in either version of MQTT."""

from __future__ import annotations

import json
import socket
import threading
import time
from types import TracebackType
from typing import Any, NamedTuple

PUBLISH, PUBACK, CONNECT = 3, 4, 1


class Acknowledged(NamedTuple):
    """A published JSON message and the moment its PUBACK came from the broker."""

    topic: str
    payload: Any
    monotonic_s: float


def split_packets(buffer: bytearray) -> list[tuple[int, int, bytes]]:
    """Take the complete MQTT packets off the front of `buffer`; return (type, flags, body) of each."""
    packets: list[tuple[int, int, bytes]] = []
    while len(buffer) >= 2:
        length, at = 0, 1
        while True:
            if at >= len(buffer):
                return packets
            length |= (buffer[at] & 127) << 7 * (at - 1)
            at += 1
            if buffer[at - 1] < 128:
                break
        if len(buffer) < at + length:
            return packets
        packets.append((buffer[0] >> 4, buffer[0] & 15, bytes(buffer[at : at + length])))
        del buffer[: at + length]
    return packets


class MqttTap:
    """Listens on a free loopback port, forwards one connection after another to the broker, and keeps `acknowledged`."""

    def __init__(self, broker_port: int) -> None:
        self.acknowledged: list[Acknowledged] = []
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._waiting: dict[int, tuple[str, bytes]] = {}
        self._version = 4

    def __enter__(self) -> MqttTap:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the context has ended
                return
            broker = socket.create_connection(("127.0.0.1", self._broker_port))
            for end in (client, broker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._forward, args=(client, broker, self._from_client), daemon=True).start()
            threading.Thread(target=self._forward, args=(broker, client, self._from_broker), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket, note: Any) -> None:
        buffer = bytearray()
        try:
            while data := source.recv(65536):
                now_s = time.monotonic()
                buffer += data
                for packet in split_packets(buffer):
                    note(packet, now_s)
                target.sendall(data)
        except OSError:  # one side has closed; the other learns of it below
            pass
        finally:
            for end in (source, target):
                end.close()

    def _from_client(self, packet: tuple[int, int, bytes], now_s: float) -> None:
        kind, flags, body = packet
        if kind == CONNECT:
            self._version = body[2 + int.from_bytes(body[:2], "big")]
        if kind != PUBLISH or not flags & 0b110:
            return
        end = 2 + int.from_bytes(body[:2], "big")
        topic, identifier, at = body[2:end].decode(), int.from_bytes(body[end : end + 2], "big"), end + 2
        if self._version == 5:
            if body[at] > 127:
                raise ValueError("MQTT 5 properties of more than 127 bytes are not read here")
            at += 1 + body[at]
        self._waiting[identifier] = (topic, body[at:])

    def _from_broker(self, packet: tuple[int, int, bytes], now_s: float) -> None:
        kind, _, body = packet
        if kind == PUBACK:
            topic, payload = self._waiting.pop(int.from_bytes(body[:2], "big"))
            if topic.endswith("/detection"):
                self.acknowledged.append(Acknowledged(topic, json.loads(payload), now_s))
