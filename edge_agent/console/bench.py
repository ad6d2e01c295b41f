"""`pdmu-console bench`: what a hop costs on the board."""

from __future__ import annotations

from typing import Any

from edge_agent.board_messages import Feature
from edge_agent.console.records import record
from edge_agent.console.session import Session, fed
from pdmu.errors import UserError

PARTS = ("frontend", "network", "detector", "all")
ANSWER_S = 120.0  # an emulated board may take long


def bench(met: Session, hops: int, discard: bool) -> dict[str, Any]:
    """Have the board time `hops` hops of audio.

    Parameters
    ----------
    discard : bool
        Give up detections that the board still keeps for somebody.

    Returns
    -------
    dict
        Per hop ``us``, and ``instructions`` where the board's ticks count them (an emulator's do). ``load``, the part of the hop's own
        length, is there where the bundle is known here and ticks are time.

    Raises
    ------
    UserError
        The board cannot, does not answer, or keeps detections.
    """
    if Feature.BENCH not in met.hello.features:
        raise UserError("the board's firmware was built without BENCH: build it with it to measure")
    with fed(met, discard):
        ticks = met.board.bench(hops, ANSWER_S)
    if not (ticks.hops and ticks.tick_hz):
        raise UserError("the board timed nothing: its firmware has no clock for BENCH")
    counts = {part: getattr(ticks, part) / ticks.hops for part in PARTS}
    per_hop: dict[str, dict[str, float]] = {part: {"us": round(1e6 * n / ticks.tick_hz, 2)} for part, n in counts.items()}
    if ticks.instructions_per_tick:
        for part, n in counts.items():
            per_hop[part]["instructions"] = round(n * ticks.instructions_per_tick)
    load = None
    if met.bundle is not None and not ticks.instructions_per_tick:
        hop_s = met.bundle.frontend.hop_samples / met.bundle.frontend.sample_rate_hz
        load = round(counts["all"] / ticks.tick_hz / hop_s, 4)
    return record("bench", board=met.hello.board, firmware=met.hello.firmware, model=met.model.info.name, hops=ticks.hops, per_hop=per_hop,
                  instructions_per_tick=ticks.instructions_per_tick, load=load)  # fmt: skip


def bench_text(r: dict[str, Any]) -> str:
    """Return the table of `bench`'s record."""
    counted = r["instructions_per_tick"] > 0
    lines = [f"{r['board']}, {r['model']}: {r['hops']} hops", f"{'per hop':<12}{'µs':>12}" + (f"{'instructions':>14}" if counted else "")]
    for part, cost in r["per_hop"].items():
        lines.append(f"{part:<12}{cost['us']:>12.1f}" + (f"{cost['instructions']:>14}" if counted else ""))
    if counted:
        lines.append("an emulator's time is its count of instructions, not a processor's time")
    if r["load"] is not None:
        lines.append(f"load {100 * r['load']:.1f} % of real time")
    return "\n".join(lines)
