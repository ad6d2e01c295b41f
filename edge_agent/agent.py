"""The agent: read → classify → detect → persist → publish, a thread for each source, one for the broker."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from edge_agent.alsa import AlsaSource
from edge_agent.audio import FileSource, RawSource
from edge_agent.channel import Channel, Listener, Turn, listen, load_listener
from edge_agent.config import AgentConfig, SourceConfig
from edge_agent.events import Detection, MinuteLimit, StreamClock, Topics, clock_info, detection, model_facts, node_info, rejection
from edge_agent.health import Health
from edge_agent.mqtt import MqttDelivery, Report
from edge_agent.outbox import Message, Outbox, OutboxLock, message
from edge_agent.ports import Delivery, Source
from pdmu.config import to_dict
from pdmu.errors import UserError

FILE_BLOCK_S = 1.0  # audio that does not arrive in real time is taken in blocks of this length

OnDetection = Callable[[Detection], None]


class HearingThread(Protocol):
    """What `serve` asks of a thread that turns sound into stored messages."""

    name: str  # of the source
    health: Health
    error: Exception | None  # what it ended with

    @property
    def trouble(self) -> str | None:
        """What keeps audio from coming at present, in words; None when all is well."""
        ...

    def start(self) -> None:
        """Begin."""
        ...

    def is_alive(self) -> bool:
        """Whether it still works."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        ...


def make_source(config: SourceConfig, rate_out_hz: int, step_s: float, stop: threading.Event) -> Source:
    """Return the source a configuration describes.

    Parameters
    ----------
    rate_out_hz : int
        The models' rate.
    step_s : float
        Length of the shortest model step: live audio comes in blocks no longer.
    """
    quality = config.resample_quality
    if config.type == "serial":
        raise UserError(f"source {config.name}: a board hears for itself; start: pdmu-console bridge --source {config.name}")
    if config.type == "file":
        block_s = step_s if config.realtime else FILE_BLOCK_S
        return FileSource(Path(config.path or ""), rate_out_hz, block_s, name=config.name, stop=stop, realtime=config.realtime,
                          rate_hz=config.rate_hz, quality=quality)  # fmt: skip
    rate_hz = config.rate_hz or rate_out_hz
    if config.type == "stdin":
        if sys.stdin is None:
            raise UserError(f"source {config.name}: standard input is closed; pipe PCM into it, or choose another type of source")
        return RawSource(sys.stdin.buffer, rate_hz, config.channels, rate_out_hz, name=config.name, stop=stop, quality=quality,
                         block_s=FILE_BLOCK_S)  # fmt: skip
    return AlsaSource(config.device, rate_hz, config.channels, rate_out_hz, name=config.name, stop=stop, quality=quality, block_s=step_s)


def load_listeners(config: AgentConfig) -> list[Listener]:
    """Load every configured bundle with its backend; all must want the same sample rate."""
    if not config.model:
        raise UserError('no model is configured: add [[model]] with bundle = "…" to the configuration')
    listeners = [
        load_listener(Path(m.bundle), m.backend, m.precision, m.thresholds, Path(m.library) if m.library else None) for m in config.model
    ]
    rates = {x.bundle.frontend.sample_rate_hz for x in listeners}
    if len(rates) > 1:
        raise UserError(f"the bundles want different sample rates ({', '.join(map(str, sorted(rates)))} Hz): run one agent for each")
    return listeners


def shortest_step_s(listeners: list[Listener]) -> float:
    """Return the length of the shortest model step, seconds."""
    return min(x.bundle.samples_per_step / x.bundle.frontend.sample_rate_hz for x in listeners)


class SourceThread(threading.Thread):
    """One source, from its audio to stored messages."""

    def __init__(self, config: AgentConfig, source: Source, listeners: list[Listener], outbox: Outbox, delivery: Delivery,
                 on_detection: OnDetection) -> None:  # fmt: skip
        super().__init__(name=source.name, daemon=True)
        self.source, self.health = source, Health(config.agent.node, source.name)
        self.error: Exception | None = None
        self._config, self._outbox, self._delivery, self._on_detection = config, outbox, delivery, on_detection
        self._topics = Topics(config.agent.node)
        self._channels, self._models = [Channel(x) for x in listeners], [model_facts(x) for x in listeners]
        self._clock = StreamClock(listeners[0].bundle.frontend.sample_rate_hz, source.live)
        self._rejections = MinuteLimit(config.agent.rejected_per_minute)

    @property
    def trouble(self) -> str | None:
        """The source's own."""
        return self.source.trouble

    def run(self) -> None:
        """Work until the source ends; what went wrong is left in `error`."""
        try:
            for turn in listen(self.source, self._channels):
                self._handle(turn)
        except UserError as error:
            self.error = error
        except Exception as error:  # a thread's exception would otherwise vanish: the agent ends on it
            traceback.print_exc()
            self.error = error
        finally:
            self.source.close()

    def _handle(self, turn: Turn) -> None:
        self._clock.observe(len(turn.block.pcm), time.time())
        messages: list[Message] = []
        found: list[Detection] = []
        node, name = self._config.agent.node, self.source.name
        for model, heard in zip(self._models, turn.heard, strict=True):
            for one in heard.found:
                seq = self._outbox.next_seq(f"seq/{name}")
                latency_s = time.monotonic() - turn.arrived_s
                start_s = self._clock.start_s(one.event.onset_sample)
                found.append(
                    detection(one, model, node=node, source=name, seq=seq, start_s=start_s, clock=clock_info(), latency_s=latency_s)
                )
            for rejected in heard.rejected:
                if self._rejections.passes():
                    start_s = self._clock.start_s(rejected.onset_step * model.samples_per_step)
                    payload = rejection(rejected, model, node=node, source=name, start_s=start_s)
                    messages.append(message("rejected", self._topics.of_source(name, "rejected"), payload))
        messages += [message("detection", self._topics.of_source(name, "detection"), to_dict(d)) for d in found]
        if found:
            messages.append(message("state", self._topics.of_source(name, "state"), to_dict(found[-1]), retain=True))
        if messages:
            self._outbox.put(messages)
            self._delivery.wake()
        self.health.heard(turn.block, time.monotonic() - turn.arrived_s)
        self.health.detected(len(found))
        for d in found:
            self._on_detection(d)


def run_agent(config: AgentConfig, stop: threading.Event, report: Report, on_detection: OnDetection) -> int:
    """Run until every source has ended or `stop` is set; then deliver what waits, as far as the broker lets us.

    Parameters
    ----------
    report : callable
        Takes one line for the log.
    on_detection : callable
        Called from a source's thread after a detection is stored.

    Returns
    -------
    int
        Exit status: 0, or 1 when a source failed.

    Raises
    ------
    UserError
        The agent cannot start as configured.
    """
    if not config.source:
        raise UserError('no source is configured: add [[source]] to the configuration, for example type = "alsa" and device = "default"')
    # A backend belongs to one thread, so every source has its own.
    listeners = [load_listeners(config) for _ in config.source]
    if config.agent.self_test:
        for listener in listeners[0]:
            listener.self_test()
    rate_hz = listeners[0][0].bundle.frontend.sample_rate_hz
    sources = [make_source(s, rate_hz, shortest_step_s(listeners[0]), stop) for s in config.source]

    def threads(outbox: Outbox, delivery: MqttDelivery) -> list[HearingThread]:
        delivery.info = json.dumps(node_info(config.agent.node, map(model_facts, listeners[0]), config.hash))
        return [SourceThread(config, s, x, outbox, delivery, on_detection) for s, x in zip(sources, listeners, strict=True)]

    return serve(config, threads, stop, report)


def serve(config: AgentConfig, make_threads: Callable[[Outbox, MqttDelivery], Sequence[HearingThread]], stop: threading.Event,
          report: Report) -> int:  # fmt: skip
    """Run threads that hear, and deliver what they store, as `run_agent` does."""
    lock = OutboxLock(config.outbox_path)
    outbox = Outbox(config.outbox_path, config.outbox)
    if outbox.set_aside:
        report(f"outbox: {config.outbox_path} was damaged; it is kept as {outbox.set_aside} and a new one is used")
    waiting = outbox.counts()["messages"]
    if waiting:
        report(f"outbox: {waiting} messages from before will be delivered")
    delivery = MqttDelivery(config.mqtt, Topics(config.agent.node), outbox, report)
    threads = make_threads(outbox, delivery)
    delivery.start()
    for thread in threads:
        thread.start()
    _supervise(config, threads, outbox, delivery, stop, report)
    for thread in threads:
        thread.join(timeout=10)
    delivery.stop(config.agent.drain_s)
    left = outbox.counts()
    outbox.close()
    lost, kept = left["unsaved"], left["messages"] - left["unsaved"]
    if kept:
        report(f"outbox: {kept} messages wait in {config.outbox_path} and are delivered after the next start")
    if lost:
        report(f"outbox: error: {lost} messages could neither be stored nor delivered and are lost: {outbox.trouble}")
    lock.release()
    return 1 if lost or any(t.error for t in threads) else 0


def _supervise(config: AgentConfig, threads: Sequence[HearingThread], outbox: Outbox, delivery: MqttDelivery, stop: threading.Event,
               report: Report) -> None:  # fmt: skip
    """Report health until the sources end; each trouble is logged when it begins, changes and ends."""
    said: dict[str, str | None] = {}
    topics, next_s = Topics(config.agent.node), time.monotonic() + config.agent.health_interval_s
    while True:
        alive = any(t.is_alive() for t in threads)
        troubles = {f"source {t.name}": t.trouble for t in threads} | {"outbox": outbox.trouble}
        for t in threads:
            if t.error is not None:
                troubles[f"source {t.name}"] = str(t.error)
                if not isinstance(t.error, UserError):
                    stop.set()
        for what, trouble in troubles.items():
            if trouble != said.get(what):
                report(f"{what}: {'error: ' + trouble if trouble else 'works again'}")
                said[what] = trouble
        if not alive or stop.is_set() or time.monotonic() >= next_s:
            now_troubles = [f"{k}: {v}" for k, v in troubles.items() if v] + ([f"mqtt: {delivery.trouble}"] if delivery.trouble else [])
            counts = outbox.counts()
            outbox.put(
                message("health", topics.of_source(t.name, "health"), t.health.report(time.time(), counts, now_troubles)) for t in threads
            )
            delivery.wake()
            next_s += config.agent.health_interval_s
        if not alive or stop.is_set():
            return
        stop.wait(min(0.5, max(0.0, next_s - time.monotonic())) or 0.01)
