"""Sounds made by rule: negatives for household transients and signals that recordings with free licences seldom hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from pdmu.data.audio import to_int16

SEED = 20240917
Sound = Callable[[np.random.Generator, int], np.ndarray]


def procedural_sounds(count: int) -> list[tuple[str, int]]:
    """Return (kind, index) of `count` sounds, the kinds in turn, for `make_sound`."""
    kinds = tuple(SOUNDS)
    return [(kinds[index % len(kinds)], index) for index in range(count)]


def make_sound(kind: str, index: int, sample_rate_hz: int) -> np.ndarray:
    """Return sound `index` of a kind, int16 ``[n]``, 0.3 to 2.5 s, peak at half of full scale, with a faint noise floor."""
    rng = np.random.default_rng([SEED, index])
    x = SOUNDS[kind](rng, sample_rate_hz)
    x = x / max(1e-9, float(np.abs(x).max())) * 0.5
    return to_int16(x + rng.normal(0, 10 ** (rng.uniform(-80, -60) / 20), len(x)))


def _silence(rng: np.random.Generator, rate: int) -> np.ndarray:
    return np.zeros(int(rate * rng.uniform(0.3, 2.5)))


def _place(x: np.ndarray, sound: np.ndarray, at: int) -> None:
    end = min(len(x), at + len(sound))
    x[at:end] += sound[: end - at]


def _repeat(rng: np.random.Generator, rate: int, hit: np.ndarray, most: int) -> np.ndarray:
    """Repeat a hit 1 to `most` times in near-regular rhythm, each a little different in level."""
    x = _silence(rng, rate)
    at, gap = rng.uniform(0, 0.2), rng.uniform(0.08, 0.6)
    for _ in range(int(rng.integers(1, most + 1))):
        if at * rate >= len(x):
            break
        _place(x, hit * rng.uniform(0.5, 1), int(at * rate))
        at += gap * rng.uniform(0.85, 1.15)
    return x


def _modes(rng: np.random.Generator, rate: int, f_low: float, f_high: float, count: int, decay_s: float) -> np.ndarray:
    """Sum decaying resonances: a struck body."""
    t = np.arange(int(rate * min(1.0, 6 * decay_s))) / rate
    f = np.exp(rng.uniform(np.log(f_low), np.log(f_high), count))
    decay = decay_s * rng.uniform(0.3, 1.2, count)
    gain = rng.uniform(0.2, 1, count)
    return (gain[:, None] * np.exp(-t / decay[:, None]) * np.sin(2 * np.pi * f[:, None] * t + rng.uniform(0, 6.28, (count, 1)))).sum(0)


def _coloured(rng: np.random.Generator, rate: int, n: int) -> np.ndarray:
    """Noise through one random resonance."""
    f, radius = rng.uniform(200, 0.45 * rate), rng.uniform(0.5, 0.98)
    poles = [1.0, -2 * radius * np.cos(2 * np.pi * f / rate), radius**2]
    return lfilter([1.0], poles, rng.normal(size=n))


def impact(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Something dropped or set down: a noisy onset and low resonances."""
    hit = _modes(rng, rate, 80, 2500, int(rng.integers(3, 9)), rng.uniform(0.02, 0.15))
    n = int(rate * rng.uniform(0.003, 0.03))
    hit[:n] += rng.normal(size=len(hit[:n])) * np.linspace(2, 0, len(hit[:n]))
    return _repeat(rng, rate, hit, 3)


def knock(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Knuckles on wood, in a series."""
    return _repeat(rng, rate, _modes(rng, rate, 120, 900, 5, rng.uniform(0.015, 0.05)), 6)


def clap(rng: np.random.Generator, rate: int) -> np.ndarray:
    """A hand clap: band noise, several onsets within milliseconds, quick decay."""
    n = int(rate * rng.uniform(0.05, 0.2))
    hit = _coloured(rng, rate, n) * np.exp(-np.arange(n) / rate / rng.uniform(0.01, 0.04))
    return _repeat(rng, rate, hit, 8)


def click(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Switches, keys, a mouse."""
    return _repeat(rng, rate, _modes(rng, rate, 1000, 7000, 4, rng.uniform(0.001, 0.01)), 14)


def tone(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Beeps and alarms."""
    n = int(rate * rng.uniform(0.05, 0.6))
    t = np.arange(n) / rate
    f = rng.uniform(300, 4000)
    beep = sum(np.sin(2 * np.pi * f * k * t) / k ** rng.uniform(0.8, 3) for k in range(1, int(rng.integers(2, 6))) if f * k < rate / 2)
    edge = np.minimum(1, np.minimum(t, t[::-1]) / 0.005)
    return _repeat(rng, rate, beep * edge, 5)


def chirp(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Frequency sweeps: squeaks, whistles, birds."""
    n = int(rate * rng.uniform(0.05, 0.7))
    course = np.exp(np.interp(np.linspace(0, 3, n), range(4), rng.uniform(np.log(400), np.log(6500), 4)))
    sweep = np.sin(2 * np.pi * np.cumsum(course) / rate) * np.sin(np.pi * np.linspace(0, 1, n)) ** rng.uniform(0.3, 2)
    return _repeat(rng, rate, sweep, 6)


def harmonic(rng: np.random.Generator, rate: int) -> np.ndarray:
    """A voiced sound with moving pitch and formant-like resonances: humming, calls, instruments."""
    n = int(rate * rng.uniform(0.15, 1.2))
    pitch = np.exp(np.interp(np.linspace(0, 3, n), range(4), np.log(rng.uniform(90, 500)) + rng.normal(0, 0.15, 4)))
    x = 2 * ((np.cumsum(pitch) / rate) % 1) - 1
    for _ in range(3):
        f, radius = rng.uniform(300, 3500), rng.uniform(0.9, 0.98)
        x = lfilter([1 - radius], [1.0, -2 * radius * np.cos(2 * np.pi * f / rate), radius**2], x)
    edge = np.interp(np.linspace(0, 1, n), [0, rng.uniform(0.02, 0.3), rng.uniform(0.5, 0.9), 1], [0, 1, 0.8, 0])
    return _repeat(rng, rate, x * edge, 4)


def noise_burst(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Sprays, air, a page torn, a door's friction: shaped noise of 50 ms to 1 s, without the glottal end of a cough."""
    n = int(rate * rng.uniform(0.05, 1.0))
    rise = rng.uniform(0.05, 0.9)
    return _repeat(rng, rate, _coloured(rng, rate, n) * np.interp(np.linspace(0, 1, n), [0, rise, 1], [0, 1, 0]), 3)


def rustle(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Paper, bags, clothes, footsteps on gravel: many small bursts."""
    x = _silence(rng, rate)
    for at in rng.uniform(0, len(x), int(rng.integers(20, 200))).astype(int):
        n = int(rate * rng.uniform(0.002, 0.03))
        _place(x, rng.normal(size=n) * np.exp(-np.linspace(0, 5, n)) * rng.exponential(), at)
    f = rng.uniform(0.2, 0.9)
    return lfilter([1.0, -f], [1.0], x)


SOUNDS: dict[str, Sound] = {f.__name__: f for f in (impact, knock, clap, click, tone, chirp, harmonic, noise_burst, rustle)}
