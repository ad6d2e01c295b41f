"""Firmware of a bundle for one of the machines that QEMU emulates: build it, and run it with its serial line on a TCP port or a pty.

python -m deploy.firmware models/cough.pdmu --machine mps2-an386 --out cough-m4.elf
python -m deploy.firmware models/cough.pdmu --machine mps2-an386 --clip cough.wav --run --serial tcp:5555
pdmu-console hello --port socket://127.0.0.1:5555
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.c_export import RUNTIME, SOURCES, export_c
from deploy.c_text import array
from deploy.commands import recording, report_errors
from deploy.machines import MACHINES, TooLarge, build
from deploy.toolchain import need
from pdmu.bundle import Bundle, read_bundle
from pdmu.errors import UserError
from pdmu.files import write_bytes, write_text

LINK = tuple(sorted(f"link/{path.name}" for path in (RUNTIME / "link").glob("*.c")))


def build_firmware(bundle: Bundle, machine: str, out: Path, clip: NDArray[np.int16] | None = None, flags: Sequence[str] = ()) -> Path:
    """Build the firmware of a bundle.

    Parameters
    ----------
    bundle : Bundle
        As read or written.
    machine : str
        One of `MACHINES`.
    out : Path
        The ELF image, replaced atomically.
    clip : ndarray of int16, optional
        ``[n]`` mono samples at the bundle's rate that the board hears over and over; without it, it hears what the serial line brings.
    flags : sequence of str
        Further options for the compiler.

    Raises
    ------
    UserError
        No compiler for the machine, or the model (with its clip) does not fit in it (`deploy.machines.TooLarge`).
    """
    target = MACHINES[machine]
    with tempfile.TemporaryDirectory(prefix="pdmu-firmware-") as folder:
        source = Path(folder)
        export_c(bundle, source)
        options = [f'-DPDMU_BOARD_NAME="{machine}"', "-O2", *target.defines, *flags]
        sources = ["model_data.c", *SOURCES, *LINK, "firmware/main.c", *target.drivers]
        if clip is not None:
            write_text(source / "clip.h", array("int16_t", "pdmu_clip", clip))
            options.append("-DPDMU_CLIP")
        try:
            image = build(target, source, sources, source / "firmware.elf", options)
        except TooLarge as error:
            if clip is None:
                raise
            seconds = len(clip) / bundle.frontend.sample_rate_hz
            raise TooLarge(f"{error}, with a clip of {seconds:.1f} s in it: try a shorter one first") from None
        return write_bytes(out, image.read_bytes())


def counting(machine: str) -> tuple[str, ...]:
    """Options for firmware that is run with ``count``: how many instructions a tick of its clock is."""
    per_tick, rest = divmod(1_000_000_000, MACHINES[machine].clock_hz)  # an instruction is a nanosecond
    if rest:
        raise UserError(f"--count: a tick of {machine}'s clock is no whole number of instructions; take mps2-an386 or riscv32")
    return (f"-DPDMU_INSTRUCTIONS_PER_TICK={per_tick}",)


def run_command(machine: str, image: Path, serial: str, count: bool = False) -> tuple[str, ...]:
    """Return the command that runs firmware.

    Parameters
    ----------
    machine : str
        One of `MACHINES`.
    image : Path
    serial : str
        ``tcp:PORT`` (a server on the loopback interface; a client may go and come again), ``pty`` or ``stdio``.
    count : bool
        Tie the emulated clock to instructions, one a nanosecond: ``pdmu-console bench`` then counts them exactly, and time stands apart
        from that of the world.
    """
    kind, _, port = serial.partition(":")
    line = {"tcp": f"tcp:127.0.0.1:{port},server=on,wait=off,nodelay=on"}.get(kind, kind)
    return MACHINES[machine].run(image, "-serial", line, *(("-icount", "shift=0") if count else ()))


def serial_line(text: str) -> str:
    """Return the argument of ``--serial`` where it is one."""
    kind, _, port = text.partition(":")
    if text not in ("pty", "stdio") and not (kind == "tcp" and port.isdigit() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"'{text}' is none of tcp:PORT (1 … 65535), pty and stdio")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m deploy.firmware",
        description="Build a bundle's firmware for a machine that QEMU emulates, and run it.",
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="model bundle (.pdmu)")
    machines = ", ".join(f"{name} ({machine.core})" for name, machine in MACHINES.items())
    parser.add_argument("--machine", choices=MACHINES, required=True, metavar="NAME", help=f"one of {machines}")
    parser.add_argument("--out", type=Path, metavar="ELF", help="the image (default: BUNDLE-MACHINE.elf beside the bundle)")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="a recording that the board hears over and over")
    parser.add_argument("--run", action="store_true", help="run it under QEMU until interrupted")
    parser.add_argument("--serial", type=serial_line, metavar="LINE", help="with --run: tcp:PORT, pty or stdio (default: pty)")
    parser.add_argument("--count", action="store_true", help="with --run: tie the clock to instructions, for pdmu-console bench")
    options = parser.parse_args(arguments)
    if not options.run and (options.serial or options.count):
        parser.error("--serial and --count say how to run the firmware: give --run too")
    return report_errors(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    bundle = read_bundle(options.bundle)
    out = options.out or options.bundle.with_name(f"{options.bundle.stem}-{options.machine}.elf")
    command = run_command(options.machine, out, options.serial or "pty", options.count)
    if options.run:
        need(command[0])
    clip = recording(options.clip, bundle.frontend.sample_rate_hz) if options.clip else None
    build_firmware(bundle, options.machine, out, clip, counting(options.machine) if options.count else ())
    print(f"{out}: {out.stat().st_size // 1024} kB with symbols", file=sys.stderr)
    if options.run:
        print(f"running {' '.join(command)}\nCtrl+C ends it", file=sys.stderr, flush=True)
        os.execvp(command[0], command)  # signals and the exit status are the emulator's
    return 0


if __name__ == "__main__":
    sys.exit(main())
