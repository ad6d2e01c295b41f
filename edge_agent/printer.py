"""How events are printed, whoever heard them: a table, JSON lines, CSV, or a Raven selection table."""

from __future__ import annotations

import csv
import json
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from edge_agent.channel import Found
from edge_agent.events import ModelFacts
from pdmu.config import to_dict


def event_record(path: str, model: ModelFacts, found: Found) -> dict[str, Any]:
    """Return the JSON line of an event in a recording."""
    event, rate_hz = found.event, model.sample_rate_hz
    return {
        "schema": "pdmu.analysis/1", "type": "detection", "file": path, "t_start_s": round(event.onset_sample / rate_hz, 4),
        "t_end_s": round(event.end_sample / rate_hz, 4), "dur_s": round((event.end_sample - event.onset_sample) / rate_hz, 4),
        "label": model.labels[event.label], "task": model.task, "score": round(event.score, 4),
        "threshold": round(model.thresholds[event.label], 4), "cut": event.cut, "model": to_dict(model.info),
        "audio": {"rms_dbfs": round(found.rms_dbfs, 1), "clipped": round(found.clipped, 5)},
    }  # fmt: skip


def score_records(path: str, model: ModelFacts, scores: NDArray[np.int16]) -> list[dict[str, Any]]:
    """Return a JSON line for each model step of scores int16 [steps, n_labels] Q15."""
    return [
        {"schema": "pdmu.analysis/1", "type": "scores", "file": path, "model": model.info.name, "t_start_s": round(k * model.step_s, 4),
         "scores": {label: round(int(v) / 32768, 4) for label, v in zip(model.labels, row, strict=True)}}
        for k, row in enumerate(scores)
    ]  # fmt: skip


class Printer:
    """Writes events in one of the formats.

    Parameters
    ----------
    form : {"table", "json", "csv", "raven"}
        ``json`` is one object a line; ``raven`` a selection table of the Raven sound analysis program (tab-separated).
    """

    HEADERS = {
        "csv": ["file", "onset_s", "offset_s", "label", "score", "threshold", "model", "rms_dbfs"],
        "raven": ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Begin File",
                  "Label", "Score"],
        "table": ["file", "start", "end", "label", "score", "level", "model"],
    }  # fmt: skip

    def __init__(self, form: str, out: TextIO) -> None:
        self._form, self._out, self._n = form, out, 0
        self._rows = csv.writer(out, delimiter="\t" if form == "raven" else ",", lineterminator="\n")
        if form in ("csv", "raven"):
            self._rows.writerow(self.HEADERS[form])
        elif form == "table":
            self._line(*self.HEADERS["table"])

    def _line(self, file: str, start: str, end: str, label: str, score: str, level: str, model: str) -> None:
        self._out.write(f"{start:>10} {end:>10}  {label:<22} {score:>6} {level:>9}  {model:<14} {file}\n")

    def event(self, path: str, model: ModelFacts, found: Found) -> None:
        """Write one event."""
        self._n += 1
        r = event_record(path, model, found)
        if self._form == "json":
            self._out.write(json.dumps(r) + "\n")
        elif self._form == "csv":
            self._rows.writerow([r["file"], f"{r['t_start_s']:.3f}", f"{r['t_end_s']:.3f}", r["label"], r["score"], r["threshold"],
                                 r["model"]["name"], r["audio"]["rms_dbfs"]])  # fmt: skip
        elif self._form == "raven":
            self._rows.writerow([self._n, "Spectrogram 1", 1, f"{r['t_start_s']:.3f}", f"{r['t_end_s']:.3f}", *model.band_hz, r["file"],
                                 r["label"], r["score"]])  # fmt: skip
        else:
            self._line(r["file"], _clock(r["t_start_s"]), _clock(r["t_end_s"]), r["label"], f"{r['score']:.2f}",
                       f"{r['audio']['rms_dbfs']:.0f} dBFS", r["model"]["name"])  # fmt: skip

    def scores(self, path: str, model: ModelFacts, scores: NDArray[np.int16]) -> None:
        """Write the scores int16 [steps, n_labels] Q15 of every model step."""
        if self._form == "json":
            self._out.writelines(json.dumps(r) + "\n" for r in score_records(path, model, scores))
            return
        self._out.write(f"# scores of {path}: time (s), {', '.join(model.labels)}\n")
        for k, row in enumerate(scores):
            self._out.write("# " + ",".join([f"{k * model.step_s:.3f}", *(f"{int(v) / 32768:.4f}" for v in row)]) + "\n")

    def flush(self) -> None:
        """Hand over what has been written."""
        self._out.flush()


def _clock(t_s: float) -> str:
    """Time in a recording.

    >>> _clock(3725.5)
    '1:02:05.50'
    >>> _clock(5.254)
    '0:05.25'
    """
    minutes, seconds = divmod(t_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    seconds = int(seconds * 100) / 100  # rounding up could print 60.00
    return f"{hours}:{minutes:02d}:{seconds:05.2f}" if hours else f"{minutes}:{seconds:05.2f}"
