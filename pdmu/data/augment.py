"""Augmentation in the domain of linear mel energies, whole batches at a time.

Energies of independent sounds add up, apart from a cross term that averages out over the FFT bins of a band; so noise, gain, equalisation,
reverberation and band limits cost a few array operations here instead of a resynthesis of the waveform.
Arrays are float32 ``[B, T, n_mels]`` in PCM units squared.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pdmu.config import FrontendConfig
from pdmu.data.corpus import band_centres_hz, full_scale_energy
from pdmu.data.recipe import AugmentConfig
from pdmu.tables import hann_window, mel_bank

CURVE_POINTS = 6  # control points of a random equalisation


@lru_cache
def band_freedom(frontend: FrontendConfig) -> np.ndarray:
    """Return how many independent FFT bins a band averages over, float32 ``[n_mels]``, at least 1.

    The window correlates neighbouring bins (Hann: 1.5 bins wide), and the triangle weighs them.
    """
    bank = mel_bank(frontend)
    return np.maximum(1.0, bank.sum(1) ** 2 / (bank**2).sum(1) / 1.5).astype(np.float32)


@lru_cache
def white_noise_energy(frontend: FrontendConfig) -> np.ndarray:
    """Return the mean mel energies of white noise with RMS 1.0 of full scale, float32 ``[n_mels]``."""
    power = float((hann_window(frontend.window_samples) ** 2).sum()) * 32768.0**2
    return (mel_bank(frontend).sum(1) * power).astype(np.float32)


def uniform(rng: np.random.Generator, pair: tuple[float, ...], size: tuple[int, ...]) -> np.ndarray:
    """Draw float32 evenly from a (low, high) pair."""
    return rng.uniform(pair[0], pair[1], size).astype(np.float32)


def decibels(db: np.ndarray) -> np.ndarray:
    """Return the energy factor of a level difference in dB."""
    return np.exp(db * np.float32(np.log(10) / 10))


def mix(rng: np.random.Generator, frontend: FrontendConfig, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the energies of the sum of two independent sounds: a + b and a random cross term, never below (√a - √b)²."""
    phase = np.cos(rng.random(a.shape, np.float32) * np.float32(2 * np.pi)) / np.sqrt(band_freedom(frontend))
    return a + b + 2 * np.sqrt(a * b) * phase


def equalise(rng: np.random.Generator, cfg: AugmentConfig, energies: np.ndarray) -> np.ndarray:
    """Multiply by a smooth random gain over the bands, another one for each segment; some segments stay as they are."""
    batch, _, bands = energies.shape
    points = uniform(rng, (-cfg.equalise_db, cfg.equalise_db), (batch, CURVE_POINTS))
    points *= rng.random((batch, 1), np.float32) * (rng.random((batch, 1)) < cfg.equalise)
    at = np.linspace(0, CURVE_POINTS - 1, bands, dtype=np.float32)
    spread = np.maximum(0, 1 - np.abs(at - np.arange(CURVE_POINTS, dtype=np.float32)[:, None]))  # linear interpolation as a matrix
    return energies * decibels(points @ spread)[:, None, :]


def muffle(rng: np.random.Generator, cfg: AugmentConfig, frontend: FrontendConfig, energies: np.ndarray) -> np.ndarray:
    """Let the treble of some segments fall off above a random corner, as behind a hand or an elbow."""
    batch = len(energies)
    corner = np.exp(uniform(rng, (np.log(cfg.muffle_from_hz[0]), np.log(cfg.muffle_from_hz[1])), (batch, 1)))
    slope = uniform(rng, cfg.muffle_db_per_octave, (batch, 1)) * (rng.random((batch, 1)) < cfg.muffle)
    octaves = np.maximum(0, np.log2(band_centres_hz(frontend).astype(np.float32) / corner))
    return energies * decibels(-slope.astype(np.float32) * octaves)[:, None, :]


def reverberate(rng: np.random.Generator, cfg: AugmentConfig, frontend: FrontendConfig, energies: np.ndarray) -> np.ndarray:
    """Add an exponentially decaying, fluctuating tail to some segments; high bands decay faster."""
    batch, frames, bands = energies.shape
    chosen = np.flatnonzero(rng.random(batch) < cfg.reverb)
    if len(chosen) == 0:
        return energies
    hop_s = frontend.hop_samples / frontend.sample_rate_hz
    rt60 = np.exp(uniform(rng, (np.log(cfg.rt60_s[0]), np.log(cfg.rt60_s[1])), (len(chosen), 1)))
    rt60 = rt60 * np.linspace(1.0, rng.uniform(0.4, 1.0), bands, dtype=np.float32)
    decay = np.exp(-np.float32(6 * np.log(10)) * hop_s / rt60)  # energy falls by 60 dB in rt60
    gain = decibels(uniform(rng, cfg.reverb_wet_db, (len(chosen), 1))) * (1 - decay) / decay
    dry = energies[chosen]
    tail = np.zeros_like(dry)
    state = np.zeros_like(dry[:, 0])
    for t in range(1, frames):
        state = decay * (state + dry[:, t - 1])
        tail[:, t] = state
    freedom = band_freedom(frontend)
    tail *= gain[:, None, :] * rng.standard_gamma(np.broadcast_to(freedom, tail.shape), dtype=np.float32) / freedom
    wet = energies.copy()
    wet[chosen] = dry + tail
    return wet


def band_limit(rng: np.random.Generator, cfg: AugmentConfig, frontend: FrontendConfig, energies: np.ndarray) -> np.ndarray:
    """Empty the bands above a random cutoff in some segments, as telephony and low sample rates do."""
    batch = len(energies)
    cut = np.where(rng.random((batch, 1)) < cfg.band_limit, uniform(rng, cfg.band_limit_hz, (batch, 1)), np.inf)
    return energies * (band_centres_hz(frontend) < cut).astype(np.float32)[:, None, :]


def add_floor(rng: np.random.Generator, cfg: AugmentConfig, frontend: FrontendConfig, energies: np.ndarray) -> np.ndarray:
    """Add a microphone's noise: random level and tilt, fluctuating as a power spectrum does.

    Always, so that digital silence tells nothing.
    """
    batch, _, bands = energies.shape
    tilt = uniform(rng, (-cfg.floor_tilt_db, cfg.floor_tilt_db), (batch, 1)) * np.linspace(0.5, -0.5, bands, dtype=np.float32)
    mean = white_noise_energy(frontend) * decibels(uniform(rng, cfg.floor_dbfs, (batch, 1)) + tilt)
    freedom = band_freedom(frontend)
    fluctuation = rng.standard_gamma(np.broadcast_to(freedom, energies.shape), dtype=np.float32) / freedom
    return energies + mean[:, None, :] * fluctuation


def level_gain(rng: np.random.Generator, cfg: AugmentConfig, frontend: FrontendConfig, peak: np.ndarray) -> np.ndarray:
    """Return the factor that brings clips with loudest frame `peak` ``[B]`` to a random level, float32 ``[B]``."""
    wanted = decibels(uniform(rng, cfg.level_dbfs, peak.shape)) * full_scale_energy(frontend)
    return (wanted / np.maximum(peak, 1.0)).astype(np.float32)


def mask_features(rng: np.random.Generator, cfg: AugmentConfig, frontend: FrontendConfig, shape: tuple[int, int, int]) -> np.ndarray:
    """Return which features SpecAugment keeps, float32 ``[B, T, n_mels]`` of zeros and ones."""
    batch, frames, bands = shape
    keep = np.ones(shape, np.float32)
    longest = cfg.time_mask_s * frontend.sample_rate_hz / frontend.hop_samples
    t, b = np.arange(frames), np.arange(bands)
    for _ in range(cfg.time_masks):
        width, start = rng.uniform(0, longest, (batch, 1)), rng.uniform(0, frames, (batch, 1))
        keep *= ~((t >= start) & (t < start + width))[:, :, None]
    for _ in range(cfg.mel_masks):
        width, start = rng.uniform(0, cfg.mel_mask_bands, (batch, 1)), rng.uniform(-1, bands, (batch, 1))
        keep *= ~((b >= start) & (b < start + width))[:, None, :]
    return keep
