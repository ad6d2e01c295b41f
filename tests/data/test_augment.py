"""Augmentation in the energy domain does to energies what it would do to sound."""

from __future__ import annotations

import numpy as np
import pytest

from pdmu.config import FrontendConfig
from pdmu.data import augment
from pdmu.data.corpus import activity, band_centres_hz, full_scale_energy
from pdmu.data.recipe import AugmentConfig
from pdmu.frontend import mel_energies
from pdmu.tables import mel_bank

CFG = FrontendConfig(n_mels=24)


def _noise(rms: float, seed: int, n: int = 160000) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, rms * 32768, n)


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_band_centres_are_the_filters_peaks() -> None:
    peaks = mel_bank(CFG).argmax(1) * CFG.sample_rate_hz / CFG.window_samples
    assert np.abs(peaks - band_centres_hz(CFG)).max() <= CFG.sample_rate_hz / CFG.window_samples


def test_level_of_full_scale_noise() -> None:
    """All of white noise's energy is counted but what lies outside the bank, or on the outer flanks of its first and last filter."""
    share = mel_energies(CFG, _noise(0.1, 1)).sum(1).mean() / full_scale_energy(CFG) / 0.01
    assert share == pytest.approx(mel_bank(CFG).sum(0).mean(), rel=0.01)
    assert 0.9 < share < 1


def test_floor_has_the_spectrum_and_fluctuation_of_white_noise() -> None:
    cfg = AugmentConfig(floor_dbfs=(-40.0, -40.0), floor_tilt_db=0.0)
    real = mel_energies(CFG, _noise(0.01, 2))[4:]
    made = augment.add_floor(_rng(), cfg, CFG, np.zeros((1, 600, 24), np.float32))[0]
    assert np.abs(10 * np.log10(made.mean(0) / real.mean(0))).max() < 1.0
    spread = (made.std(0) / made.mean(0)) / (real.std(0) / real.mean(0))
    assert spread.min() > 0.75 and spread.max() < 1.35


def test_silence_never_stays_silent() -> None:
    made = augment.add_floor(_rng(), AugmentConfig(), CFG, np.zeros((200, 20, 24), np.float32))
    assert (made > 0).all()
    level = 10 * np.log10(made.sum(2).mean(1) / full_scale_energy(CFG))
    assert level.min() < -80 and level.max() > -60


def test_mixing_energies_is_like_mixing_sounds() -> None:
    a, b = _noise(0.05, 3), _noise(0.05, 4)
    energies = [mel_energies(CFG, x)[None].astype(np.float32) for x in (a, b, a + b)]
    mixed = augment.mix(_rng(), CFG, energies[0], energies[1])
    assert mixed.mean() == pytest.approx(energies[2].mean(), rel=0.02)
    assert (mixed >= 0).all()
    assert mixed.std() / mixed.mean() == pytest.approx(energies[2].std() / energies[2].mean(), rel=0.15)


def test_equalisation_is_smooth_constant_in_time_and_bounded() -> None:
    gain = 10 * np.log10(augment.equalise(_rng(), AugmentConfig(equalise=1.0), np.ones((50, 3, 24), np.float32)))
    assert np.allclose(gain[:, 0], gain[:, 2])
    assert np.abs(gain).max() <= 12 and gain.std() > 1
    assert np.abs(np.diff(gain, axis=2)).max() < 24 / (24 / augment.CURVE_POINTS) * 1.1
    assert np.array_equal(augment.equalise(_rng(), AugmentConfig(equalise=0.0), np.ones((5, 3, 24), np.float32)), np.ones((5, 3, 24)))


def test_reverberation_decays_by_60_db_in_rt60() -> None:
    cfg = AugmentConfig(reverb=1.0, rt60_s=(0.5, 0.5), reverb_wet_db=(0.0, 0.0))
    dry = np.zeros((64, 60, 24), np.float32)
    dry[:, 0] = 1e6
    wet = augment.reverberate(_rng(), cfg, CFG, dry)
    assert np.array_equal(wet[:, 0], dry[:, 0])
    assert wet[:, 1:].sum(1).mean() == pytest.approx(1e6, rel=0.1)  # 0 dB: the tail has the energy of the direct sound
    tail = 10 * np.log10(wet[:, 1:, 0].mean(0))  # the lowest band has the whole decay time
    slope = np.polyfit(np.arange(len(tail)) * 256 / 16000, tail, 1)[0]
    assert slope == pytest.approx(-60 / 0.5, rel=0.05)
    assert dry[:, 1:].max() == 0  # the argument is left alone


def test_band_limit_empties_the_bands_above() -> None:
    cfg = AugmentConfig(band_limit=1.0, band_limit_hz=(4000.0, 4000.0))
    left = augment.band_limit(_rng(), cfg, CFG, np.ones((2, 3, 24), np.float32))[0, 0]
    assert np.array_equal(left, (band_centres_hz(CFG) < 4000).astype(np.float32))


def test_masks_have_the_wanted_size() -> None:
    keep = augment.mask_features(_rng(), AugmentConfig(time_masks=1, time_mask_s=0.2, mel_masks=1, mel_mask_bands=6), CFG, (300, 100, 24))
    rows, columns = (keep.max(2) == 0).sum(1), (keep.max(1) == 0).sum(1)
    assert rows.max() <= 13 and rows.mean() > 3
    assert columns.max() <= 6 and columns.mean() > 1


def test_activity_is_where_the_sound_is() -> None:
    x = np.random.default_rng(0).normal(0, 20, 32000)
    x[12800:16000] += 8000 * np.sin(np.arange(3200))
    active = activity(CFG, mel_energies(CFG, x))
    assert active[51:62].all() and not active[:48].any() and not active[66:].any()
    assert activity(CFG, mel_energies(CFG, _noise(0.1, 1, 16000))).mean() > 0.9  # a steady sound is all active
