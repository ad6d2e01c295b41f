"""What a board hears becomes stored messages, each detection once.

A detection is on disk, together with its number, before the board may forget it. Its id is made of (boot, number, node, source), so
whatever is heard again after a cut line, a killed bridge or a full disk is known for what it is.
"""

from __future__ import annotations

import time
from enum import Enum, auto
from typing import NamedTuple

from edge_agent.agent import OnDetection
from edge_agent.board_messages import BoardEvent, BoardHealth, Hello, Kept
from edge_agent.channel import Found
from edge_agent.config import AgentConfig
from edge_agent.console.board_clock import BoardClock
from edge_agent.console.heard import event_id, found_event
from edge_agent.events import MinuteLimit, ModelFacts, Topics, clock_info, detection, rejection
from edge_agent.health import Health
from edge_agent.outbox import Outbox, message
from edge_agent.ports import Delivery
from pdmu.config import to_dict
from pdmu.detector import Rejected
from pdmu.errors import UserError

LOST_TOLD_S = 1.0  # beyond an interval of health reports, so that one of them tells


class Counts(NamedTuple):
    """What has come from a board."""

    detections: int = 0  # stored
    repeated: int = 0  # heard again, and not stored again
    lost: int = 0  # that the board had no memory left for


class Answer(Enum):
    """What the board is to be told after an event."""

    NOTHING = auto()
    ACKNOWLEDGE = auto()
    RESEND = auto()  # one before it is missing


class Intake:
    """The messages of one source.

    Attributes
    ----------
    counts : Counts
    last : int
        Everything up to this number is on disk, or was acknowledged by somebody before.
    """

    def __init__(self, config: AgentConfig, source: str, outbox: Outbox, delivery: Delivery, on_detection: OnDetection) -> None:
        self.health = Health(config.agent.node, source)
        self.counts, self.last = Counts(), 0
        self._node, self._source, self._outbox, self._delivery = config.agent.node, source, outbox, delivery
        self._on_detection, self._topics = on_detection, Topics(config.agent.node)
        self._rejections = MinuteLimit(config.agent.rejected_per_minute)
        self._boot, self._samples_from, self._lost, self._dropped = 0, 0, 0, 0  # of the board's present run
        self._lost_trouble_s, self._lost_until_s = config.agent.health_interval_s + LOST_TOLD_S, 0.0
        self._model: ModelFacts
        self._clock: BoardClock

    def meet(self, hello: Hello, model: ModelFacts) -> None:
        """Begin with a board, or go on with one that came back.

        Raises
        ------
        UserError
            It counts anew what has been stored by the same name.
        """
        last = self.last if hello.boot == self._boot else self._outbox.mark(self._mark(hello.boot))
        if hello.next_seq - 1 < last:
            raise UserError(
                f"the board's next detection is {hello.next_seq}, but {last} of its run {hello.boot:016x} are known: it has begun anew by "
                "an old name, and its detections cannot be told from those; restart it: pdmu-console hello --reboot"
            )
        if hello.boot != self._boot:
            self._lost, self._dropped, self.last = 0, 0, last
        if (hello.boot, hello.source) != (self._boot, self._samples_from):
            self._clock = BoardClock(model.sample_rate_hz)
        self._clock.doubt()
        self._boot, self._samples_from, self._model = hello.boot, hello.source, model

    @property
    def trouble(self) -> str | None:
        """That the board has lost detections, for as long as it takes to be in a health report."""
        if time.monotonic() >= self._lost_until_s:
            return None
        return f"the board had no memory left for {self._lost} detections since its start: they are lost; was the bridge or the line away?"

    @property
    def dated(self) -> bool:
        """Whether events can be dated: the board has told its count of samples."""
        return self._clock.set

    def _mark(self, boot: int) -> str:
        return f"board/{self._source}/{boot:016x}"

    def told_health(self, health: BoardHealth) -> None:
        """Take a HEALTH."""
        advance = self._clock.observe(health.samples, health.uptime_ms, time.monotonic())
        self.health.told(advance, health.rms, health.clipped, int(health.dropped > self._dropped))
        self._dropped = health.dropped
        self._note_lost(health.lost)

    def told_kept(self, kept: Kept) -> None:
        """Take RESEND's reply: what it no longer keeps was acknowledged by somebody, or is counted as lost."""
        self.last = max(self.last, kept.first - 1)
        self._note_lost(kept.lost)

    def told_event(self, event: BoardEvent) -> Answer:
        """Take an EVENT and store what it is worth."""
        if not self.dated:
            return Answer.NOTHING  # it comes again until it is acknowledged
        heard = found_event(event, self._model)
        self._note_lost(event.lost)
        if isinstance(heard, Rejected):
            self._reject(heard)
            return Answer.NOTHING
        if event.seq > self.last + 1:
            return Answer.RESEND
        if event.seq > self.last:
            saved = self._store(event.seq, heard)
        else:
            self.counts = self.counts._replace(repeated=self.counts.repeated + 1)
            saved = self._outbox.put([])
        return Answer.ACKNOWLEDGE if saved else Answer.NOTHING

    def _store(self, seq: int, found: Found) -> bool:
        age_s = self._age_s(found.event.end_sample)
        start_s = time.time() - age_s - found.event.end_sample / self._model.sample_rate_hz
        made = detection(
            found, self._model, node=self._node, source=self._source, seq=self._outbox.next_seq(f"seq/{self._source}"), start_s=start_s,
            clock=clock_info(), latency_s=age_s, event_id=event_id(self._boot, seq, self._node, self._source),
        )  # fmt: skip
        payload = to_dict(made)
        messages = [message("detection", self._topics.of_source(self._source, "detection"), payload, age_s=age_s),
                    message("state", self._topics.of_source(self._source, "state"), payload, retain=True)]  # fmt: skip
        saved = self._outbox.put(messages, {self._mark(self._boot): seq})
        self.last = seq
        self.counts = self.counts._replace(detections=self.counts.detections + 1)
        self.health.detected(1, age_s)
        self._delivery.wake()
        self._on_detection(made)
        return saved

    def _reject(self, rejected: Rejected) -> None:
        if not self._rejections.passes():
            return
        end_sample = rejected.end_step * self._model.samples_per_step
        start_s = time.time() - self._age_s(end_sample) - end_sample / self._model.sample_rate_hz
        payload = rejection(rejected, self._model, node=self._node, source=self._source, start_s=start_s)
        self._outbox.put([message("rejected", self._topics.of_source(self._source, "rejected"), payload)])
        self._delivery.wake()

    def _age_s(self, end_sample: int) -> float:
        return self._clock.age_s(end_sample, time.monotonic())

    def _note_lost(self, lost: int) -> None:
        if lost > self._lost:
            self.counts = self.counts._replace(lost=self.counts.lost + lost - self._lost)
            self._lost, self._lost_until_s = lost, time.monotonic() + self._lost_trouble_s
