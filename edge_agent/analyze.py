"""`pdmu-agent analyze`: recordings through the agent's own path, at the speed of the machine."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from edge_agent.audio import FileSource
from edge_agent.channel import Channel, Found, Listener, listen
from edge_agent.events import model_info
from edge_agent.ports import Source
from pdmu.config import to_dict
from pdmu.detector import Rejected
from pdmu.errors import UserError


class Recording(NamedTuple):
    """What one listener made of one recording."""

    listener: Listener
    found: list[Found]
    rejected: list[Rejected]
    scores: NDArray[np.int16]  # [steps, n_labels] Q15

    @property
    def step_s(self) -> float:
        """Length of a model step, seconds."""
        return self.listener.bundle.samples_per_step / self.listener.bundle.frontend.sample_rate_hz


class Analysis(NamedTuple):
    """A recording, heard by every listener."""

    recordings: list[Recording]
    duration_s: float  # of what could be read
    pcm: NDArray[np.int16] | None  # at the models' rate, where it was to be kept
    n_source: int  # samples of the source, every channel's
    n_clipped: int
    n_invalid: int
    complaint: UserError | None  # the source ended in trouble: what came before it is here
    trouble: str | None  # what was doubtful about the source and did not end it


def analyze(source: Source, listeners: Sequence[Listener], keep_pcm: bool = False) -> Analysis:
    """Run listeners over one source, each with fresh state."""
    channels = [Channel(x) for x in listeners]
    found: list[list[Found]] = [[] for _ in listeners]
    rejected: list[list[Rejected]] = [[] for _ in listeners]
    scores: list[list[NDArray[np.int16]]] = [[] for _ in listeners]
    pcm: list[NDArray[np.int16]] = []
    n_samples = n_source = n_clipped = n_invalid = 0
    complaint = None
    try:
        for turn in listen(source, channels):
            n_samples += len(turn.block.pcm)
            n_source += turn.block.n_source
            n_clipped += turn.block.n_clipped
            n_invalid += turn.block.n_invalid
            if keep_pcm:
                pcm.append(turn.block.pcm)
            for i, heard in enumerate(turn.heard):
                found[i] += heard.found
                rejected[i] += heard.rejected
                scores[i].append(heard.scores)
    except UserError as error:
        complaint = error
    finally:
        source.close()
    recordings = [Recording(x, found[i], rejected[i], np.concatenate(scores[i])) for i, x in enumerate(listeners)]
    rate_hz = listeners[0].bundle.frontend.sample_rate_hz
    heard_pcm = np.concatenate(pcm) if keep_pcm else None
    return Analysis(recordings, n_samples / rate_hz, heard_pcm, n_source, n_clipped, n_invalid, complaint, source.trouble)


def event_record(path: str, recording: Recording, found: Found) -> dict[str, Any]:
    """Return the JSON line of an event in a recording."""
    listener, event = recording.listener, found.event
    rate_hz = listener.bundle.frontend.sample_rate_hz
    return {
        "schema": "pdmu.analysis/1", "type": "detection", "file": path, "t_start_s": round(event.onset_sample / rate_hz, 4),
        "t_end_s": round(event.end_sample / rate_hz, 4), "dur_s": round((event.end_sample - event.onset_sample) / rate_hz, 4),
        "label": listener.bundle.labels[event.label], "task": str(listener.bundle.info.get("task", "")), "score": round(event.score, 4),
        "threshold": round(listener.threshold(event.label), 4), "cut": event.cut, "model": to_dict(model_info(listener)),
        "audio": {"rms_dbfs": round(found.rms_dbfs, 1), "clipped": round(found.clipped, 5)},
    }  # fmt: skip


def score_records(path: str, recording: Recording) -> list[dict[str, Any]]:
    """Return a JSON line for each model step."""
    labels, step_s = recording.listener.bundle.labels, recording.step_s
    name = model_info(recording.listener).name
    return [
        {"schema": "pdmu.analysis/1", "type": "scores", "file": path, "model": name, "t_start_s": round(k * step_s, 4),
         "scores": {label: round(int(v) / 32768, 4) for label, v in zip(labels, row, strict=True)}}
        for k, row in enumerate(recording.scores)
    ]  # fmt: skip


class Printer:
    """Writes results as they come, in one of the formats.

    Parameters
    ----------
    form : {"table", "json", "csv", "raven"}
        ``json`` is one object a line; ``raven`` a selection table of the Raven sound analysis program (tab-separated).
    with_scores : bool
        Also the scores of every model step (``json`` lines, or after the events).
    """

    HEADERS = {
        "csv": ["file", "onset_s", "offset_s", "label", "score", "threshold", "model", "rms_dbfs"],
        "raven": ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Begin File",
                  "Label", "Score"],
        "table": ["file", "start", "end", "label", "score", "level", "model"],
    }  # fmt: skip

    def __init__(self, form: str, out: TextIO, with_scores: bool = False) -> None:
        self._form, self._out, self._with_scores, self._n = form, out, with_scores, 0
        self._rows = csv.writer(out, delimiter="\t" if form == "raven" else ",", lineterminator="\n")
        if form in ("csv", "raven"):
            self._rows.writerow(self.HEADERS[form])
        elif form == "table":
            self._line(*self.HEADERS["table"])

    def _line(self, file: str, start: str, end: str, label: str, score: str, level: str, model: str) -> None:
        self._out.write(f"{start:>10} {end:>10}  {label:<22} {score:>6} {level:>9}  {model:<14} {file}\n")

    def write(self, path: str, analysis: Analysis) -> None:
        """Write one recording's results."""
        ordered = sorted(((r, f) for r in analysis.recordings for f in r.found), key=lambda rf: rf[1].event.onset_sample)
        for recording, found in ordered:
            self._n += 1
            self._event(event_record(path, recording, found), recording)
        if self._with_scores:
            for recording in analysis.recordings:
                self._scores(path, recording)
        self._out.flush()

    def _event(self, r: dict[str, Any], recording: Recording) -> None:
        if self._form == "json":
            self._out.write(json.dumps(r) + "\n")
        elif self._form == "csv":
            self._rows.writerow([r["file"], f"{r['t_start_s']:.3f}", f"{r['t_end_s']:.3f}", r["label"], r["score"], r["threshold"],
                                 r["model"]["name"], r["audio"]["rms_dbfs"]])  # fmt: skip
        elif self._form == "raven":
            cfg = recording.listener.bundle.frontend
            self._rows.writerow([self._n, "Spectrogram 1", 1, f"{r['t_start_s']:.3f}", f"{r['t_end_s']:.3f}", cfg.f_min_hz, cfg.f_max_hz,
                                 r["file"], r["label"], r["score"]])  # fmt: skip
        else:
            self._line(r["file"], _clock(r["t_start_s"]), _clock(r["t_end_s"]), r["label"], f"{r['score']:.2f}",
                       f"{r['audio']['rms_dbfs']:.0f} dBFS", r["model"]["name"])  # fmt: skip

    def _scores(self, path: str, recording: Recording) -> None:
        if self._form == "json":
            self._out.writelines(json.dumps(r) + "\n" for r in score_records(path, recording))
            return
        labels = recording.listener.bundle.labels
        self._out.write(f"# scores of {path}: time (s), {', '.join(labels)}\n")
        for k, row in enumerate(recording.scores):
            self._out.write("# " + ",".join([f"{k * recording.step_s:.3f}", *(f"{int(v) / 32768:.4f}" for v in row)]) + "\n")


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


def analyze_files(paths: Sequence[Path], listeners: Sequence[Listener], printer: Printer, *, rate_hz: int | None = None,
                  picture: Path | None = None) -> int:  # fmt: skip
    """Analyse files one after another; a bad one costs one line on stderr and the exit status, not the others.

    Returns
    -------
    int
        0, or 1 when a file could not be read to its end.
    """
    rate_out_hz = listeners[0].bundle.frontend.sample_rate_hz
    failed, began, total_s = 0, time.monotonic(), 0.0
    show = sys.stderr.isatty() and len(paths) > 1
    for i, path in enumerate(paths):
        if show:
            speed = total_s / max(1e-9, time.monotonic() - began)
            print(f"\r{i + 1}/{len(paths)}  {total_s / 3600:.2f} h analysed, {speed:.0f} × real time ", end="", file=sys.stderr, flush=True)
        try:
            analysis = analyze(FileSource(path, rate_out_hz, rate_hz=rate_hz), listeners, keep_pcm=picture is not None)
        except UserError as error:
            failed += 1
            print(f"{chr(13) if show else ''}error: {error}", file=sys.stderr)
            continue
        total_s += analysis.duration_s
        printer.write(str(path), analysis)
        for warning in warnings_of(str(path), analysis):
            print(f"{chr(13) if show else ''}{warning}", file=sys.stderr)
        if analysis.complaint is not None:
            failed += 1
            print(f"{chr(13) if show else ''}error: {analysis.complaint}", file=sys.stderr)
        if picture is not None:
            from edge_agent.picture import draw

            draw(analysis, picture, title=path.name)
    if show:
        print(file=sys.stderr)
    return 1 if failed else 0


def warnings_of(path: str, analysis: Analysis) -> list[str]:
    """Return a line for each thing that is wrong with the audio and did not stop the analysis."""
    lines = [f"warning: {analysis.trouble}"] if analysis.trouble else []
    if analysis.n_invalid:
        lines.append(f"warning: {path}: {analysis.n_invalid} samples are NaN or infinite and were taken as silence")
    if analysis.n_clipped > 0.001 * analysis.n_source:
        lines.append(f"warning: {path}: {analysis.n_clipped} of {analysis.n_source} samples are clipped; turn the recording level down")
    for recording in analysis.recordings:
        if not len(recording.scores):
            step = f"{recording.step_s * 1000:.0f} ms step of {model_info(recording.listener).name}"
            lines.append(f"warning: {path}: shorter than one {step}: nothing could be heard in it")
    return lines
