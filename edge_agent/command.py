"""What the command lines share: the exit status of mistakes, the log, the end by signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from pdmu.errors import UserError


class Ended(KeyboardInterrupt):
    """A signal ends the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise `Ended`, once: what is open is closed then, and what is borrowed given back."""
    names = [name for name in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(name) != signal.SIG_IGN]  # as nohup has it

    def end(number: int, frame: FrameType | None) -> None:
        for name in names:
            signal.signal(name, signal.SIG_IGN)
        raise Ended(number)

    before = [signal.signal(name, end) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def guarded(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; what the user or the disk did wrong is one line on stderr."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is not None:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            return 1
        # Without a file name it was our own output. The interpreter must not fail at it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader of our output has had enough, as `head` does
            return 0
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except Ended as end:
        return end.status
    except KeyboardInterrupt:
        return 130


def log(line: str) -> None:
    """Write a line to stderr, where systemd and people find it; one that cannot be written is lost, and nothing else."""
    with contextlib.suppress(OSError):  # a log file on a full disk must not end the agent, and there is nowhere left to say so
        print(line, file=sys.stderr, flush=True)


class Told:
    """Prints detections for whoever reads along; a reader that has gone or a full disk is no reason to stop hearing and delivering."""

    def __init__(self) -> None:
        self._printing = True

    def line(self, text: str) -> None:
        """Write a line to stdout; where that fails, say so once and write no more."""
        if not self._printing:
            return
        try:
            print(text, flush=True)
        except OSError as error:
            self._printing = False
            log(f"stdout: error: {error.strerror}; detections are stored and published, and printed no more")


def stopped_by_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    return stop
