"""Write a bundle as C99: tables, weights and descriptors for the runtime in ``deploy/c``, and build its shared library.

The text of the generated files is in :mod:`deploy.c_source`; the ranges that the C code relies on are proved here from the actual weights.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.c_source import golden_source, model_header, model_source
from deploy.machines import makefile
from pdmu.bundle import Bundle
from pdmu.errors import UserError
from pdmu.files import write_bytes, write_text
from pdmu.golden import GOLDEN

RUNTIME = Path(__file__).resolve().parent / "c"
GENERATED = ("model_data.h", "model_data.c", "model_golden.c")
KINDS = (".c", ".h", ".S", ".ld")
BUILD_FILES = ("Makefile", "CMakeLists.txt", "README.md", "PROTOCOL.md")
SOURCES = ("src/frontend.c", "src/model.c", "src/spiking.c", "src/process.c", "src/detector.c", "src/stream.c")
MAX_DEPTHWISE_TAPS = 511  # products of int8 and int16 that an int32 holds
CFLAGS = ("-std=c99", "-O3", "-fPIC", "-fvisibility=hidden", "-DNDEBUG")


def export_c(bundle: Bundle, out_dir: Path) -> list[Path]:
    """Write the bundle and the runtime as a self-contained C99 project.

    Parameters
    ----------
    bundle : Bundle
        As read or written: it has its SHA-256 and golden answers.
    out_dir : Path
        Made when missing; files of an earlier export in it are replaced.

    Returns
    -------
    list of Path
        Every file written: generated data, runtime sources, host program, ``Makefile`` and ``CMakeLists.txt``.

    Raises
    ------
    UserError
        If the C runtime cannot hold the bundle (which limit, and the way out), or a file cannot be written.
    """
    check_limits(bundle)
    runtime = {path.relative_to(RUNTIME): path for path in sorted(RUNTIME.rglob("*")) if path.suffix in KINDS or path.name in BUILD_FILES}
    texts = generated_texts(bundle)
    texts["machines/machines.mk"] = makefile()
    texts |= {str(name): path.read_text(encoding="utf-8") for name, path in runtime.items() if name.parts[0] != "packaging"}
    return [write_text(Path(out_dir) / name, text) for name, text in texts.items()]


def generated_texts(bundle: Bundle) -> dict[str, str]:
    """Return file name → content of the model's own C files, `GENERATED`."""
    return dict(zip(GENERATED, (model_header(bundle), model_source(bundle), golden_source(bundle)), strict=True))


def build_shared(bundle: Bundle, out: Path, cc: str | None = None) -> Path:
    """Compile the bundle's shared library (interface: ``pdmu_stream_*`` in ``pdmu.h``).

    Parameters
    ----------
    bundle : Bundle
    out : Path
        The library, replaced atomically.
    cc : str, optional
        C compiler, by name or path, with its own options if it needs any; by default the environment variable ``CC``, or ``cc``.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    UserError
        If there is no such compiler, it fails, or the library cannot be written.
    """
    out = Path(out)
    compiler = shlex.split(cc or os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        raise UserError(f"C compiler '{compiler[0]}' not found; install one (Debian: apt-get install gcc), or name yours: CC=gcc-13 …")
    with tempfile.TemporaryDirectory(prefix="pdmu-c-") as folder:
        source = Path(folder)
        export_c(bundle, source)
        library = source / "model.so"
        units = ["model_data.c", *SOURCES]
        command = [*compiler, *CFLAGS, "-shared", "-I.", "-Iinclude", "-Isrc", *units, "-o", str(library)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UserError(f"{compiler[0]} failed on the exported model:\n{done.stderr.strip()[-2000:]}")
        return write_bytes(out, library.read_bytes())


def check_limits(bundle: Bundle) -> None:
    """Raise `UserError` unless the bundle is written and fits the C types; that its sums fit int64 is proved when it is read."""
    if not bundle.sha256:
        raise UserError("bundle: it has no SHA-256 yet; write it to a file first")
    if bundle.golden.get("signal") != GOLDEN:
        raise UserError(f"bundle: golden signal is {bundle.golden.get('signal')!r}, the C runtime makes {GOLDEN!r}; export the model again")
    for i, conv in enumerate(bundle.model.conv):
        taps = conv.kernel_time * conv.kernel_mel
        if conv.depthwise and taps > MAX_DEPTHWISE_TAPS:
            raise UserError(f"C export: conv{i} is depthwise over {taps} taps, at most {MAX_DEPTHWISE_TAPS} fit; use a smaller kernel")
