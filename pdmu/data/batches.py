"""Training segments: clips drawn by class, placed in time, augmented, with targets for every model step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pdmu.data import augment
from pdmu.data.corpus import Clips
from pdmu.data.recipe import Recipe
from pdmu.errors import UserError

HANG_S = 0.25  # steps this soon after a sound count neither as sounding nor as silent: the network may still be deciding


@dataclass(frozen=True)
class Batch:
    """One batch of segments."""

    energies: np.ndarray  # float32 [B, T, n_mels], PCM units squared
    keep: np.ndarray  # float32 [B, T, n_mels], SpecAugment masks for the compressed features
    step_target: np.ndarray  # float32 [B, T // S, labels]
    step_weight: np.ndarray  # float32 [B, T // S]; 0 = the step is not judged
    clip_target: np.ndarray  # float32 [B, labels]


class Sampler:
    """Draws batches; all its randomness comes from the seed and the epoch, so an epoch can be repeated exactly.

    Parameters
    ----------
    recipe : Recipe
    clips : Clips
        Training recordings.

    Raises
    ------
    UserError
        A class without any recording.
    """

    def __init__(self, recipe: Recipe, clips: Clips) -> None:
        self.recipe = recipe
        self.clips = clips
        frames = recipe.train.segment_s * recipe.frontend.sample_rate_hz / recipe.frontend.hop_samples
        self.stride = recipe.model.frames_per_step
        self.frames = max(1, round(frames / self.stride)) * self.stride
        self.batches = max(1, round(recipe.train.segments_per_epoch / recipe.train.batch))  # of an epoch
        self.probability = self._probabilities()
        self.backgrounds = np.flatnonzero(clips.background)
        self.others = np.flatnonzero(clips.target == recipe.classes.index(recipe.task.other)) if recipe.task.other else np.zeros(0, int)
        if recipe.augment.background and len(self.backgrounds) == 0:
            raise UserError("augment.background: no background recording to mix in; name some in data.background, or set it to 0")

    def _probabilities(self) -> np.ndarray:
        """Return how likely each clip is drawn: classes by class_share, within a class by weight."""
        clips, classes = self.clips, self.recipe.classes
        probability = np.zeros(len(clips))
        for index, name in enumerate(classes):
            members = clips.target == index
            total = clips.weight[members].sum()
            if total <= 0:
                raise UserError(f"no recording of the class '{name}' to train on; see the list of rejected files and the recipe's mapping")
            probability[members] = clips.weight[members] / total * self.recipe.train.class_share.get(name, 1.0)
        return probability / probability.sum()

    def epoch(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; the last one is as long as the others."""
        rng = np.random.default_rng([seed, epoch])
        for _ in range(self.batches):
            yield self.draw(rng, self.recipe.train.batch)

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """Return a batch of `count` segments."""
        recipe, frontend, cfg = self.recipe, self.recipe.frontend, self.recipe.augment
        chosen = rng.choice(len(self.clips), count, p=self.probability)
        energies, active = self._place(rng, chosen)
        energies *= augment.level_gain(rng, cfg, frontend, self.clips.peak[chosen])[:, None, None]
        energies = augment.muffle(rng, cfg, frontend, augment.equalise(rng, cfg, energies))
        energies = augment.reverberate(rng, cfg, frontend, energies)
        loudest = energies.sum(2).max(1)
        energies = self._overlay(rng, energies, loudest)
        energies = self._background(rng, energies, loudest)
        energies = augment.add_floor(rng, cfg, frontend, augment.band_limit(rng, cfg, frontend, energies))
        keep = augment.mask_features(rng, cfg, frontend, energies.shape)
        step_target, step_weight, clip_target = self._targets(self.clips.target[chosen], active)
        if recipe.train.mixup_alpha:
            share = rng.beta(recipe.train.mixup_alpha, recipe.train.mixup_alpha, count).astype(np.float32)
            energies = augment.mix(rng, frontend, energies * share[:, None, None], energies[::-1] * (1 - share)[:, None, None])
            clip_target = clip_target * share[:, None] + clip_target[::-1] * (1 - share)[:, None]
            step_target = step_target * share[:, None, None] + step_target[::-1] * (1 - share)[:, None, None]
        return Batch(energies, keep, step_target, step_weight, clip_target)

    def _place(self, rng: np.random.Generator, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Put each clip at a random time; of a clip longer than the segment take a part in which it sounds.

        Returns energies ``[B, T, n_mels]`` (zero outside the clip) and activity ``[B, T]``.
        """
        clips, frames = self.clips, self.frames
        hop_s = self.recipe.frontend.hop_samples / self.recipe.frontend.sample_rate_hz
        length = clips.length[chosen]
        lead = rng.integers(0, min(frames - 1, round(self.recipe.train.lead_in_s / hop_s)) + 1, len(chosen))
        lead[rng.random(len(chosen)) < self.recipe.train.no_lead_share] = 0
        anywhere = rng.integers(0, np.maximum(1, frames - length + 1))
        shift = np.where(length + lead <= frames, np.where(lead == 0, 0, anywhere), lead)
        first = np.zeros(len(chosen), np.int64)
        for i in np.flatnonzero(length > frames - shift):
            sounding = np.flatnonzero(clips.active[clips.start[chosen[i]] : clips.start[chosen[i]] + length[i]])
            room = frames - shift[i]
            first[i] = np.clip(rng.choice(sounding) - rng.integers(0, room), 0, length[i] - room)
        position = np.arange(frames) - shift[:, None] + first[:, None]
        inside = (np.arange(frames) >= shift[:, None]) & (position < length[:, None])
        at = clips.start[chosen][:, None] + np.where(inside, position, 0)
        return clips.energies[at] * inside[:, :, None].astype(np.float32), clips.active[at] & inside

    def _overlay(self, rng: np.random.Generator, energies: np.ndarray, loudest: np.ndarray) -> np.ndarray:
        """Lay clips of the class `other` over some segments; labels stay."""
        cfg, frontend = self.recipe.augment, self.recipe.frontend
        over = np.flatnonzero(rng.random(len(energies)) < cfg.overlay)
        if len(over) == 0 or len(self.others) == 0:
            return energies
        weight = self.probability[self.others]
        chosen = rng.choice(self.others, len(over), p=weight / weight.sum())
        second, _ = self._place(rng, chosen)
        wanted = augment.decibels(augment.uniform(rng, cfg.overlay_db, (len(over),))) * loudest[over]
        gain = wanted / np.maximum(self.clips.peak[chosen], 1.0)
        second = augment.equalise(rng, cfg, second * gain.astype(np.float32)[:, None, None])
        energies[over] = augment.mix(rng, frontend, energies[over], second)
        return energies

    def _background(self, rng: np.random.Generator, energies: np.ndarray, loudest: np.ndarray) -> np.ndarray:
        """Mix a stretch of a background recording under some segments, at a random level below their loudest frame."""
        cfg, clips, frames = self.recipe.augment, self.clips, self.frames
        under = np.flatnonzero(rng.random(len(energies)) < cfg.background)
        if len(under) == 0:
            return energies
        chosen = rng.choice(self.backgrounds, len(under))
        first = rng.integers(0, clips.length[chosen])
        at = clips.start[chosen][:, None] + (first[:, None] + np.arange(frames)) % clips.length[chosen][:, None]
        noise = augment.equalise(rng, cfg, clips.energies[at])
        mean = np.maximum(noise.sum(2).mean(1), 1.0)
        gain = augment.decibels(-augment.uniform(rng, cfg.snr_db, (len(under),))) * loudest[under] / mean
        energies[under] = augment.mix(rng, self.recipe.frontend, energies[under], noise * gain[:, None, None])
        return energies

    def _targets(self, target: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return step targets, step weights and clip targets of clips with class `target` ``[B]`` and activity ``[B, T]``."""
        labels = len(self.recipe.model.labels)
        one_hot = np.eye(labels + 1, labels, dtype=np.float32)  # last row: a class that is no label
        clip_target = one_hot[np.minimum(target, labels)]
        steps = np.logical_or.reduce(active.reshape(len(active), -1, self.stride), axis=2)
        if self.recipe.train.frame_targets == "clip":
            return np.repeat(clip_target[:, None], steps.shape[1], 1), np.ones(steps.shape, np.float32), clip_target
        other = self.recipe.classes.index(self.recipe.task.other) if self.recipe.task.other else labels
        quiet = one_hot[min(other, labels)]
        step_target = np.where(steps[:, :, None], clip_target[:, None], quiet)
        step_s = self.stride * self.recipe.frontend.hop_samples / self.recipe.frontend.sample_rate_hz
        index = np.arange(steps.shape[1])
        last = np.maximum.accumulate(np.where(steps, index, -(10**6)), axis=1)
        just_after = np.less_equal(index - last, round(HANG_S / step_s))
        undecided = ~steps & just_after & (target[:, None] != np.array([other]))
        return step_target.astype(np.float32), np.where(undecided, 0, 1).astype(np.float32), clip_target
