"""Flash, RAM and exact instructions of the C runtime on microcontrollers:  python -m benchmarks.mcu --out benchmarks/results/mcu.json

QEMU emulates the boards and a plugin of ours counts the instructions executed; cycles are not modelled. The estimated load assumes one
cycle an instruction: a real Cortex-M4 takes more for loads of several words, taken branches and flash wait states, a dual-issue M7 fewer.
Scores are compared with the integer law's, and one that differs ends the benchmark.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import ROOT, report
from benchmarks.integer_operations import bundle_operations
from benchmarks.mcu.image import SECTIONS, TARGETS, Measurement, Target, measure, versions
from deploy.machines import TooLarge
from deploy.quantize import quantize
from pdmu.bundle import Bundle, law_stages, read_bundle, write_bundle
from pdmu.config import DetectorConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.frontend import frontend_init, frontend_step
from pdmu.golden import golden_pcm
from pdmu.nn.model import PDMUNet

CLOCKS_MHZ = (64, 168)
# One recurrent cell: 40 inputs, order 32, hidden 64, 8 taps, 12 classes. Three memory channels give it as many multiply-adds as the one has
# that TensorFlow Lite Micro was measured on.
REFERENCE = ModelConfig(tuple(f"class {i}" for i in range(12)), (), (PDMUConfig(64, channels=3, order=32, theta=64.0, taps=8, dilation=1),))
# TensorFlow Lite Micro with CMSIS-NN, -O2, a cell of 13.4k multiply-adds, one step on the same emulated cores; measured elsewhere.
TFLM = {"Cortex-M4F": 97_000, "Cortex-M55": 56_000}


def reference_bundle(folder: Path) -> Bundle:
    """Return the reference cell with random weights, quantised on the golden signal."""
    torch.manual_seed(1)
    frontend = FrontendConfig()
    features = frontend_step(frontend, frontend_init(frontend), golden_pcm())[1]
    detector = DetectorConfig(threshold_q15=(16384,) * len(REFERENCE.labels))
    net = PDMUNet(REFERENCE, frontend).eval()
    bundle = quantize(net, [features / np.float32(512)], detector, {"name": "reference cell", "version": "0"})
    return write_bundle(folder / "reference.pdmu", bundle)


def row(bundle: Bundle, target: Target, found: Measurement, macs: float) -> dict[str, Any]:
    """Return a measurement as the JSON has it; `macs` is of a model step."""
    hops = found.sections["front end"].visits
    seconds = hops * bundle.frontend.hop_samples / bundle.frontend.sample_rate_hz
    steps = len(found.scores)
    per_hop = {name: found.sections[name].instructions / hops for name in SECTIONS[1:]}
    per_second = sum(v.instructions for v in found.sections.values()) / seconds
    return {
        "core": target.machine.core,
        "machine": target.machine.qemu[-1],
        "kernels": target.kernels,
        "flash_bytes": found.flash_bytes,
        "ram_bytes": found.ram_bytes,
        "instructions_per_hop": {name: round(value, 1) for name, value in per_hop.items()},
        "largest_hop": sum(v.largest for v in found.sections.values()),
        "instructions_per_step": round(found.sections["model"].instructions / steps, 1),
        "instructions_per_mac": round(found.sections["model"].instructions / steps / macs, 3),
        "instructions_per_s": round(per_second),
        "load_estimate": {str(mhz): round(per_second / (mhz * 1e6), 4) for mhz in CLOCKS_MHZ},
    }


def rows(bundle: Bundle, names: Sequence[str], pcm: NDArray[np.int16]) -> dict[str, Any]:
    """Measure a bundle on the targets named; one whose memory is too small is said to be."""
    law = law_stages(bundle, pcm)["scores"]
    macs = bundle_operations(bundle, pcm).macs
    out: dict[str, Any] = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="pdmu-mcu-") as folder:
            try:
                found = measure(bundle, TARGETS[name], pcm, Path(folder))
            except TooLarge as error:
                out[name] = {"core": TARGETS[name].machine.core, "kernels": TARGETS[name].kernels, "does_not_fit": str(error)}
                continue
        if not np.array_equal(found.scores, law[: len(found.scores)]) or len(found.scores) != len(law):
            raise UserError(f"{name}: the scores differ from the integer law's; find where: python -m deploy.conformance")
        out[name] = row(bundle, TARGETS[name], found, macs)
        print(f"{name}: {out[name]['instructions_per_s'] / 1e6:.2f} M instructions a second of audio", file=sys.stderr)
    return {"macs_per_step": macs, "rows": out}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="Sizes and exact instruction counts of the C runtime on emulated microcontrollers.")
    parser.add_argument("--bundle", type=Path, action="append", help="a bundle; may be given several times (default: models/cough.pdmu)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file too")
    options = parser.parse_args(argv)
    names = options.targets.split(",")
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        parser.error(f"no target '{unknown[0]}'; there are {', '.join(TARGETS)}")
    pcm = golden_pcm()
    try:
        bundles = {path.stem: read_bundle(path) for path in options.bundle or [ROOT / "models" / "cough.pdmu"]}
        results = {name: rows(bundle, names, pcm) for name, bundle in bundles.items()}
        with tempfile.TemporaryDirectory() as folder:
            reference = rows(reference_bundle(Path(folder)), names, pcm)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    signal = f"the golden signal, {len(pcm)} samples"
    result = {"signal": signal, "optimisation": "-O2", "clocks_mhz": CLOCKS_MHZ, "bundles": results, "reference": reference, "tflm": TFLM}
    report("mcu", {**result, "tools": versions()}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
