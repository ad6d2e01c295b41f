"""What the commands of this package share: a user's mistake is one line on standard error, and a missing library names its extra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdmu.errors import UserError

EXTRAS = {"torch": "train", "soundfile": "train", "soxr": "train", "matplotlib": "train", "tflite": "deploy", "flatbuffers": "deploy"}


def report_errors(run: Callable[[], int]) -> int:
    """Run a command and return its exit code; 1, after one line, for a user's error or a library that is not installed."""
    try:
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        print(f"error: this needs the package '{package}', which is not installed: pip install 'pdmu[{EXTRAS[package]}]'", file=sys.stderr)
    return 1


def recording(path: Path, rate_hz: int) -> NDArray[np.int16]:
    """Return a recording as int16 at a rate, silent and short ones too: they are signals like others here; `UserError` if unreadable."""
    from pdmu.data.audio import BadRecording, read_pcm

    try:
        return read_pcm(path, rate_hz, min_s=0.0, silence_dbfs=-np.inf)
    except BadRecording as error:
        raise UserError(f"{path}: {error}; leave it out or repair it") from None
