"""The shipped recipes' clips as labelled sequences of one length.

``cough``, ``birds`` and ``esc10`` take the recordings of a manifest that the shipped recipe of that name trains on — its ``data.include``,
``data.exclude`` and ``task.licence_allow`` — with the labels its ``task.mapping`` gives them, through its ``frontend``. Nothing of that is
said a second time here. What is heard only after training (``data.validate_only``) and synthetic sounds are left out; what the recipe
keeps for training (``data.train_only``) may be held out here: folds are of all groups.

A recording becomes ``seconds`` of features: its most active stretch where it is longer, silence behind it where it is shorter; `average`
frames make a step. There is no public test part: ask for ``folds``. ESC-10's folds are official and are used when there are as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdmu.config import FrontendConfig
from pdmu.data.cache import EnergyCache
from pdmu.data.corpus import activity
from pdmu.data.features import fit, join, read_energies, steps
from pdmu.data.manifest import Row, read_manifest
from pdmu.data.recipe import Recipe, load_recipe
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import LoadedSequences, Progress, missing, read_options
from pdmu.errors import UserError

SECONDS = {"cough": 2.0, "birds": 5.0, "esc10": 5.0}  # length of a sequence where the options give none
CARDS = {"cough": "cough_c19", "birds": "birds", "esc10": "esc10"}  # card that is named where the recordings are missing
FOLDS = {"esc10": "fold"}  # data sets with official folds → how their names begin


@dataclass(frozen=True)
class ClipOptions:
    """Settings of ``cough``, ``birds`` and ``esc10``."""

    seconds: float = 0.0  # length of every sequence; 0 = as `SECONDS`
    average: int = 4  # front-end frames whose mean is one step
    other: int = 1  # 0: without the recipe's class of everything else, 19 recordings in 20 of birds

    def __post_init__(self) -> None:
        if self.seconds < 0 or self.average < 1 or self.other not in (0, 1):
            raise ValueError("seconds must not be negative, average at least 1, and other 0 or 1")


def load(config: SequenceDataConfig, root: Path, cache: Path, progress: Progress) -> LoadedSequences:
    """Read ``cough``, ``birds`` or ``esc10``.

    Parameters
    ----------
    config : SequenceDataConfig
        `options`: see `ClipOptions`.
    root : Path
        Folder of ``manifest.csv``, to which its paths are relative.
    cache : Path
        Where mel energies are kept.
    progress : callable
        Wraps the recordings.

    Returns
    -------
    LoadedSequences
        ``values`` float32, `SECONDS` · 62.5 Hz / 4 steps of 40 inputs as the recipes and options stand: ``[n · 31, 40]`` for cough,
        ``[n · 78, 40]`` for the others. Groups are the manifest's; of two equal files the first is kept.

    Raises
    ------
    UserError
        No manifest, a row of it that cannot be used, or an option that does not exist.
    """
    options = read_options(ClipOptions, config)
    recipe = load_recipe(config.data)
    rows = _recordings(recipe, root, config.data)
    labels = recipe.classes
    if not options.other:
        labels = tuple(label for label in labels if label != recipe.task.other)
        rows = [row for row in rows if _class(recipe, row) in labels]
    if len(labels) < 2:
        raise UserError(f'[sequence.options] of "{config.data}": other = 0 leaves one class; nothing can be told apart')
    frontend, hop_s = recipe.frontend, recipe.frontend.hop_samples / recipe.frontend.sample_rate_hz
    frames = int((options.seconds or SECONDS[config.data]) / hop_s) // options.average * options.average
    if frames == 0:
        raise UserError(f'"{config.data}": seconds = {options.seconds:g} is less than a step of {options.average} frames')
    energies = EnergyCache(cache, frontend, recipe.data.min_s, recipe.data.silence_dbfs)
    features: list[NDArray[np.float32]] = []
    kept: list[Row] = []
    seen: set[str] = set()
    for row in progress(rows):
        heard, digest = read_energies(energies, root / row.path)
        if digest not in seen:
            seen.add(digest)
            kept.append(row)
            features.append(steps(frontend, fit(most_active(frontend, heard, frames), frames), options.average))
    targets = [labels.index(_class(recipe, row)) for row in kept]
    sequences = join(features, np.array(targets, np.int64), [row.group for row in kept])
    official = FOLDS.get(config.data)
    fold = np.array([row.fold for row in kept]) if official and all(row.fold.startswith(official) for row in kept) else None
    return LoadedSequences(labels, sequences, np.full(len(kept), ""), fold=fold)


def _recordings(recipe: Recipe, root: Path, name: str) -> list[Row]:
    """Return the rows of the manifest that a recipe trains on."""
    manifest = root / "manifest.csv"
    if not manifest.is_file():
        raise missing(root, "no manifest.csv there (path,label,group, and the recordings beside it)", CARDS[name])
    rows, rejected = read_manifest(manifest, root)
    if rejected:
        raise UserError(f"{manifest}: {rejected[0].path}: {rejected[0].reason}; correct that line or take it out")
    left_out = (*recipe.data.exclude, *recipe.data.validate_only)
    chosen = [r for r in rows if r.path.startswith(recipe.data.include) and not r.path.startswith(left_out)]
    chosen = [r for r in chosen if recipe.licence_allowed(r.licence) and _class(recipe, r)]
    if not chosen:
        wanted = ", ".join(recipe.data.include)
        raise missing(root, f"manifest.csv lists nothing that the recipe '{name}' trains on ({wanted})", CARDS[name])
    return chosen


def _class(recipe: Recipe, row: Row) -> str:
    """Return the class a recording belongs to; empty where the recipe does not name its label."""
    index = recipe.class_of(row.label)
    return "" if index is None else recipe.classes[index]


def most_active(frontend: FrontendConfig, energies: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Return the consecutive `frames` of which most belong to the recording's sound, the first such; all where there are fewer."""
    if len(energies) <= frames:
        return energies
    heard = np.concatenate([[0], np.cumsum(activity(frontend, energies))])
    first = int(np.argmax(heard[frames:] - heard[:-frames]))
    return energies[first : first + frames]
