"""The tap must read MQTT however TCP cuts it."""

from __future__ import annotations

import time

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common import find_mosquitto, mosquitto
from benchmarks.mqtt_tap import MqttTap, split_packets


def encode(kind: int, flags: int, body: bytes) -> bytes:
    """Return one MQTT packet."""
    length, field = len(body), bytearray()
    while True:
        length, low = length >> 7, length & 127
        field.append(low | (128 if length else 0))
        if not length:
            return bytes([kind << 4 | flags]) + bytes(field) + body


@given(
    st.lists(st.tuples(st.integers(1, 14), st.integers(0, 15), st.integers(0, 20_000)), max_size=4),
    st.lists(st.integers(0, 80_000), max_size=6),
)
def test_packets_survive_any_cut(packets: list[tuple[int, int, int]], cuts: list[int]) -> None:
    sent = [(kind, flags, b"x" * length) for kind, flags, length in packets]
    wire = b"".join(encode(*packet) for packet in sent)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    buffer, received = bytearray(), []
    for a, b in zip(edges, edges[1:], strict=False):
        buffer += wire[a:b]
        received += split_packets(buffer)
    assert received == sent
    assert not buffer


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
@pytest.mark.parametrize("version", [mqtt.MQTTv311, mqtt.MQTTv5])
def test_acknowledged_messages_are_noted(version: mqtt.MQTTProtocolVersion) -> None:
    with mosquitto() as port, MqttTap(port) as tap:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=version)
        client.connect("127.0.0.1", tap.port)
        client.loop_start()
        before_s = time.monotonic()
        client.publish("pdmu/n/mic/detection", '{"id": 7}', qos=1).wait_for_publish(5)
        client.publish("pdmu/n/mic/health", "{}", qos=1).wait_for_publish(5)
        after_s = time.monotonic()
        client.disconnect()
        client.loop_stop()
    (noted,) = tap.acknowledged
    assert (noted.topic, noted.payload) == ("pdmu/n/mic/detection", {"id": 7})
    assert before_s < noted.monotonic_s < after_s
