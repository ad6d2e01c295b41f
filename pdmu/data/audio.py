"""Read a recording as the front end takes it: int16 mono at its sample rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

from pdmu.config import MAX_RATE_HZ, MIN_RATE_HZ


class BadRecording(Exception):
    """A file that cannot be used; the message is the reason, for the list of rejected files."""


def read_pcm(path: Path, sample_rate_hz: int, *, min_s: float = 0.05, silence_dbfs: float = -80.0) -> np.ndarray:
    """Return the recording as int16 mono.

    Parameters
    ----------
    path : Path
    sample_rate_hz : int
        Wanted rate; other rates are resampled (soxr, high quality), channels averaged.
    min_s : float
        Shorter recordings are refused.
    silence_dbfs : float
        A recording whose peak stays below is refused as silent.

    Returns
    -------
    ndarray of int16, shape (n,)

    Raises
    ------
    BadRecording
        Missing, unreadable, empty, too short, silent, holding NaN, or with a sample rate that no recording has.
    """
    if not path.is_file():
        raise BadRecording("no such file")
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OSError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")  # without the path, which stands beside it
        raise BadRecording(f"unreadable: not audio, or damaged ({reason})") from None
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise BadRecording(f"a sample rate of {rate} Hz cannot be right")
    if samples.size == 0:
        raise BadRecording("empty: no samples")
    if len(samples) < min_s * rate:
        raise BadRecording(f"too short: {len(samples) / rate:.3f} s, at least {min_s:g} s is needed")
    if not np.isfinite(samples).all():
        raise BadRecording("holds NaN or infinite samples")
    mono = samples.mean(1)
    peak = float(np.abs(mono).max())
    if peak < 10 ** (silence_dbfs / 20):
        raise BadRecording(f"silent: its peak is below {silence_dbfs:g} dBFS")
    if rate != sample_rate_hz:
        mono = soxr.resample(mono, rate, sample_rate_hz, quality="HQ")
    return to_int16(mono)


def change_speed(pcm: np.ndarray, speed: float) -> np.ndarray:
    """Play int16 `pcm` `speed` times as fast (pitch moves along); int16, shape (about n / speed,)."""
    return to_int16(soxr.resample(pcm.astype(np.float32) / 32768, speed, 1.0, quality="HQ"))


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Return samples (full scale 1.0) as int16: rounded half to even, saturated."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
