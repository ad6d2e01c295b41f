"""How a source is doing: level, clipping, gaps, latency, what waits in the outbox."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from edge_agent.channel import dbfs
from edge_agent.events import utc
from edge_agent.ports import AudioBlock


class Health:
    """Counters of one source since the last report. The source's thread counts, the agent's thread reports."""

    def __init__(self, node: str, source: str) -> None:
        self._node, self._source = node, source
        self._lock = threading.Lock()
        self._total_samples = self._detections = 0
        self._reset()

    def _reset(self) -> None:
        self._samples = self._clipped = self._invalid = self._gaps = 0
        self._sum = self._squares = self._peak = 0.0
        self._wave = False  # the samples themselves were there, not only what a board says of them
        self._latency_s = 0.0

    def heard(self, block: AudioBlock, processing_s: float) -> None:
        """Count a block and how long it took to be classified."""
        x = block.pcm.astype(np.float64)
        with self._lock:
            self._wave = True
            self._samples += len(x)
            self._total_samples += len(x)
            self._clipped += block.n_clipped
            self._invalid += block.n_invalid
            self._gaps += block.n_gaps
            self._sum += float(x.sum())
            self._squares += float(x @ x)
            self._peak = max(self._peak, float(np.abs(x).max(initial=0)))
            self._latency_s = max(self._latency_s, processing_s)

    def told(self, samples: int, rms: float, clipped: int, gaps: int) -> None:
        """Count samples that a board has heard, by what it says of them."""
        with self._lock:
            self._samples += samples
            self._total_samples += samples
            self._clipped += clipped
            self._gaps += gaps
            self._squares += rms**2 * samples

    def detected(self, n: int, latency_s: float = 0.0) -> None:
        """Count detections."""
        with self._lock:
            self._detections += n
            self._latency_s = max(self._latency_s, latency_s)

    def report(self, now_s: float, outbox: dict[str, int], troubles: list[str]) -> dict[str, Any]:
        """Return the payload of ``health`` and begin the next interval.

        Parameters
        ----------
        outbox : dict
            `Outbox.counts`.
        troubles : list of str
            Everything that is wrong at present, in words.
        """
        with self._lock:
            n, wave = self._samples, self._samples if self._wave else 0
            payload: dict[str, Any] = {
                "schema": "pdmu.health/1", "node": self._node, "source": self._source, "ts": utc(now_s), "audio_arriving": n > 0,
                "level_dbfs": round(dbfs(self._squares / n), 1) if n else None,
                "peak_dbfs": round(dbfs(self._peak**2), 1) if wave else None,
                "dc_offset": round(self._sum / wave / 32768, 5) if wave else None, "clipped_samples": self._clipped,
                "invalid_samples": self._invalid, "gaps": self._gaps, "samples": n, "total_samples": self._total_samples,
                "detections": self._detections, "latency_ms": round(self._latency_s * 1000, 1), "outbox": outbox, "troubles": troubles,
            }  # fmt: skip
            self._reset()
        return payload
