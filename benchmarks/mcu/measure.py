"""One bundle on one emulated machine: sizes of the image, memory, and instructions of each part of a hop."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.integer_operations import bundle_operations
from deploy.c_export import SOURCES, export_c
from deploy.machines import MACHINES, Machine, build
from deploy.toolchain import STRICT, compile_c, need
from pdmu.bundle import Bundle
from pdmu.errors import UserError
from pdmu.state_layout import state_bytes

PLUGIN = Path(__file__).with_name("insn_count.c")
PARTS = {"frontend": "pdmu_process", "network": "pdmu_model_frame", "detector": "pdmu_detector_step"}  # where each begins
REST = "pdmu_cost_rest"
TABLES = {"window_q15", "twiddle_q31", "split_q31", "bit_reverse", "mel_first", "mel_count", "mel_q15", "log2_q16"}
TABLES |= {"exp_q15", "sigmoid_q15", "pcen_q9"}
OUTSIDE = ("conform/cost.c", "conform/io_semihost.c")  # of the measurement, not of a firmware
CLOCKS_MHZ = (64, 168)


def build_plugin(folder: Path) -> Path:
    """Compile the counting plugin for the emulator on this machine."""
    need("cc")
    out = folder / "insn_count.so"
    done = subprocess.run(["cc", "-O2", "-shared", "-fPIC", str(PLUGIN), "-o", str(out)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"cc failed on {PLUGIN.name}:\n{done.stderr.strip()[-2000:]}")
    return out


def measure(bundle: Bundle, machine: str, pcm: NDArray[np.int16], folder: Path, plugin: Path,
            flags: tuple[str, ...] = ()) -> dict[str, Any]:  # fmt: skip
    """Measure a bundle on a machine.

    Parameters
    ----------
    bundle : Bundle
    machine : str
        One of `deploy.machines.MACHINES`.
    pcm : ndarray of int16
        ``[n]`` what is heard: spiking networks do less where less happens.
    folder : Path
        Empty; for what is built.
    plugin : Path
        From `build_plugin`.
    flags : tuple of str
        Further options for the compiler.

    Returns
    -------
    dict
        ``flash`` and ``ram`` in bytes, ``instructions`` of a hop by part (mean, and the most of one), ``per_second``, ``load`` in % at
        `CLOCKS_MHZ` were an instruction a cycle, ``per_step`` and ``per_mac`` of the network.

    Raises
    ------
    UserError
        The machine cannot be built for or emulated here, or the bundle does not fit in it (`deploy.machines.TooLarge`).
    """
    target = MACHINES[machine]
    export_c(bundle, folder)
    image = build(target, folder, ("model_data.c", *SOURCES, *OUTSIDE), folder / "cost.elf", ("-O2", *flags))
    symbols = _symbols(target, image)
    counts = _run(target, image, symbols, pcm, folder, plugin)
    hops = len(pcm) // bundle.frontend.hop_samples
    rate_hz, hop = bundle.frontend.sample_rate_hz, bundle.frontend.hop_samples
    instructions = {part: {"mean": round(counts[part][0] / hops, 1), "largest": counts[part][1]} for part in PARTS}
    per_hop = sum(entry["mean"] for entry in instructions.values())
    per_second = per_hop * rate_hz / hop
    per_step = instructions["network"]["mean"] * bundle.model.frames_per_step
    operations = bundle_operations(bundle, pcm)
    return {
        "core": target.core,
        "flash": _flash(target, folder, image, flags),
        "ram": _ram(bundle, symbols, folder),
        "instructions": instructions | {"all": {"mean": round(per_hop, 1)}},
        "per_second": round(per_second),
        "load_percent_estimate": {str(mhz): round(per_second / mhz / 1e4, 2) for mhz in CLOCKS_MHZ},
        "per_step": round(per_step),
        "macs_per_step": round(operations.macs),
        "synaptic_operations_per_step": round(operations.acs),
        "per_mac": round(per_step / (operations.macs + operations.acs), 2),
    }


def _tool(machine: Machine, name: str) -> str:
    return machine.compiler[0].removesuffix("gcc") + name


def _symbols(machine: Machine, image: Path) -> dict[str, tuple[int, int]]:
    """Return name → (address, size) of an image's or object's symbols."""
    text = subprocess.run([_tool(machine, "nm"), "-S", str(image)], capture_output=True, text=True, check=True).stdout
    found = {}
    for fields in map(str.split, text.splitlines()):
        if len(fields) in (3, 4):
            found[fields[-1]] = (int(fields[0], 16), int(fields[1], 16) if len(fields) == 4 else 0)
    return found


def _run(machine: Machine, image: Path, symbols: Mapping[str, tuple[int, int]], pcm: NDArray[np.int16], folder: Path,
         plugin: Path) -> dict[str, tuple[int, int]]:  # fmt: skip
    """Run the image under the plugin; return part → (instructions, the most between its beginning and another's)."""
    (folder / "pcm.bin").write_bytes(pcm.astype("<i2").tobytes())
    numbers = {name: i + 1 for i, name in enumerate(PARTS.values())} | {REST: 0}
    marks = ",".join(f"at={symbols[name][0] & ~1:x}:{number}" for name, number in numbers.items())
    command = machine.run(image, "-serial", "none", "-plugin", f"{plugin},out={folder / 'counts'},{marks}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{machine.qemu[-1]}: exit status {done.returncode}\n{(done.stderr or done.stdout).strip()[-2000:]}")
    lines = map(str.split, (folder / "counts").read_text().splitlines())
    rows = {int(section): (int(total), int(most)) for section, _, total, most in lines}
    return {part: rows.get(numbers[name], (0, 0)) for part, name in PARTS.items()}


def _object_bytes(machine: Machine, folder: Path, source: str, flags: tuple[str, ...]) -> int:
    """Return the flash that a source takes when all of it is linked."""
    out = folder / (Path(source).stem + ".o")
    compile_c(folder, [*machine.compiler, *STRICT, "-O2", *flags, "-c", source, "-o", str(out)])
    return _size(machine, out)


def _size(machine: Machine, path: Path) -> int:
    """Return what of an image or object stands in flash: code, constants, and the start values of variables."""
    text = subprocess.run([_tool(machine, "size"), str(path)], capture_output=True, text=True, check=True).stdout
    code, data = text.splitlines()[1].split()[:2]
    return int(code) + int(data)


def _flash(machine: Machine, folder: Path, image: Path, flags: tuple[str, ...]) -> dict[str, int]:
    """Return the flash taken by the runtime with what it needs of the C library, the front end's tables, and the model."""
    model = _object_bytes(machine, folder, "model_data.c", flags)
    tables = sum(_symbols(machine, folder / "model_data.o").get(name, (0, 0))[1] for name in TABLES)
    outside = sum(_object_bytes(machine, folder, source, flags) for source in (*OUTSIDE, machine.start))
    total = _size(machine, image) - outside
    return {"runtime": total - model, "tables": tables, "model": model - tables, "all": total}


def _ram(bundle: Bundle, symbols: Mapping[str, tuple[int, int]], folder: Path) -> dict[str, int]:
    """Return the RAM of state and scratch, of the detector, and the most stack that was used."""
    state, stack = state_bytes(bundle), int(np.frombuffer((folder / "records.bin").read_bytes(), "<u4")[0])
    ram = {"state": state, "scratch": symbols["stream"][1] - state, "detector": symbols["detector"][1], "stack": stack}
    return ram | {"all": sum(ram.values())}
