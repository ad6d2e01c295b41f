"""An MQTT subscriber that knows nothing of the agent but its topics and the shape of its messages."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from types import TracebackType
from typing import Any

import paho.mqtt.client as mqtt

CONNECT_TIMEOUT_S = 10.0


class Subscriber:
    """Hears everything a node says; hands each detection to `on_detection` and keeps it in `detections`.

    Parameters
    ----------
    host, port
        The broker.
    node : str
        The node to listen to.
    on_detection : callable
        Called with each detection's payload, on the client's network thread.
    """

    def __init__(self, host: str, port: int, node: str, on_detection: Callable[[dict[str, Any]], None]) -> None:
        self.detections: list[dict[str, Any]] = []
        self.status: list[str] = []
        self._node, self._on_detection = node, on_detection
        self._subscribed: queue.Queue[bool] = queue.Queue()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="demo-subscriber")
        self._client.on_connect = lambda client, *_: client.subscribe(f"pdmu/{node}/#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.put(True)
        self._client.on_message = self._received
        self._client.connect(host, port)

    def _received(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic == f"pdmu/{self._node}/status":
            self.status.append(message.payload.decode())
        elif message.topic.endswith(("/detection", "/replay")):
            detection = json.loads(message.payload)
            self.detections.append(detection)
            self._on_detection(detection)

    def __enter__(self) -> Subscriber:
        self._client.loop_start()
        self._subscribed.get(timeout=CONNECT_TIMEOUT_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()
