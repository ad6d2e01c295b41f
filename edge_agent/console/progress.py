"""How far something is, on a terminal only."""

from __future__ import annotations

import sys
import time
from types import TracebackType

REDRAW_S = 0.2


class Progress:
    """A line on stderr that is redrawn and leaves nothing behind; nothing at all where stderr is no terminal."""

    def __init__(self, what: str) -> None:
        self._what, self._shows, self._next_s = what, sys.stderr.isatty(), 0.0

    def __enter__(self) -> Progress:
        return self

    def show(self, done: float, total: float) -> None:
        """Say that `done` of `total` is done."""
        if self._shows and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + REDRAW_S
            print(f"\r\033[K{self._what}: {100 * done / max(1, total):.0f} %", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Make room for a line of output."""
        if self._shows:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._next_s = 0.0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()
