"""What bundles cost microcontrollers: ``python -m benchmarks.mcu [--bundle FILE …] [--machine NAME …] [--out FILE]``.

Flash, RAM, and instructions of front end, network and detector, counted under QEMU by a plugin, while a recording with coughs is heard.
Instructions are not cycles: a load of a processor is an estimate that takes one for the other. Beside the shipped models stand networks
with weights as they begin: the cell that TensorFlow Lite Micro was measured with, and the cough model's layers as an EPDMU and an LMU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT, STREAM, report
from benchmarks.mcu.measure import build_plugin, measure
from benchmarks.mcu.networks import of_family, reference_cell, untrained
from deploy.commands import report_errors
from deploy.machines import MACHINES, TooLarge
from pdmu.bundle import Bundle, read_bundle
from pdmu.config import DetectorConfig, FrontendConfig

SHIPPED = ("cough", "cough-spiking", "birds")
SECONDS = 20.0
REFERENCE = "reference cell"
WIDE = ("-DPDMU_WIDE_WEIGHTS",)  # on a Cortex-M4F, where it saves instructions
# TensorFlow Lite Micro with CMSIS-NN, the same cell with an int16 memory, one step; measured elsewhere with the same emulator, -O2.
TFLM_PER_STEP = {"mps2-an386": 97_000, "mps3-an547": 56_000}


def networks() -> dict[str, Bundle]:
    """Return what is measured when nothing is named."""
    bundles = {name: read_bundle(ROOT / "models" / f"{name}.pdmu") for name in SHIPPED}
    cough = bundles["cough"]
    for family in ("epdmu", "lmu"):
        bundles[f"cough's layers as {family}"] = untrained(of_family(cough, family), cough.frontend, cough.detector, family)
    cell = reference_cell()
    detector = DetectorConfig(threshold_q15=(16384,) * len(cell.labels))
    return bundles | {REFERENCE: untrained(cell, FrontendConfig(), detector, REFERENCE)}


def heard(seconds: float) -> NDArray[np.int16]:
    """Return the beginning of the demonstration's recording, int16."""
    import soundfile

    return np.asarray(soundfile.read(STREAM, frames=int(seconds * 16000), dtype="int16")[0])


def versions() -> dict[str, str]:
    """Return the first line that each compiler and emulator says of itself."""
    tools = {tool for machine in MACHINES.values() for tool in (machine.compiler[0], machine.qemu[0])}
    said = {}
    for tool in sorted(tools):
        said[tool] = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return said


def run(options: argparse.Namespace) -> int:
    """Measure, and print or keep the rows; returns the exit code."""
    bundles = {path.stem: read_bundle(path) for path in options.bundle} if options.bundle else networks()
    pcm, rows = heard(options.seconds), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="pdmu-mcu-") as scrap:
        plugin = build_plugin(Path(scrap))
        machines = options.machine or list(MACHINES)
        for name, bundle in bundles.items():
            for machine, flags in [(m, ()) for m in machines] + [(m, WIDE) for m in machines if m == "mps2-an386"]:
                folder = Path(scrap) / f"{len(rows)}"
                row: dict[str, Any] = {"network": name + (", weights as int16" if flags else ""), "machine": machine}
                try:
                    row |= measure(bundle, machine, pcm, folder, plugin, flags)
                except TooLarge:
                    row |= {"core": MACHINES[machine].core, "too_large": True}
                rows.append(row)
                print(f"{row['network']} on {machine}: {row.get('per_second', 'too large')}", file=sys.stderr, flush=True)
    result = {"seconds": options.seconds, "recording": STREAM.name, "tflm_per_step": TFLM_PER_STEP, "tools": versions(), "rows": rows}
    report("mcu", result, options.out)
    return 0


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.mcu", description=__doc__.partition("\n\n")[2], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, nargs="+", metavar="FILE", help=f"default: {', '.join(SHIPPED)} and untrained ones")
    parser.add_argument("--machine", nargs="+", choices=MACHINES, metavar="NAME", help=f"of {', '.join(MACHINES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of sound (default: %(default)g)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to this file too")
    options = parser.parse_args()
    return report_errors(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
