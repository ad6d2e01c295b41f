"""`pdmu-agent analyze`: recordings through the agent's own path, at the speed of the machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.audio import FileSource
from edge_agent.channel import Channel, Found, Listener, listen
from edge_agent.events import model_facts
from edge_agent.ports import Source
from edge_agent.printer import Printer
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


def write(printer: Printer, path: str, analysis: Analysis, with_scores: bool = False) -> None:
    """Write one recording's events in order of their onsets and, if asked, the scores of every model step."""
    models = [model_facts(r.listener) for r in analysis.recordings]
    found = [(model, f) for model, r in zip(models, analysis.recordings, strict=True) for f in r.found]
    for model, one in sorted(found, key=lambda mf: mf[1].event.onset_sample):
        printer.event(path, model, one)
    if with_scores:
        for model, recording in zip(models, analysis.recordings, strict=True):
            printer.scores(path, model, recording.scores)
    printer.flush()


def analyze_files(paths: Sequence[Path], listeners: Sequence[Listener], printer: Printer, *, with_scores: bool = False,
                  rate_hz: int | None = None, picture: Path | None = None) -> int:  # fmt: skip
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
        write(printer, str(path), analysis, with_scores)
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
            step = f"{recording.step_s * 1000:.0f} ms step of {model_facts(recording.listener).info.name}"
            lines.append(f"warning: {path}: shorter than one {step}: nothing could be heard in it")
    return lines
