"""An image of the C runtime for one of QEMU's boards, its sizes, and the instructions that it executes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.c_export import SOURCES, export_c
from deploy.machines import ARM, MACHINES, Machine, build
from deploy.toolchain import STRICT, compile_c, missing, need
from pdmu.bundle import Bundle
from pdmu.errors import UserError

HERE = Path(__file__).resolve().parent
OPTIMISE = "-O2"
RUNTIME = tuple(source for source in SOURCES if source != "src/stream.c")  # the calls of the shared library are no part of a firmware
SECTIONS = ("idle", "front end", "model", "detector")  # as the plugin numbers them
MARKS = {"pdmu_process": 1, "pdmu_frontend_frame": 1, "pdmu_model_frame": 2, "pdmu_detector_step": 3, "bench_idle": 0}
MEMORY = {"state": "bench_state", "scratch": "bench_scratch", "detector": "bench_detector"}
RUN_S = 900.0


@dataclass(frozen=True)
class Target:
    """A processor, and which kernels the runtime is compiled with.

    Attributes
    ----------
    machine : Machine
    kernels : str
        What they are called in the tables.
    flags : tuple of str
        Options of the compiler that choose them.
    """

    machine: Machine
    kernels: str
    flags: tuple[str, ...] = ()


PORTABLE, WIDE = ("-DPDMU_PORTABLE",), ("-DPDMU_WIDE_WEIGHTS",)
# QEMU's only Cortex-M0 has 16 KB of RAM; its code runs on a Cortex-M3 as well.
M0PLUS = replace(MACHINES["mps2-an385"], core="Cortex-M0+", compiler=(*ARM, "-mcpu=cortex-m0plus", "--specs=nano.specs"))
TARGETS = {
    "m0plus": Target(M0PLUS, "portable"),
    "m3": Target(MACHINES["mps2-an385"], "portable"),
    "m4f-portable": Target(MACHINES["mps2-an386"], "portable", PORTABLE),
    "m4f": Target(MACHINES["mps2-an386"], "DSP"),
    "m4f-wide": Target(MACHINES["mps2-an386"], "DSP, int16 weights", WIDE),
    "m7-wide": Target(MACHINES["mps2-an500"], "DSP, int16 weights", WIDE),
    "m55": Target(MACHINES["mps3-an547"], "Helium"),
    "riscv32": Target(MACHINES["riscv32"], "portable"),
}


class Visits(NamedTuple):
    """Instructions of a section of the chain."""

    visits: int
    instructions: int
    largest: int  # of one visit


class Measurement(NamedTuple):
    """What an image is and does."""

    flash_bytes: dict[str, int]  # runtime; library: of the compiler's and the C library's helpers; model: its data
    ram_bytes: dict[str, int]  # state, scratch, detector, stack
    sections: dict[str, Visits]
    scores: NDArray[np.int16]  # [steps, labels]


def compile_plugin(folder: Path) -> Path:
    """Compile the instruction counter for the QEMU of this machine.

    Raises
    ------
    UserError
        No C compiler, or it refused.
    """
    out = folder / "insn_count.so"
    compile_c(HERE, ["cc", *STRICT, "-O2", "-fPIC", "-shared", "insn_count.c", "-o", str(out)])
    return out


def measure(bundle: Bundle, target: Target, pcm: NDArray[np.int16], folder: Path) -> Measurement:
    """Build a bundle's chain for a target in `folder`, run it over a signal from a fresh state, and count.

    Parameters
    ----------
    bundle : Bundle
    target : Target
    pcm : ndarray of int16
        ``[n]`` samples at the bundle's rate; what does not fill the last hop is left out.
    folder : Path
        An empty one.

    Raises
    ------
    UserError
        A tool is not installed, the model does not fit in the machine, or the program failed.
    """
    need(target.machine.compiler[0], target.machine.qemu[0])
    export_c(bundle, folder)
    shutil.copy(HERE / "bench.c", folder)
    objects = {name: _compile(target, folder, sources) for name, sources in (("runtime", RUNTIME), ("model", ("model_data.c",)))}
    program = _compile(target, folder, ("bench.c", "conform/io_semihost.c"))
    image = folder / "bench.elf"
    flags = (OPTIMISE, *target.machine.defines, *target.flags)
    build(target.machine, folder, [*objects["runtime"], *objects["model"], *program], image, flags)
    symbols = _symbols(target, image)
    flash = {name: sum(_flash_bytes(target, folder / file) for file in files) for name, files in objects.items()}
    flash["library"] = sum(size for name, (_, size) in symbols.items() if name not in _own_symbols(target, folder))
    marks = ",".join(f"at={symbols[name][0] & ~1:x}:{section}" for name, section in MARKS.items())
    sections = _run(target, image, pcm, compile_plugin(folder), marks)
    stack = int(np.fromfile(folder / "stack.bin", "<i4")[0])
    ram = {name: symbols[symbol][1] for name, symbol in MEMORY.items()} | {"stack": stack}
    return Measurement(flash, ram, sections, np.fromfile(folder / "scores.bin", "<i2").reshape(-1, len(bundle.labels)))


def _compile(target: Target, folder: Path, sources: tuple[str, ...]) -> list[str]:
    objects = []
    for source in sources:
        objects.append(f"{Path(source).stem}.o")
        options = (*STRICT, OPTIMISE, "-ffunction-sections", "-fdata-sections", *target.flags)
        compile_c(folder, [*target.machine.compiler, *options, "-c", source, "-o", objects[-1]])
    return objects


def _tool(target: Target, name: str, *arguments: str) -> str:
    """Return what one of the compiler's sisters prints."""
    program = target.machine.compiler[0].replace("gcc", name)
    need(program)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{program}: {done.stderr.strip()}")
    return done.stdout


def _flash_bytes(target: Target, path: Path) -> int:
    """Return an object file's code and constants."""
    return int(_tool(target, "size", str(path)).splitlines()[1].split()[0])


def _symbols(target: Target, path: Path) -> dict[str, tuple[int, int]]:
    """Return name → (address, size in bytes), of those in flash and RAM that have a size."""
    rows = (line.split() for line in _tool(target, "nm", "-S", str(path)).splitlines())
    return {row[3]: (int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 4}


def _own_symbols(target: Target, folder: Path) -> set[str]:
    """Return what the image has of our own: the objects beside it, and the start-up file's symbols."""
    own = {name for path in folder.glob("*.o") for name in _symbols(target, path)}
    return own | {name for name in _symbols(target, folder / "bench.elf") if name.startswith("pdmu_")} | {"vectors"}


def _run(target: Target, image: Path, pcm: NDArray[np.int16], plugin: Path, marks: str) -> dict[str, Visits]:
    folder = image.parent
    pcm.astype("<i2").tofile(folder / "pcm.bin")
    counts = folder / "counts.txt"
    command = [*target.machine.run(image), "-plugin", f"{plugin},out={counts},{marks}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=RUN_S, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"{shlex.join(command)}: no end after {RUN_S:g} s; is the machine overloaded?") from None
    if done.returncode != 0 or not counts.exists():
        raise UserError(f"{shlex.join(command)}: exit status {done.returncode}\n{(done.stderr or done.stdout).strip()[-2000:]}")
    return read_counts(counts.read_text())


def read_counts(text: str) -> dict[str, Visits]:
    """Return section → its visits from what the plugin wrote."""
    rows = (tuple(map(int, line.split())) for line in text.splitlines())
    return {SECTIONS[section]: Visits(*rest) for section, *rest in rows}


def versions() -> Mapping[str, Any]:
    """Return the first lines of what the tools that are installed say of their versions."""
    tools = sorted({name for t in TARGETS.values() for name in (t.machine.compiler[0], t.machine.qemu[0])})
    installed = [tool for tool in tools if not missing(tool)]
    said = {tool: subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout for tool in installed}
    return {tool: text.splitlines()[0] for tool, text in said.items()}
