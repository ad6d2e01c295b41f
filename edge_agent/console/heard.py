"""What a board hears, in the agent's own terms: model, events, rejections."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

from edge_agent.board_messages import BoardEvent, Hello, Label, Outcome, ProtocolError, malformed
from edge_agent.channel import Found, dbfs
from edge_agent.events import ModelFacts, ModelInfo
from pdmu.bundle import Bundle, read_bundle
from pdmu.detector import Event, Reason, Rejected
from pdmu.errors import UserError
from pdmu.resources import resource_dir

REASONS: dict[int, Reason] = {Outcome.TOO_SHORT: "too_short", Outcome.REFRACTORY: "refractory"}
EVENT_NAMESPACE = uuid.UUID("9b9f1c52-6c0a-4d0e-8f0e-5d6a70646d75")


def find_bundle(sha256: str, paths: Iterable[Path] = ()) -> Bundle | None:
    """Return the bundle of this hash, among `paths` or the shipped models; None where it is none of them."""
    for path in [*paths, *sorted(resource_dir("models").glob("*.pdmu"))]:
        bundle = read_bundle(path)
        if bundle.sha256 == sha256:
            return bundle
    return None


def board_model(hello: Hello, labels: list[Label], bundle: Bundle | None) -> ModelFacts:
    """Return the facts about a board's model; a board itself tells neither task nor band, and cuts long names.

    Raises
    ------
    ProtocolError
        The board's own words contradict each other.
    """
    if not (hello.sample_rate_hz and hello.samples_per_step and hello.smooth_steps and labels):
        raise malformed("HELLO")
    band_hz = (bundle.frontend.f_min_hz, bundle.frontend.f_max_hz) if bundle else (0.0, hello.sample_rate_hz / 2)
    info = bundle.info if bundle else {}
    name, version = str(info.get("name") or hello.model), str(info.get("version") or hello.version)
    return ModelFacts(
        ModelInfo(name, version, hello.sha256, "c", "int16x8"), str(info.get("task", "")),
        bundle.contract if bundle else hello.contract, tuple(x.name for x in labels),
        tuple(x.threshold_sum / (hello.smooth_steps * 32768) for x in labels), hello.sample_rate_hz, hello.samples_per_step, band_hz,
    )  # fmt: skip


def same_bundle(hello: Hello, bundle: Bundle, path: Path) -> None:
    """Raise `UserError` unless the board runs this bundle."""
    if hello.sha256 != bundle.sha256:
        raise UserError(
            f"the board runs {hello.model} {hello.version}, bundle {hello.sha256[:12]}; {path} is {bundle.sha256[:12]}: "
            "flash firmware made from it, or name the bundle that the board runs"
        )


def found_event(event: BoardEvent, model: ModelFacts) -> Found | Rejected:
    """Return what the detector would have said.

    Raises
    ------
    ProtocolError
        The event has a label that the model has not.
    """
    if event.label >= len(model.labels):
        raise ProtocolError(f"the board's EVENT names label {event.label} of {len(model.labels)}: its firmware keeps another protocol")
    score, size = event.peak_sum / (event.smooth_steps * 32768), model.samples_per_step
    if event.outcome in REASONS:
        return Rejected(event.label, event.onset_step, event.end_step, score, REASONS[event.outcome])
    samples = (event.end_step - event.onset_step) * size
    heard = Event(event.label, event.onset_step, event.end_step, event.onset_step * size, event.end_step * size, event.peak_sum, score,
                  event.outcome == Outcome.CUT)  # fmt: skip
    return Found(heard, dbfs(event.energy / samples), event.clipped / samples)


def event_id(boot: int, seq: int, node: str, source: str) -> uuid.UUID:
    """Return the id of a board's detection: the same whenever it is heard of."""
    return uuid.uuid5(EVENT_NAMESPACE, f"{boot:016x}/{seq}/{node}/{source}")
