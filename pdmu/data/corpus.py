"""All recordings of a recipe as mel energies in memory, with their classes, groups and activity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pdmu.config import FrontendConfig
from pdmu.data.audio import BadRecording
from pdmu.data.cache import EnergyCache
from pdmu.data.manifest import Rejected, Row
from pdmu.data.recipe import Recipe
from pdmu.data.splits import split
from pdmu.data.synth import make_sound, procedural_sounds
from pdmu.frontend import mel_energies
from pdmu.tables import hann_window

ACTIVE_BELOW_PEAK_DB = 25.0  # a frame sounds when it is louder than the loudest one less this …
ACTIVE_ABOVE_FLOOR_DB = 6.0  # … and stands this much above the recording's own noise
MADE = ("procedural", "decoy")  # sources of sounds made here: of the class `other`, whatever they were made of
ACTIVITY_FROM_HZ = 200.0  # handling noise and rumble below are not counted


@dataclass(frozen=True)
class Clips:
    """Recordings laid end to end. Row i is ``energies[start[i] : start[i] + length[i]]``."""

    energies: np.ndarray  # float32 [frames, n_mels], PCM units squared
    active: np.ndarray  # bool [frames]: the frame belongs to the sound, not to what surrounds it
    start: np.ndarray  # int64 [n]
    length: np.ndarray  # int64 [n]
    target: np.ndarray  # int64 [n], position in Recipe.classes
    peak: np.ndarray  # float64 [n], energy of the loudest frame (sum over bands)
    weight: np.ndarray  # float64 [n], how often the row is drawn, relative to others
    background: np.ndarray  # bool [n], may be mixed under others
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Corpus:
    """What a recipe found in a manifest."""

    train: Clips
    validation: Clips
    extra: Clips  # `validate_only` recordings
    rejected: tuple[Rejected, ...]
    excluded: dict[str, int]  # reason → recordings that the recipe leaves out on purpose


def load_corpus(
    recipe: Recipe,
    rows: Sequence[Row],
    root: Path,
    cache_dir: Path,
    *,
    folds: int | None = None,
    fold: int = 0,
    progress: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows,
) -> Corpus:
    """Select, split and read the recordings of a recipe.

    Parameters
    ----------
    recipe : Recipe
    rows : sequence of Row
        From :func:`pdmu.data.manifest.read_manifest`.
    root : Path
        Folder the paths are relative to.
    cache_dir : Path
        Where mel energies are kept.
    folds, fold : int or None, int
        k-fold validation, see :func:`pdmu.data.splits.split`.
    progress : callable
        Wraps the rows while they are read (a progress bar).

    Raises
    ------
    UserError
        The split is impossible.
    """
    chosen, excluded = _select(recipe, rows)
    cache = EnergyCache(cache_dir, recipe.frontend, recipe.data.min_s, recipe.data.silence_dbfs)
    readable: list[Row] = []
    energies: dict[str, list[np.ndarray]] = {}
    rejected: list[Rejected] = []
    owner: dict[str, Row] = {}
    for row in progress(chosen):
        try:
            if recipe.class_of(row.label) is None:
                raise BadRecording(f"mislabelled: the recipe knows no label '{row.label}'")
            first, digest = cache.recording(root / row.path)
            if digest in owner:
                other = "" if owner[digest].label == row.label else f", which is labelled '{owner[digest].label}'"
                raise BadRecording(f"the same file as {owner[digest].path}{other}")
            if len(first) < recipe.model.frames_per_step:
                raise BadRecording(f"too short: {len(first)} frames of the front end, a model step takes {recipe.model.frames_per_step}")
            speeds = () if _starts(row.path, recipe.data.validate_only) else recipe.augment.speeds
            energies[row.path] = [first] + [cache.recording(root / row.path, speed)[0] for speed in speeds]
        except BadRecording as error:
            rejected.append(Rejected(row.path, str(error)))
            continue
        owner[digest] = row
        readable.append(row)
    extra = [r for r in readable if _starts(r.path, recipe.data.validate_only)]
    usable = [r for r in readable if not _starts(r.path, recipe.data.validate_only)]
    data = recipe.data
    strata = [f"{recipe.class_of(r.label)} {r.source}" for r in usable]
    held = split(
        usable,
        strata,
        data.split,
        share=data.validation_share,
        folds=folds,
        fold=fold,
        seed=data.split_seed,
        official=data.validation_folds,
    )
    kept = {r.group for r in usable if _starts(r.path, data.train_only)}  # whole groups, or they would stand on both sides
    held = held & ~np.array([r.group in kept for r in usable], bool)
    synthetic = procedural_rows(recipe, cache, energies)
    train = [r for r, h in zip(usable, held, strict=True) if not h]
    train += decoy_rows(recipe, cache, root, train, energies) + synthetic
    validation = [r for r, h in zip(usable, held, strict=True) if h]
    return Corpus(
        _clips(recipe, train, energies, variants=True),
        _clips(recipe, validation, energies),
        _clips(recipe, extra, energies),
        tuple(rejected),
        excluded,
    )


def procedural_rows(recipe: Recipe, cache: EnergyCache, energies: dict[str, list[np.ndarray]]) -> list[Row]:
    """Add the recipe's synthetic negatives to `energies`; return their rows."""
    rows = []
    for kind, index in procedural_sounds(recipe.data.procedural):
        path = f"procedural/{kind}/{index:05d}"
        make = partial(_synthetic_energies, recipe.frontend, kind, index)
        energies[path] = [cache.get(f"procedural-{kind}-{index:05d}", make)]
        rows.append(Row(path, recipe.task.other, path, "", "procedural", "CC0"))
    return rows


def decoy_rows(recipe: Recipe, cache: EnergyCache, root: Path, rows: Sequence[Row], energies: dict[str, list[np.ndarray]]) -> list[Row]:
    """Add training recordings played too slowly or too fast, as sounds of the class `other`; return their rows.

    A song at two thirds or one and a half times its speed is of no species that sings so, yet sounds like a bird in that very place: what
    is left to tell the species by is its pitch and rhythm, not the recordist's microphone.
    """
    out = []
    for prefix, speeds in recipe.data.decoys.items():
        for row in rows:
            for speed in speeds if row.path.startswith(prefix) else ():
                path = f"decoys/{speed:g}/{row.path}"
                energies[path] = [cache.recording(root / row.path, speed)[0]]
                out.append(Row(path, recipe.task.other, row.group, row.fold, "decoy", row.licence))
    return out


def _synthetic_energies(frontend: FrontendConfig, kind: str, index: int) -> np.ndarray:
    return mel_energies(frontend, make_sound(kind, index, frontend.sample_rate_hz))


def _starts(path: str, prefixes: Sequence[str]) -> bool:
    return any(path.startswith(p) for p in prefixes)


def _select(recipe: Recipe, rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """Keep the rows the recipe asks for; count the others by reason."""
    chosen: list[Row] = []
    excluded: dict[str, int] = {}
    for row in rows:
        if recipe.data.include and not _starts(row.path, recipe.data.include):
            reason = "not in data.include"
        elif _starts(row.path, recipe.data.exclude):
            reason = "in data.exclude"
        elif not recipe.licence_allowed(row.licence) and not _starts(row.path, recipe.data.validate_only):
            reason = f"licence not allowed: {row.licence[:60]}"
        else:
            chosen.append(row)
            continue
        excluded[reason] = excluded.get(reason, 0) + 1
    return chosen, excluded


def level_dbfs(frontend: FrontendConfig, energy: np.ndarray) -> np.ndarray:
    """Return the RMS level of frames from the sum of their mel energies (bands outside the bank are not counted)."""
    return 10 * np.log10(np.maximum(energy, 1e-9) / full_scale_energy(frontend))


def full_scale_energy(frontend: FrontendConfig) -> float:
    """Return the sum of mel energies of a frame with RMS 1.0 of full scale (the filters sum to about one at each bin)."""
    return frontend.window_samples * float((hann_window(frontend.window_samples) ** 2).sum()) / 2 * 32768.0**2


def band_centres_hz(frontend: FrontendConfig) -> np.ndarray:
    """Return the centre of each mel band, float64 ``[n_mels]``."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (frontend.f_min_hz, frontend.f_max_hz))
    return 700 * (10 ** (np.linspace(low, high, frontend.n_mels + 2)[1:-1] / 2595) - 1)


def activity(frontend: FrontendConfig, energies: np.ndarray) -> np.ndarray:
    """Return which frames of a recording belong to its sound, bool ``[frames]``; never none."""
    heard = energies[:, band_centres_hz(frontend) >= ACTIVITY_FROM_HZ].sum(1)
    db = 10 * np.log10(np.maximum(heard, 1e-9))
    active = (db > db.max() - ACTIVE_BELOW_PEAK_DB) & (db > np.percentile(db, 10) + ACTIVE_ABOVE_FLOOR_DB)
    return active if active.any() else db > db.max() - 10.0  # a steady sound has no floor of its own


def _clips(recipe: Recipe, rows: Sequence[Row], energies: dict[str, list[np.ndarray]], *, variants: bool = False) -> Clips:
    arrays: list[np.ndarray] = []
    owners: list[Row] = []
    weights: list[float] = []
    for row in rows:
        copies = energies[row.path] if variants else energies[row.path][:1]
        factor = next((w for prefix, w in recipe.data.weights.items() if row.path.startswith(prefix)), 1.0)
        arrays += copies
        owners += [row] * len(copies)
        weights += [factor / len(copies)] * len(copies)
    length = np.array([len(a) for a in arrays], np.int64)
    joined = np.concatenate(arrays) if arrays else np.zeros((0, recipe.frontend.n_mels), np.float32)
    masks = [activity(recipe.frontend, a) for a in arrays]
    targets = [recipe.classes.index(recipe.task.other) if r.source in MADE else recipe.class_of(r.label) for r in owners]
    return Clips(
        energies=joined,
        active=np.concatenate(masks) if masks else np.zeros(0, bool),
        start=np.cumsum(length) - length,
        length=length,
        target=np.array(targets, np.int64),
        peak=np.array([float(a.sum(1).max()) for a in arrays], np.float64),
        weight=np.array(weights, np.float64),
        background=np.array([_starts(r.path, recipe.data.background) for r in owners], bool),
        rows=tuple(owners),
    )
