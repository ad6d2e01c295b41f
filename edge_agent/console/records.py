"""What the console prints of a board's messages: JSON for machines, lines for people."""

from __future__ import annotations

from typing import Any

from edge_agent.board_messages import BoardEvent, BoardHealth, Hello, Label, Outcome, PcmSource
from edge_agent.channel import Found, dbfs
from edge_agent.console.heard import found_event
from edge_agent.events import ModelFacts
from edge_agent.printer import event_record

SCHEMA = "pdmu.console/1"


def record(kind: str, **fields: Any) -> dict[str, Any]:
    """Return a JSON line of the console."""
    return {"schema": SCHEMA, "type": kind} | fields


def hello_record(where: str, hello: Hello, labels: list[Label]) -> dict[str, Any]:
    """Return who answered HELLO."""
    scale = hello.smooth_steps * 32768
    return record(
        "hello", port=where, protocol=hello.protocol, board=hello.board, firmware=hello.firmware,
        model={"name": hello.model, "version": hello.version, "sha256": hello.sha256, "contract": hello.contract},
        labels=[{"label": x.name, "threshold": round(x.threshold_sum / scale, 4)} for x in labels],
        sample_rate_hz=hello.sample_rate_hz, samples_per_step=hello.samples_per_step, smooth_steps=hello.smooth_steps,
        state_bytes=hello.state_bytes, pcm_free=hello.pcm_free, features=[x.name.lower() for x in hello.features if x.name],
        source=source_name(hello.source), boot=f"{hello.boot:016x}", next_seq=hello.next_seq,
    )  # fmt: skip


def source_name(source: int) -> str:
    """Name where a board's samples come from."""
    return PcmSource(source).name.lower() if source in list(PcmSource) else f"unknown ({source})"


def hello_text(r: dict[str, Any]) -> str:
    """Return the lines of a `hello_record`."""
    model, labels = r["model"], ", ".join(f"{x['label']} ≥ {x['threshold']:.2f}" for x in r["labels"])
    rows = {
        "board": f"{r['board']} on {r['port']}",
        "firmware": f"{r['firmware']}, protocol {r['protocol']}",
        "model": f"{model['name']} {model['version']}",
        "bundle": model["sha256"],
        "contract": model["contract"],
        "labels": labels,
        "audio": f"{r['sample_rate_hz']} Hz, a step every {1000 * r['samples_per_step'] / r['sample_rate_hz']:.0f} ms, from {r['source']}",
        "memory": f"{r['state_bytes']} bytes of state, room for {r['pcm_free']} samples",
        "can": ", ".join(r["features"]) or "nothing beyond detecting",
        "boot": f"{r['boot']}, next detection {r['next_seq']}",
    }
    return "\n".join(f"{name:<10} {value}" for name, value in rows.items())


def heard_record(where: str, boot: int, event: BoardEvent, model: ModelFacts) -> dict[str, Any]:
    """Return an EVENT: a detection as `pdmu-agent analyze` prints it, or what was rejected and why."""
    heard, outcome = found_event(event, model), Outcome(event.outcome).name.lower()
    if isinstance(heard, Found):
        told = {k: v for k, v in event_record(where, model, heard).items() if k not in ("schema", "type", "file")}
        return record("detection", port=where, boot=f"{boot:016x}", seq=event.seq, outcome=outcome, lost=event.lost, **told)
    return record(
        "rejected", port=where, boot=f"{boot:016x}", outcome=outcome, label=model.labels[heard.label], score=round(heard.score, 4),
        t_start_s=round(heard.onset_step * model.step_s, 4), dur_s=round((heard.end_step - heard.onset_step) * model.step_s, 4),
    )  # fmt: skip


def heard_text(r: dict[str, Any]) -> str:
    """Return the line of a `heard_record`."""
    what = f"{r['label']} {r['score']:.2f} at {r['t_start_s']:.2f} s for {r['dur_s']:.2f} s"
    if r["type"] == "rejected":
        return f"rejected: {what} ({r['outcome']})"
    return f"detection {r['seq']}: {what}, {r['audio']['rms_dbfs']:.0f} dBFS" + (", goes on" if r["cut"] else "")


def health_record(where: str, health: BoardHealth) -> dict[str, Any]:
    """Return a HEALTH."""
    return record(
        "health", port=where, uptime_s=round(health.uptime_ms / 1000, 1), samples=health.samples, level_dbfs=round(dbfs(health.rms**2), 1),
        clipped_samples=health.clipped, dropped_samples=health.dropped, lost_detections=health.lost, pending_detections=health.pending,
        stack_free_bytes=health.stack_free,
    )  # fmt: skip


def health_text(r: dict[str, Any]) -> str:
    """Return the line of a `health_record`."""
    doubts = {"clipped_samples": "samples clipped", "dropped_samples": "samples dropped", "lost_detections": "detections lost"}
    bad = "".join(f", {r[key]} {words}" for key, words in doubts.items() if r[key])
    return (
        f"health: up {r['uptime_s']:.0f} s, level {r['level_dbfs']:.0f} dBFS, {r['pending_detections']} detections wait{bad}, "
        f"{r['stack_free_bytes']} bytes of stack never used"
    )
