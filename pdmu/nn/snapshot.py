"""What a finished training run keeps of its recordings, so that it can be quantised, judged and attributed without the audio.

``calibration.npz`` and ``validation.npz`` hold integer features as the front end gives them; ``recordings.csv`` names every recording
with its licence.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdmu.config import FrontendConfig
from pdmu.data.corpus import Clips, Corpus
from pdmu.data.recipe import Recipe
from pdmu.errors import UserError
from pdmu.files import write_bytes, write_text
from pdmu.frontend import compress
from pdmu.tables import FEATURE_FRAC_BITS, round_half_up

CALIBRATION_CLIPS = 200  # evenly over the classes' recordings, the loudest of them all first: min-max wants extremes
CALIBRATION_FRAMES = 500  # of each


@dataclass(frozen=True)
class Features:
    """Recordings as integer features laid end to end."""

    features: NDArray[np.int16]  # [frames, n_mels] Q9
    length: NDArray[np.int64]  # [n]
    target: NDArray[np.int64]  # [n], position in Recipe.classes
    path: tuple[str, ...]

    def clips(self) -> list[NDArray[np.int16]]:
        """Return each recording's features ``[frames, n_mels]``."""
        return np.split(self.features, np.cumsum(self.length)[:-1]) if len(self.length) else []  # split makes one part of nothing


def write_snapshot(out: Path, recipe: Recipe, corpus: Corpus) -> None:
    """Write the three files into the run's folder."""
    _write_features(out / "calibration.npz", recipe.frontend, corpus.train, _calibration_choice(corpus.train), CALIBRATION_FRAMES)
    _write_features(out / "validation.npz", recipe.frontend, corpus.validation, np.arange(len(corpus.validation)), None)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("path", "class", "set", "label", "source", "group", "licence"))
    seen: set[str] = set()
    for name, clips in (("train", corpus.train), ("validation", corpus.validation), ("extra", corpus.extra)):
        for row, target in zip(clips.rows, clips.target, strict=True):
            if row.path not in seen:
                seen.add(row.path)
                writer.writerow((row.path, recipe.classes[target], name, row.label, row.source, row.group, row.licence))
    write_text(out / "recordings.csv", text.getvalue())


def read_features(path: Path) -> Features:
    """Read ``calibration.npz`` or ``validation.npz``.

    Raises
    ------
    UserError
        Missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return Features(data["features"], data["length"], data["target"], tuple(str(p) for p in data["path"]))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a snapshot of a finished training run ({error}); run pdmu-train to its end again") from None


def _calibration_choice(clips: Clips) -> NDArray[np.int64]:
    loudest = np.argsort(-clips.peak)[: CALIBRATION_CLIPS // 4]
    by_class = np.argsort(clips.target, kind="stable")
    spread = by_class[np.linspace(0, len(clips) - 1, CALIBRATION_CLIPS).astype(np.int64)]
    return np.unique(np.concatenate([loudest, spread]))


def _write_features(path: Path, frontend: FrontendConfig, clips: Clips, chosen: NDArray[np.int64], most: int | None) -> None:
    parts = []
    for i in chosen:
        energies = clips.energies[clips.start[i] : clips.start[i] + clips.length[i]][:most]
        parts.append(np.clip(round_half_up(compress(frontend, energies) * 2**FEATURE_FRAC_BITS), -32768, 32767).astype(np.int16))
    features = np.concatenate(parts) if parts else np.zeros((0, frontend.n_mels), np.int16)
    length = np.array([len(p) for p in parts], np.int64)
    names = np.array([clips.rows[i].path for i in chosen], np.str_)
    target = clips.target[chosen]
    data = io.BytesIO()
    np.savez_compressed(data, features=features, length=length, target=target, path=names)
    write_bytes(path, data.getvalue())
