"""Mel energies of recordings, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pdmu.config import FrontendConfig, to_dict
from pdmu.data.audio import BadRecording, change_speed, read_pcm
from pdmu.files import write_bytes
from pdmu.frontend import mel_energies

CACHE_VERSION = 1  # raise when the meaning of a cached file changes


def default_cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/pdmu`` or ``~/.cache/pdmu``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pdmu"


def energy_hash(frontend: FrontendConfig, min_s: float, silence_dbfs: float) -> str:
    """Hash what decides which energies are stored: the front end up to the mel bank, and what was refused."""
    used = ("sample_rate_hz", "window_samples", "hop_samples", "n_mels", "f_min_hz", "f_max_hz")
    text = json.dumps([CACHE_VERSION, min_s, silence_dbfs, {k: v for k, v in to_dict(frontend).items() if k in used}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EnergyCache:
    """Folder of ``.npy`` files named by the recording's content, below a folder named by the front end."""

    folder: Path
    frontend: FrontendConfig
    min_s: float = 0.05
    silence_dbfs: float = -80.0

    def recording(self, path: Path, speed: float = 1.0) -> tuple[np.ndarray, str]:
        """Return the mel energies of a recording and the SHA-256 of its file.

        Returns
        -------
        energies : ndarray of float32, shape (frames, n_mels)
            PCM units squared, as :func:`pdmu.frontend.mel_energies`.
        digest : str

        Raises
        ------
        BadRecording
            See :func:`pdmu.data.audio.read_pcm`.
        """
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise BadRecording(f"unreadable: {error.strerror or error}") from None
        name = digest if speed == 1.0 else f"{digest}-{speed:g}"

        def make() -> np.ndarray:
            pcm = read_pcm(path, self.frontend.sample_rate_hz, min_s=self.min_s, silence_dbfs=self.silence_dbfs)
            return mel_energies(self.frontend, pcm if speed == 1.0 else change_speed(pcm, speed))

        energies = self.get(name, make)
        if len(energies) == 0:
            raise BadRecording("too short: not one front-end frame")
        return energies, digest

    def get(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the cached array `name` as float32, making and storing it when it is missing or damaged.

        Raises
        ------
        UserError
            The cache cannot be written.
        """
        path = self.folder / energy_hash(self.frontend, self.min_s, self.silence_dbfs) / name[:2] / f"{name}.npy"
        try:
            cached = np.load(path, allow_pickle=False)
            if cached.dtype == np.float32 and cached.ndim == 2 and cached.shape[1] == self.frontend.n_mels:
                return cached
        except (OSError, ValueError, EOFError):
            pass  # not there, or damaged: made again
        energies = np.ascontiguousarray(make(), dtype=np.float32)
        data = io.BytesIO()
        np.save(data, energies)
        write_bytes(path, data.getvalue(), durable=False)
        return energies
