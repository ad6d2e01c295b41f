"""The messages: their fields, their topics, and the clock that dates them. `schema/` holds the JSON Schemas."""

from __future__ import annotations

import ctypes
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.channel import Found, Listener
from pdmu import __version__
from pdmu.config import to_dict
from pdmu.detector import Rejected

SCHEMA_DIR = Path(__file__).resolve().parent / "schema"


@dataclass(frozen=True)
class ClockInfo:
    """How far the system clock can be trusted."""

    src: str  # "ntp" when the kernel's clock is disciplined, else "system"
    synced: bool
    err_ms: int | None  # the kernel's bound on the error


@dataclass(frozen=True)
class ModelInfo:
    """Which model spoke, on what."""

    name: str
    version: str
    sha256: str
    runtime: str
    quant: str


@dataclass(frozen=True)
class AudioInfo:
    """Level of the sound of one event."""

    rms_dbfs: float
    clipped: float


@dataclass(frozen=True)
class Detection:
    """One detected sound: field for field the payload of ``pdmu/<node>/<source>/detection``."""

    schema: str
    id: str
    node: str
    source: str
    seq: int
    ts: str  # UTC of the onset
    utc_offset_s: int  # of local time then
    clock: ClockInfo
    t_start_s: float  # onset since the start of the stream, by the sample clock
    dur_s: float
    label: str
    task: str
    score: float  # largest smoothed score
    threshold: float
    model: ModelInfo
    audio: AudioInfo
    latency_ms: int  # from the arrival of the audio that completed the event to this message
    historical: bool = False
    clip: str | None = None
    privacy: str = "no_audio"


class ModelFacts(NamedTuple):
    """What messages and printed lines say about the model that spoke, wherever it runs."""

    info: ModelInfo
    task: str
    contract: str  # whole, or its first digits as a board tells them
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]  # 0 … 1
    sample_rate_hz: int
    samples_per_step: int
    band_hz: tuple[float, float]  # what the front end hears

    @property
    def step_s(self) -> float:
        """Length of a model step, seconds."""
        return self.samples_per_step / self.sample_rate_hz


def model_facts(listener: Listener) -> ModelFacts:
    """Return the facts about a listener's model."""
    bundle, backend = listener.bundle, listener.backend
    name = str(bundle.info.get("name") or listener.path.stem)
    return ModelFacts(
        ModelInfo(name, str(bundle.info.get("version", "0")), bundle.sha256, backend.runtime, backend.quant),
        str(bundle.info.get("task", "")), bundle.contract, bundle.labels, tuple(map(listener.threshold, range(len(bundle.labels)))),
        bundle.frontend.sample_rate_hz, bundle.samples_per_step, (bundle.frontend.f_min_hz, bundle.frontend.f_max_hz),
    )  # fmt: skip


def detection(found: Found, model: ModelFacts, *, node: str, source: str, seq: int, start_s: float, clock: ClockInfo, latency_s: float,
              event_id: uuid.UUID | None = None) -> Detection:  # fmt: skip
    """Make the message of an event.

    Parameters
    ----------
    start_s : float
        POSIX time of the stream's first sample.
    latency_s : float
        See `Detection.latency_ms`.
    event_id : UUID, optional
        Of an event that may be heard of again; a new one otherwise.
    """
    event, rate = found.event, model.sample_rate_hz
    begin_s = event.onset_sample / rate
    return Detection(
        schema="pdmu.detection/1", id=str(event_id or uuid.uuid4()), node=node, source=source, seq=seq, ts=utc(start_s + begin_s),
        utc_offset_s=local_offset_s(start_s + begin_s), clock=clock, t_start_s=round(begin_s, 4),
        dur_s=round((event.end_sample - event.onset_sample) / rate, 4), label=model.labels[event.label],
        task=model.task, score=round(event.score, 4), threshold=round(model.thresholds[event.label], 4),
        model=model.info, audio=AudioInfo(round(found.rms_dbfs, 1), round(found.clipped, 5)), latency_ms=round(latency_s * 1000),
    )  # fmt: skip


def rejection(rejected: Rejected, model: ModelFacts, *, node: str, source: str, start_s: float) -> dict[str, Any]:
    """Make the payload of ``rejected``: what was suppressed, and why."""
    step_s = model.step_s
    return {
        "schema": "pdmu.rejected/1", "node": node, "source": source, "ts": utc(start_s + rejected.onset_step * step_s),
        "t_start_s": round(rejected.onset_step * step_s, 4), "dur_s": round((rejected.end_step - rejected.onset_step) * step_s, 4),
        "label": model.labels[rejected.label], "score": round(rejected.score, 4),
        "threshold": round(model.thresholds[rejected.label], 4), "reason": rejected.reason,
    }  # fmt: skip


def node_info(node: str, models: Iterable[ModelFacts], config_hash: str) -> dict[str, Any]:
    """Make the retained payload of ``info``."""
    listed = [to_dict(m.info) | {"labels": list(m.labels), "contract": m.contract} for m in models]
    return {"schema": "pdmu.info/1", "node": node, "agent": __version__, "config_hash": config_hash, "models": listed}


class MinuteLimit:
    """Lets so many things a minute pass."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute, self._minute, self._n = per_minute, 0, 0

    def passes(self) -> bool:
        """Count one thing; return whether it may pass."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._n = minute, 0
        self._n += 1
        return self._n <= self._per_minute


class Topics(NamedTuple):
    """Topic names of one node."""

    node: str

    def of_node(self, what: str) -> str:
        """``pdmu/<node>/<what>``."""
        return f"pdmu/{self.node}/{what}"

    def of_source(self, source: str, what: str) -> str:
        """``pdmu/<node>/<source>/<what>``."""
        return f"pdmu/{self.node}/{source}/{what}"


def utc(posix_s: float) -> str:
    """ISO 8601 in UTC with milliseconds.

    >>> utc(0.1234)
    '1970-01-01T00:00:00.123Z'
    """
    return datetime.fromtimestamp(posix_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def local_offset_s(posix_s: float) -> int:
    """Offset of local time from UTC at a moment, seconds."""
    return time.localtime(posix_s).tm_gmtoff


class _Timex(ctypes.Structure):
    """The head of Linux's struct timex, with room for the rest."""

    _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
                ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_long * 40)]  # fmt: skip


def clock_info() -> ClockInfo:
    """Ask the kernel whether the clock is disciplined; where it will not say (not Linux, a sandbox), it counts as not."""
    try:
        timex = _Timex()
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return ClockInfo("system", False, None)
    unsynchronised = 5  # TIME_ERROR
    if state < 0 or state == unsynchronised:
        return ClockInfo("system", False, None)
    return ClockInfo("ntp", True, round(timex.maxerror / 1000))


class StreamClock:
    """Wall time of a stream's samples: its start plus the sample clock.

    For live sources the start is moved when the two have come apart (lost audio, a clock that was set, a drifting microphone), so that
    dates stay true over weeks; what was heard before keeps the start that was true then. File sources keep their start.

    Parameters
    ----------
    rate_hz : int
    live : bool
    slack_s : float
        Largest difference that buffering may explain.
    """

    KEPT = 16  # starts remembered; an event reaches back over fewer moves

    def __init__(self, rate_hz: int, live: bool, slack_s: float = 1.0) -> None:
        self._rate_hz, self._live, self._slack_s = rate_hz, live, slack_s
        self._samples = 0
        self._starts: list[tuple[int, float]] = []  # (first sample it holds for, POSIX time of sample 0)

    def observe(self, n_samples: int, now_s: float) -> None:
        """Note the arrival of `n_samples` at POSIX time `now_s`."""
        if not n_samples:
            return  # the end of a stream tells nothing about its time
        first, self._samples = self._samples, self._samples + n_samples
        start_s = now_s - self._samples / self._rate_hz
        if not self._starts:
            self._starts.append((0, start_s if self._live else now_s))
        elif self._live and abs(start_s - self._starts[-1][1]) > self._slack_s:
            self._starts = [*self._starts[1 - self.KEPT :], (first, start_s)]

    def start_s(self, sample: int) -> float:
        """Return the POSIX time of the stream's first sample, as it was reckoned when `sample` arrived."""
        return next((start_s for first, start_s in reversed(self._starts) if first <= sample), self._starts[0][1])
