"""A training recipe: one TOML file that says what is trained, on what, and how."""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pdmu.config import FAMILIES, DetectorConfig, FrontendConfig, ModelConfig, from_dict
from pdmu.errors import UserError
from pdmu.resources import resource_dir
from pdmu.tables import mel_bank

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class TaskConfig:
    """What is told apart, and which recordings may be used for it."""

    name: str
    mapping: dict[str, tuple[str, ...]]  # class → manifest labels; "*" = every label not named elsewhere
    other: str = ""  # class of everything else; where it is no label of the model, its clips are negatives for every label
    licence_allow: tuple[str, ...] = ()  # regular expressions (case ignored, matched at the start); empty = any licence
    licence: str = ""  # licence of what is trained, for the bundle
    description: str = ""
    limits: str = ""  # what the model should not be trusted with, for its card

    def __post_init__(self) -> None:
        for expression in self.licence_allow:
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"licence_allow: '{expression}' is no regular expression ({error})") from None
        if sum("*" in labels for labels in self.mapping.values()) > 1:
            raise ValueError("mapping: only one class can take '*'")


@dataclass(frozen=True)
class DataConfig:
    """Which rows of the manifest, and how they are split. Paths are prefixes relative to the root."""

    include: tuple[str, ...] = ()  # empty = everything
    exclude: tuple[str, ...] = ()
    validate_only: tuple[str, ...] = ()  # never trained on, never used to choose; reported beside the validation
    train_only: tuple[str, ...] = ()  # never held out for validation: too few people or places to spare any
    background: tuple[str, ...] = ()  # also mixed under other clips
    weights: dict[str, float] = field(default_factory=dict)  # path prefix → how often its clips are drawn, relative to others
    split: Literal["groups", "official"] = "groups"
    split_seed: int = 1  # apart from train.seed, so that runs with several seeds validate on the same recordings
    validation_share: float = 0.15
    validation_folds: tuple[str, ...] = ()
    decoys: dict[str, tuple[float, ...]] = field(default_factory=dict)  # path prefix → speeds at which its sounds become the class `other`
    procedural: int = 0  # synthetic negatives (knocks, clicks, tones, rustle …)
    min_s: float = 0.05
    silence_dbfs: float = -80.0

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share <= 0.5:
            raise ValueError("validation_share must be from 0 to 0.5")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("weights must not be negative")
        if self.procedural < 0:
            raise ValueError("procedural must not be negative")
        if any(0.75 < speed < 1.33 or not 0.3 <= speed <= 3 for speeds in self.decoys.values() for speed in speeds):
            raise ValueError("decoys: speeds must lie from 0.3 to 0.75 or from 1.33 to 3: nearer to 1 they may still be the species")


@dataclass(frozen=True)
class TrainConfig:
    """Segments, losses and optimisation."""

    epochs: int = 40
    segments_per_epoch: int = 3000
    batch: int = 64
    segment_s: float = 2.0
    lead_in_s: float = 1.0  # background before a clip: up to this
    no_lead_share: float = 0.25  # part of the segments whose clip begins at once
    lr: float = 4e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.1
    ema_decay: float = 0.998  # of the averaged weights, per batch; these are evaluated and kept
    grad_clip: float = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    frame_weight: float = 1.0  # cross-entropy of every model step
    frame_targets: Literal["activity", "clip"] = "activity"  # a step is positive where its clip sounds, or throughout the segment
    clip_weight: float = 0.5  # cross-entropy of the pooled clip score
    pooling: Literal["max", "mean_logit"] = "max"  # of clip scores, in the loss and in evaluation
    mixup_alpha: float = 0.0  # 0 = none; only with frame_targets = "clip"
    class_share: dict[str, float] = field(default_factory=dict)  # how often each class is drawn; default: equally
    seed: int = 1
    false_alarm_rate: float = 0.01  # clip-level rate on validation at which the thresholds are set

    def __post_init__(self) -> None:
        if min(self.epochs, self.segments_per_epoch, self.batch) < 1 or self.segment_s <= 0 or self.lr <= 0:
            raise ValueError("epochs, segments_per_epoch, batch, segment_s and lr must be positive")
        if not 0 <= self.ema_decay < 1 or not 0 < self.false_alarm_rate < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError("ema_decay and label_smoothing must be in [0, 1), false_alarm_rate in (0, 1)")
        if self.frame_weight < 0 or self.clip_weight < 0 or self.frame_weight + self.clip_weight == 0:
            raise ValueError("frame_weight and clip_weight must not be negative nor both zero")
        if min(self.lead_in_s, self.weight_decay, self.mixup_alpha, self.seed) < 0 or self.grad_clip <= 0:
            raise ValueError("lead_in_s, weight_decay, mixup_alpha and seed must not be negative, and grad_clip must be positive")
        if not 0 <= self.dropout < 1 or not 0 <= self.no_lead_share <= 1 or not 0 <= self.warmup_share <= 1:
            raise ValueError("dropout must be in [0, 1), no_lead_share and warmup_share in [0, 1]")
        if any(share <= 0 for share in self.class_share.values()):
            raise ValueError("class_share must be positive for every class it names")
        if self.mixup_alpha and self.frame_targets != "clip":
            raise ValueError('mixup_alpha needs frame_targets = "clip"')


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of linear mel energies; probabilities per segment, levels in dB."""

    level_dbfs: tuple[float, ...] = (-45.0, -8.0)  # loudest frame of the clip is set to a level drawn from here
    background: float = 0.6
    snr_db: tuple[float, ...] = (0.0, 30.0)  # clip's loudest frame over the background's mean
    overlay: float = 0.0  # another clip of the class `other` over this one
    overlay_db: tuple[float, ...] = (-20.0, 0.0)  # its loudest frame against the clip's
    equalise: float = 0.7
    equalise_db: float = 12.0  # largest band gain
    muffle: float = 0.0  # a hand, a sleeve or a housing before the mouth or microphone: treble falls off
    muffle_from_hz: tuple[float, ...] = (300.0, 2000.0)
    muffle_db_per_octave: tuple[float, ...] = (2.0, 12.0)
    reverb: float = 0.4
    rt60_s: tuple[float, ...] = (0.15, 1.0)
    reverb_wet_db: tuple[float, ...] = (-15.0, 3.0)  # energy of the tail against the direct sound
    band_limit: float = 0.3
    band_limit_hz: tuple[float, ...] = (3400.0, 8000.0)
    floor_dbfs: tuple[float, ...] = (-90.0, -50.0)  # microphone noise, always added
    floor_tilt_db: float = 24.0  # largest tilt of that noise over the bands, either way
    time_masks: int = 1
    time_mask_s: float = 0.2
    mel_masks: int = 2
    mel_mask_bands: int = 6
    speeds: tuple[float, ...] = ()  # further copies of each clip, e.g. 0.9 and 1.1

    def __post_init__(self) -> None:
        pairs = ("level_dbfs", "snr_db", "overlay_db", "muffle_from_hz", "muffle_db_per_octave", "rt60_s", "reverb_wet_db", "band_limit_hz")
        for name in (*pairs, "floor_dbfs"):
            pair = getattr(self, name)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"{name} must be a pair, lowest first")
        if min(*self.muffle_from_hz, *self.rt60_s) <= 0:
            raise ValueError("muffle_from_hz and rt60_s must be positive")
        for name in ("equalise_db", "time_masks", "time_mask_s", "mel_masks", "mel_mask_bands"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("background", "overlay", "equalise", "muffle", "reverb", "band_limit"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability")
        if any(not 0.5 <= s <= 2 or s == 1 for s in self.speeds):
            raise ValueError("speeds must be from 0.5 to 2 and not 1")


@dataclass(frozen=True)
class Recipe:
    """A whole recipe."""

    task: TaskConfig
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    detector: DetectorConfig | None = None  # thresholds are replaced by the ones found on validation

    def __post_init__(self) -> None:
        self.model.layer_inputs(self.frontend.n_mels)  # before hours of reading, not after
        mel_bank(self.frontend)
        if self.model.readout != "step":
            raise ValueError(f'model.readout = "{self.model.readout}" is for sequences; a detector needs the scores of every "step"')
        classes = self.classes
        for name in self.task.mapping:
            if name not in classes:
                raise ValueError(f"task.mapping: '{name}' is neither a label of the model nor task.other ({', '.join(classes)})")
        if self.model.head == "softmax" and self.task.other not in ("", *self.model.labels):
            raise ValueError("task.other must be a label of the model when its head is softmax")
        for name in self.train.class_share:
            if name not in classes:
                raise ValueError(f"train.class_share: '{name}' is no class ({', '.join(classes)})")
        if (self.data.procedural or self.data.decoys) and not self.task.other:
            raise ValueError("data.procedural and data.decoys need task.other: the class of synthetic sounds")
        if self.model.head == "softmax" and not self.task.other and self.train.frame_targets == "activity" and self.train.frame_weight:
            raise ValueError('train.frame_targets = "activity" needs task.other: what a step is while nothing sounds')
        if self.augment.overlay and not self.task.other:
            raise ValueError("augment.overlay needs task.other: the class that is laid over")
        if self.detector is not None and len(self.detector.threshold_q15) != len(self.model.labels):
            raise ValueError("detector.threshold_q15 needs one value per label")

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's labels, then ``task.other`` where it is none of them."""
        labels = self.model.labels
        return labels if not self.task.other or self.task.other in labels else (*labels, self.task.other)

    def class_of(self, label: str) -> int | None:
        """Return the class a manifest label belongs to, or None where the recipe does not name it."""
        rest = None
        for index, name in enumerate(self.classes):
            named = self.task.mapping.get(name, ())
            if label in named:
                return index
            if "*" in named:
                rest = index
        return rest

    def licence_allowed(self, licence: str) -> bool:
        """Return whether recordings under `licence` may be trained on."""
        allow = self.task.licence_allow
        return not allow or any(re.match(expression, licence, re.IGNORECASE) for expression in allow)


def shipped_recipes() -> Path:
    """Return the folder of the recipes that come with the project."""
    return resource_dir("datasets") / "recipes"


class RecipeTable(NamedTuple):
    """A recipe as read, changed, and with its family applied, before it is known whether it is one of recordings or of sequences."""

    where: str  # for messages
    data: dict[str, Any]
    family: str | None

    @property
    def of_sequences(self) -> bool:
        """Whether it trains on sequences, not on the recordings of a manifest."""
        return "sequence" in self.data


def read_table(name: str, changes: tuple[str, ...] = ()) -> RecipeTable:
    """Read a recipe by file name, or by the name of a shipped one.

    ``model.family`` names a model of :data:`pdmu.config.FAMILIES`: what it says replaces that of every layer, and what `changes` say
    beside it goes over both.

    Parameters
    ----------
    name : str
        ``cough`` or ``path/to/recipe.toml``.
    changes : tuple of str
        ``section.key=value`` with the value in TOML (``train.lr=0.002``, ``model.layers.0.taps=4``); bare words are strings.

    Raises
    ------
    UserError
        No such recipe, not TOML, an unknown family, or a change that has no place.
    """
    path = Path(name) if name.endswith(".toml") else shipped_recipes() / f"{name}.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in shipped_recipes().glob("*.toml")))
        raise UserError(f"recipe {path}: {error.strerror or error}; give a .toml file or one of: {known}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: not valid TOML: {error}") from None
    naming = [change for change in changes if change.partition("=")[0].strip() == "model.family"]
    for change in naming:
        _apply(data, change)
    family = _apply_family(data, path.name)
    for change in changes:
        if change not in naming:
            _apply(data, change)
    return RecipeTable(path.name, data, family)


def load_recipe(name: str, changes: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe of recordings; the arguments are those of `read_table`.

    Raises
    ------
    UserError
        As `read_table`; a setting that is unknown or of the wrong type; a recipe of sequences.
    """
    return parse_recipe(read_table(name, changes))


def parse_recipe(table: RecipeTable) -> Recipe:
    """Return the recipe of recordings that a table holds.

    Raises
    ------
    UserError
        A setting that is unknown or of the wrong type, or a recipe of sequences.
    """
    if table.of_sequences:
        raise UserError(f"{table.where}: trains on sequences, and a recipe of recordings is needed here; give one without [sequence]")
    return from_dict(Recipe, table.data, table.where)


def _apply_family(data: dict[str, Any], where: str) -> str | None:
    """Take ``model.family`` out of a recipe and apply it to every layer; return its name."""
    model = data.get("model")
    if not isinstance(model, dict) or "family" not in model:
        return None
    family = model.pop("family")
    if family not in FAMILIES:
        near = difflib.get_close_matches(str(family), FAMILIES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(FAMILIES)}"
        raise UserError(f"{where} [model]: unknown family '{family}'; {hint}")
    layers = model.get("layers", [])
    for layer in layers if isinstance(layers, list) else []:  # what is none is refused where the recipe is parsed
        if isinstance(layer, dict):
            for key in ("cell", "bidirectional"):  # of another family: an sdmu recipe made lmu has no spikes left
                layer.pop(key, None)
            layer.update(FAMILIES[family])
    return family


def _apply(data: dict[str, Any], change: str) -> None:
    key, sign, text = change.partition("=")
    if not sign or not key.strip():
        raise UserError(f"--set {change}: write section.key=value, for example train.lr=0.002")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    table: Any = data
    for section in sections:
        table = _inside(table, section, change)
        if not isinstance(table, dict | list):
            raise UserError(f"--set {change}: '{section}' is a value, not a section")
    if isinstance(table, list):
        raise UserError(f"--set {change}: '{sections[-1]}' is a list; name one of its entries and a key, for example model.layers.0.taps=4")
    table[last] = value


def _inside(table: Any, section: str, change: str) -> Any:
    """Return the section of a table, made where it is missing, or the entry of a list."""
    if isinstance(table, dict):
        return table.setdefault(section, {})
    if not section.isdecimal() or int(section) >= len(table):
        raise UserError(f"--set {change}: '{section}' is no entry of a list of {len(table)}; they count from 0")
    return table[int(section)]
