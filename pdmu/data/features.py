"""Recordings as sequences of front-end features: what the data sets of recordings share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdmu.config import FrontendConfig, from_dict
from pdmu.data.audio import BadRecording
from pdmu.data.cache import EnergyCache
from pdmu.data.sequences import SequenceSet
from pdmu.errors import UserError
from pdmu.frontend import compress


@dataclass(frozen=True)
class FeatureOptions:
    """Front end of data sets that no recipe of recordings describes, at 16 kHz."""

    n_mels: int = 40
    window_samples: int = 512
    hop_samples: int = 160  # 10 ms
    f_min_hz: float = 60.0
    f_max_hz: float = 7800.0
    pcen: int = 0  # 1: PCEN in place of the logarithm
    average: int = 1  # frames whose mean is one step
    context: int = 0  # earlier steps beside each, as further inputs

    def __post_init__(self) -> None:
        if self.average < 1 or self.context < 0 or self.pcen not in (0, 1):
            raise ValueError("average must be at least 1, context at least 0, and pcen 0 or 1")

    def frontend(self, where: str) -> FrontendConfig:
        """Return the front end; `where` names the options for the error message."""
        names = ("n_mels", "window_samples", "hop_samples", "f_min_hz", "f_max_hz")
        return from_dict(FrontendConfig, {n: getattr(self, n) for n in names} | {"compression": "pcen" if self.pcen else "log"}, where)


def read_energies(cache: EnergyCache, path: Path) -> tuple[NDArray[np.float32], str]:
    """Return mel energies float32 ``[frames, n_mels]`` of a recording, and the SHA-256 of its file.

    Raises
    ------
    UserError
        It cannot be used: a data set with a recording less is another one.
    """
    try:
        return cache.recording(path)
    except BadRecording as error:
        raise UserError(f"{path}: {error}; fetch it again, or take it out of the data set") from None


def fit(energies: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Return exactly `frames` frames: the first ones, silence behind them where there are fewer."""
    cut = energies[:frames]
    return np.pad(cut, ((0, frames - len(cut)), (0, 0)))


def steps(frontend: FrontendConfig, energies: NDArray[np.float32], average: int = 1, context: int = 0) -> NDArray[np.float32]:
    """Compress mel energies, and make steps of them.

    Parameters
    ----------
    frontend : FrontendConfig
    energies : ndarray
        ``[frames, n_mels]``.
    average : int
        Frames whose mean is one step; a rest too short for one is dropped unless it is all there is.
    context : int
        Earlier steps beside each; zeros before the first.

    Returns
    -------
    ndarray of float32
        ``[frames // average, n_mels · (1 + context)]``; the step itself first, then the one before it, …
    """
    features = compress(frontend, energies)
    size = min(average, len(features))
    whole = len(features) // size
    means = features[: whole * size].reshape(whole, size, -1).mean(1)
    late = [np.pad(means, ((delay, 0), (0, 0)))[:whole] for delay in range(context + 1)]
    return np.concatenate(late, axis=1).astype(np.float32)


def join(values: Sequence[NDArray[np.float32]], target: NDArray[np.int64], group: Sequence[str]) -> SequenceSet:
    """Lay sequences ``[T_i, N_x]`` end to end."""
    return SequenceSet(np.concatenate(values), np.array([len(v) for v in values], np.int64), target, np.array(group))
