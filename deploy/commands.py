"""What the commands of this package share: a user's mistake is one line on standard error, and a missing library names its extra."""

from __future__ import annotations

import sys
from collections.abc import Callable

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
