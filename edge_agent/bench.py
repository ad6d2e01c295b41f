"""`pdmu-agent bench`: what a bundle costs on this very device, by the code that runs here."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_agent.channel import Channel, Listener
from pdmu.golden import golden_pcm

FILE_BLOCK_S = 5.0  # as `analyze` reads files
LEAST_CALLS = 20  # of each kind, however slow the device


def bench(listener: Listener, seconds: float, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Run a listener over the golden signal again and again, as live audio and as a file.

    Parameters
    ----------
    listener : Listener
    seconds : float
        How long to measure each of the two.
    clock : callable
        Seconds; monotonic.

    Returns
    -------
    dict
        ``live``: one model step a call, milliseconds a step (median, 95th percentile, largest) and the part of one core that a stream in
        real time takes. ``file``: blocks of seconds, times real time. ``peak_memory_mb`` of this process so far.
    """
    bundle = listener.bundle
    rate_hz, step = bundle.frontend.sample_rate_hz, bundle.samples_per_step
    step_ms = 1000 * step / rate_hz
    live = 1000 * np.array(_time_calls(listener, step, seconds, clock))
    block = round(FILE_BLOCK_S * rate_hz)
    whole = np.array(_time_calls(listener, block, seconds, clock))
    return {
        "bundle": bundle.info.get("name"), "sha256": bundle.sha256, "backend": listener.backend.runtime, "step_ms": step_ms,
        "live": {"median_ms": float(np.median(live)), "p95_ms": float(np.percentile(live, 95)), "largest_ms": float(live.max()),
                 "core": float(live.mean()) / step_ms},
        "file": {"x_real_time": block / rate_hz / float(np.median(whole))},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def _time_calls(listener: Listener, samples: int, seconds: float, clock: Callable[[], float]) -> list[float]:
    """Feed blocks of `samples` for about `seconds`; return how long each took. The first, which fills caches, is not counted."""
    channel, signal = Channel(listener), np.tile(golden_pcm(), 1 + samples // len(golden_pcm()))
    taken: list[float] = []
    at, end = 0, clock() + seconds
    channel.process(signal[:samples])
    while clock() < end or len(taken) < LEAST_CALLS:
        block = np.take(signal, range(at, at + samples), mode="wrap")
        at = (at + samples) % len(signal)
        began = clock()
        channel.process(block)
        taken.append(clock() - began)
    return taken


def text(result: dict[str, Any]) -> str:
    """Return a result for people."""
    live, step_ms = result["live"], result["step_ms"]
    return "\n".join(
        [
            f"{result['bundle']}, {result['backend']} backend",
            f"live   a step of {step_ms:.0f} ms takes {live['median_ms']:.2f} ms (median), {live['p95_ms']:.2f} ms (95 %), "
            f"{live['largest_ms']:.2f} ms (largest): {100 * live['core']:.1f} % of one core",
            f"files  {result['file']['x_real_time']:.0f} times real time",
            f"memory {result['peak_memory_mb']:.0f} MB at its peak, this program and its libraries included",
        ]
    )
