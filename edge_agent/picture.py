"""A picture of a stream: spectrogram, scores of every bundle, and what was detected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdmu.errors import UserError
from pdmu.frontend import mel_energies

if TYPE_CHECKING:
    from edge_agent.analyze import Analysis, Recording

MAX_COLUMNS = 3000  # more columns than a picture has pixels help nobody
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")  # told apart by the colour-blind too


def draw(analysis: Analysis, path: Path, title: str = "") -> None:
    """Draw an analysis that kept its PCM and write the picture; the ending of `path` chooses the format.

    Raises
    ------
    UserError
        matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("a picture needs matplotlib; pip install 'pdmu[demo]'") from None
    n = len(analysis.recordings)
    figure = Figure(figsize=(min(40.0, max(10.0, analysis.duration_s / 6)), 2.6 + 1.7 * n), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(n + 1, 1, sharex=True, height_ratios=[1.4] + [1.0] * n, squeeze=False)[:, 0]
    _spectrogram(axes[0], analysis)
    axes[0].set_title(title, loc="left", fontsize=10)
    for axis, recording in zip(axes[1:], analysis.recordings, strict=True):
        _scores(axis, recording, analysis.duration_s)
    axes[-1].set_xlabel("time (s)")
    axes[-1].set_xlim(0, max(analysis.duration_s, 1e-3))
    part = path.with_name(f".{path.name}.part")
    try:
        canvas.print_figure(part, dpi=110, format=path.suffix.lstrip(".") or "png")
        os.replace(part, path)
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: the picture cannot be written: {error}") from None


def _spectrogram(axis: Any, analysis: Analysis) -> None:
    assert analysis.pcm is not None
    cfg = analysis.recordings[0].listener.bundle.frontend
    energies = mel_energies(cfg, analysis.pcm)
    if not len(energies):
        return
    group = -(-len(energies) // MAX_COLUMNS)
    columns = np.maximum.reduceat(energies, np.arange(0, len(energies), group), axis=0)
    level_db = 10 * np.log10(columns + cfg.floor)
    axis.imshow(level_db.T, origin="lower", aspect="auto", cmap="magma", extent=(0, analysis.duration_s, 0, cfg.n_mels),
                vmin=np.percentile(level_db, 10), vmax=np.percentile(level_db, 99.8), interpolation="nearest")  # fmt: skip
    axis.set_ylabel(f"mel band\n({cfg.f_min_hz:.0f}–{cfg.f_max_hz:.0f} Hz)")


def _scores(axis: Any, recording: Recording, duration_s: float) -> None:
    listener = recording.listener
    step_s, labels = recording.step_s, listener.bundle.labels
    group = max(1, -(-len(recording.scores) // MAX_COLUMNS))
    rate_hz = listener.bundle.frontend.sample_rate_hz
    for i, label in enumerate(labels):
        if label in listener.bundle.detector.reject_labels:
            continue
        colour = COLOURS[i % len(COLOURS)]
        if len(recording.scores):
            begins = np.arange(0, len(recording.scores), group)
            values = np.maximum.reduceat(recording.scores[:, i], begins) / 32768
            axis.plot((begins + group) * step_s, values, color=colour, linewidth=0.9, label=label)
        axis.axhline(listener.threshold(i), color=colour, linewidth=0.6, linestyle=":")
        for found in recording.found:
            if found.event.label == i:
                axis.axvspan(found.event.onset_sample / rate_hz, found.event.end_sample / rate_hz, color=colour, alpha=0.25, linewidth=0)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel(f"score\n{listener.bundle.info.get('name', listener.path.stem)}")
    if axis.lines:
        axis.legend(loc="upper right", fontsize=7, ncols=4, frameon=False)
