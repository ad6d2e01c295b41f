"""`pdmu-board`, the boards' own code on this machine, built from a bundle and started for as long as it is needed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import ROOT


def export_board(bundle: Path, folder: Path) -> Path:
    """Export a bundle's C sources, the board's with them, into `folder`; return where they lie."""
    subprocess.run([sys.executable, "-m", "deploy.export", bundle, "--target", "c", "--out", folder], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return folder / f"{bundle.stem}.c"


def build_board(sources: Path) -> Path:
    """Compile exported sources and return the program's path; needs make and a C compiler."""
    done = subprocess.run(["make", "-s", "-C", sources, "pdmu-board"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: {sources}: pdmu-board cannot be built: {done.stderr.strip()}")
    return sources / "pdmu-board"


@contextlib.contextmanager
def running_board(program: Path, *arguments: str | Path) -> Iterator[str]:
    """Run `pdmu-board` while the context lasts, and give the line it speaks on: ``socket://…``, or the path of a pseudo-terminal."""
    board = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert board.stdout is not None
        yield board.stdout.readline().strip()
    finally:
        board.kill()
        board.wait()
