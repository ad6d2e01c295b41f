r"""Spikes from mel energies: our own encoder, in the form of the Spiking Heidelberg Digits.

A recording's mel energies E_c[k] (channel c, step k of 5 ms) become levels between 0 and 1 below its own loudest value, and each channel
drives a leaky integrate-and-fire neuron by its level and by that level's rise:

    l_c[k] = clip(1 + 10 log10(E_c[k] / max E) / R, 0, 1)            R: `range_db`
    v_c[k] = β v_c[k-1] + a l_c[k] + o max(0, l_c[k] - l_c[k-1])     a: `level_gain`, o: `onset_gain`, l_c[-1] = 0
    s_c[k] = 1 where v_c[k] ≥ 1, else 0;   v_c[k] ← v_c[k] - s_c[k]

A loud steady channel fires regularly, a rising one at once, and one R dB under the loudest never. At most one spike per channel and step.
It is deterministic: no noise, no state between recordings. Taking the level against the recording's loudest value is not causal, as SHD's
own normalisation of each recording is not; everything behind it is.

This is not SHD's encoder (lauscher: basilar membrane, 700 hair cells, bushy cells; Cramer et al. 2020, arXiv 1910.07407). What it shares is
the format, events (time in s, channel), and the file layout, so that everything that reads SHD reads what `write_shd` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pdmu.config import FrontendConfig, from_dict
from pdmu.errors import UserError

BATCH = 256  # recordings encoded together


@dataclass(frozen=True)
class EncoderOptions:
    """Channels, steps and neurons; defaults are for speech at 8 kHz, resampled to 16 kHz."""

    channels: int = 70
    window_samples: int = 512
    hop_samples: int = 80  # a step: 5 ms
    f_min_hz: float = 80.0
    f_max_hz: float = 4000.0
    beta: float = 0.8  # β, decay of the potential a step
    level_gain: float = 0.35  # a
    onset_gain: float = 3.0  # o
    range_db: float = 55.0  # R; the best of ten neighbouring settings for a linear model on a held-out speaker of the training part

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1 or self.range_db <= 0 or min(self.level_gain, self.onset_gain) < 0:
            raise ValueError("beta must be from 0 to 1, range_db positive, level_gain and onset_gain not negative")

    def frontend(self, where: str) -> FrontendConfig:
        """Return the front end whose mel energies are encoded; `where` names the options for the error message."""
        names = ("window_samples", "hop_samples", "f_min_hz", "f_max_hz")
        return from_dict(FrontendConfig, {n: getattr(self, n) for n in names} | {"n_mels": self.channels}, where)


def levels(options: EncoderOptions, energies: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return l of one recording: ``[T, C]`` from mel energies ``[T, C]``; all zero where nothing sounds."""
    loudest = float(energies.max(initial=0.0))
    if loudest <= 0:
        return np.zeros(energies.shape)
    db = 10 * np.log10(np.maximum(energies, 1e-12 * loudest) / loudest)
    return np.clip(1 + db / options.range_db, 0, 1)


def encode(options: EncoderOptions, level: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return s, 0 or 1: ``[..., T, C]`` from levels ``[..., T, C]``, each sequence from rest."""
    before = np.zeros_like(level)
    before[..., 1:, :] = level[..., :-1, :]
    drive = options.level_gain * level + options.onset_gain * np.maximum(0, level - before)
    spikes = np.zeros(level.shape, np.uint8)
    v = np.zeros(level.shape[:-2] + level.shape[-1:])
    for k in range(level.shape[-2]):
        v = options.beta * v + drive[..., k, :]
        fired = v >= 1
        spikes[..., k, :] = fired
        v -= fired
    return spikes


def encode_recordings(
    options: EncoderOptions, frontend: FrontendConfig, energies: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.uint8]]:
    """Return the spikes uint8 ``[T_i, C]`` of recordings' mel energies ``[T_i, C]``.

    Recordings are encoded some at a time, silence behind the shorter ones: the encoder is causal, so that changes none of their spikes.
    """
    out: list[NDArray[np.uint8]] = []
    for first in range(0, len(energies), BATCH):
        some = [levels(options, e) for e in energies[first : first + BATCH]]
        batch = np.zeros((len(some), max(len(x) for x in some), frontend.n_mels))
        for row, x in zip(batch, some, strict=True):
            row[: len(x)] = x
        out += [s[: len(x)] for s, x in zip(encode(options, batch), some, strict=True)]
    return out


def events(spikes: NDArray[np.uint8], step_s: float) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Return binned spikes ``[T, C]`` as events in order of time: times in s float32, at the middle of their step, and channels uint16.

    The middle, because rounding moves an edge into the step beside it.
    """
    k, c = np.nonzero(spikes)
    repeats = spikes[k, c]
    return np.repeat((k + 0.5) * step_s, repeats).astype(np.float32), np.repeat(c, repeats).astype(np.uint16)


def write_shd(
    path: Path,
    recordings: Sequence[tuple[NDArray[np.float32], NDArray[np.uint16]]],
    labels: Sequence[int],
    speakers: Sequence[int],
    keys: Sequence[str],
) -> None:
    """Write events as an HDF5 file in the layout of ``shd_train.h5``.

    ``spikes/times`` (s) and ``spikes/units`` (channel) hold one array of their own length for each recording, ``labels`` and
    ``extra/speaker`` one integer, ``extra/keys`` the labels' names. Times are float32: SHD's float16 steps by 4 ms beyond 4 s.

    Parameters
    ----------
    path : Path
    recordings : sequence of (times, units)
        As `events` gives them.
    labels, speakers : sequence of int
        Of each recording.
    keys : sequence of str
        Name of label 0, 1, …

    Raises
    ------
    UserError
        The file cannot be written.
    """
    if not len(recordings) == len(labels) == len(speakers):
        raise ValueError(f"{len(recordings)} recordings, {len(labels)} labels and {len(speakers)} speakers: one each is needed")
    try:
        with h5py.File(path, "w") as file:
            times = file.create_dataset("spikes/times", (len(recordings),), h5py.vlen_dtype(np.float32))
            units = file.create_dataset("spikes/units", (len(recordings),), h5py.vlen_dtype(np.uint16))
            for i, (t, u) in enumerate(recordings):
                times[i], units[i] = t, u
            file["labels"] = np.asarray(labels, np.uint16)
            file["extra/speaker"] = np.asarray(speakers, np.uint16)
            file["extra/keys"] = [key.encode() for key in keys]
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error}); make room, or choose another folder") from None
