"""Spiking neurons over whole sequences against snnTorch's loop: ``python -m benchmarks.lif [--write] [--out FILE]``.

Forward and backward together, with β learnt; the forms take turns, and the median of their turns counts. Before anything is timed, spikes
of every form must equal `snntorch.Leaky`'s; a difference ends the benchmark. Memory is the most that a form's run adds. ``--write`` puts
the times into the table that `spiking.parallel.lif_parallel` chooses by.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import snntorch
import torch
from torch import Tensor

from benchmarks.common import report
from benchmarks.engines import interleaved, write_table
from pdmu.nn.engines import TABLE
from spiking.lif import Reset
from spiking.parallel import LIF_ENGINES, able_engines

STEPS = (100, 784, 1000, 4000, 16000)
HIDDEN = (64, 128, 256)
RESETS: tuple[Reset, ...] = ("subtract", "zero")
POSITIONS = 2**14  # steps of all sequences of a batch together
BETAS = (0.8, 0.95)  # of the first neuron and the last
MIB = 2**20


def snntorch_loop(current: Tensor, beta: Tensor, reset: Reset) -> Tensor:
    """Return the spikes ``[B, T, H]`` of `snntorch.Leaky`, one step after the other.

    The currents are unbound once: indexed step by step, their gradient would be summed from T arrays of the sequence's size.
    """
    neuron = snntorch.Leaky(beta=beta, reset_mechanism=reset).to(current.device)
    neuron.beta = beta  # as an argument it is copied, and takes no gradient
    mem, out = torch.zeros_like(current[:, 0]), []
    for given in current.unbind(1):
        spikes, mem = neuron(given, mem)
        out.append(spikes)
    return torch.stack(out, 1)


def resident_mib(peak: bool) -> float:
    """Return what the process holds in memory now, or at most since the last `forget_peak`."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def added_memory_mib(run: Callable[[], Any], device: torch.device) -> float | None:
    """Return the most memory that a run adds to what is there, MiB; None where the system does not say."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone keeps what is freed, and gives it back when asked
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        allocated = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return round((torch.cuda.max_memory_allocated() - allocated) / MIB, 1)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak
    except OSError:
        run()
        return None
    before = resident_mib(peak=False)
    run()
    return round(resident_mib(peak=True) - before, 1)


def measure(device: torch.device, steps: int, hidden: int, reset: Reset, turns: int) -> dict[str, Any]:
    """Return one row: times and memory of every form and of snnTorch's loop at these sizes."""
    batch = max(1, POSITIONS // steps)
    g = torch.Generator().manual_seed(steps + hidden)
    current = (torch.randn(batch, steps, hidden, generator=g) * 0.5 + 0.1).to(device).requires_grad_()
    beta = torch.linspace(*BETAS, hidden, device=device).requires_grad_()
    spikes: dict[str, Tensor] = {}

    def runs(name: str) -> Callable[[], None]:
        def run() -> None:
            s = snntorch_loop(current, beta, reset) if name == "snntorch" else LIF_ENGINES[name](current, beta, None, 1.0, reset)[0]
            s.backward(weight)
            spikes[name] = s.detach()
            current.grad = beta.grad = None

        return run

    weight = torch.randn(batch, steps, hidden, generator=g).to(device)
    forms = {name: runs(name) for name in (*able_engines(current, reset), "snntorch")}
    runs("fused" if "fused" in forms else "fixed-point")()  # compiled before memory is looked at
    forms["snntorch"]()
    reference, memory = spikes["snntorch"], {}
    for name, run in forms.items():
        spikes.clear()
        memory[name] = added_memory_mib(run, device)
        if not torch.equal(spikes[name], reference):
            raise SystemExit(f"error: {name} at T = {steps}, H = {hidden}, reset {reset}: other spikes than snntorch.Leaky")
    spikes.clear()
    ms = interleaved(forms, turns, device)
    loop, own = ms.pop("snntorch"), min(ms, key=ms.__getitem__)
    return {
        "what": f"lif-{reset}",
        "device": device.type,
        "T": steps,
        "H": hidden,
        "batch": batch,
        "ms": ms,
        "snntorch_ms": loop,
        "fastest": own,
        "times_faster_than_snntorch": {name: round(loop / t, 1) for name, t in ms.items()},
        "added_memory_mib": memory,
        "spikes_per_step": round(float(reference.mean()), 4),
    }


def main() -> None:
    """Measure the grid, and print or keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="sequence lengths T (default: %(default)s)")
    parser.add_argument("--hidden", type=int, nargs="+", default=HIDDEN, help="numbers of neurons H (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch's and the kernel's threads (default: torch's own)")
    parser.add_argument("--turns", type=int, default=3, help="times each form runs (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"renew this device's rows of {TABLE.name}")
    parser.add_argument("--out", type=Path, help="write the JSON to this file too")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = []
    for hidden, steps, reset in itertools.product(arguments.hidden, arguments.steps, RESETS):
        rows.append(measure(device, steps, hidden, reset, arguments.turns))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.write:
        write_table([{name: row[name] for name in ("what", "device", "T", "H", "batch", "ms")} for row in rows])
    report("lif", {"rows": rows, "betas": BETAS, "torch_threads": torch.get_num_threads()}, arguments.out)


if __name__ == "__main__":
    main()
