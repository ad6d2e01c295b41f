"""Which form of the Legendre memory is fastest at which sizes: ``python -m benchmarks.engines [--write]``.

Forward and backward together; the forms take turns, and the median of their turns counts. ``--write`` puts the times into the table that
:mod:`pdmu.nn.engines` chooses by, beside those of other kinds of device that it holds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine, report
from pdmu.files import write_text
from pdmu.nn.engines import TABLE
from pdmu.nn.scan import PROJECTED_ENGINES, STATE_ENGINES

STEPS = (128, 784, 4000, 16000)
ORDERS = (8, 32, 64, 128, 256)
SHAPES = ((1, 64), (1, 256), (8, 64))  # channels q, hidden H
MAX_STATE = 2**25  # numbers in all states of a batch; beyond it only what fits in 1 GiB with its gradients is measured
POSITIONS = 2**14  # steps of all sequences of a batch together


def turns_of(forms: Mapping[str, Callable[[], Any]], turns: int, device: torch.device) -> dict[str, list[tuple[float, float]]]:
    """Return the times (wall, processor) of each form's turns, ms; one 30 times slower than the best is timed once."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for form in forms.values():
        form()  # caches and compiled kernels
    for _ in range(turns):
        best = min((t[0][0] for t in times.values() if t), default=float("inf"))
        for name, form in forms.items():
            if times[name] and times[name][0][0] > 30 * best:
                continue
            begin, worked = time.perf_counter(), time.process_time()
            form()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append((1000 * (time.perf_counter() - begin), 1000 * (time.process_time() - worked)))
    return times


def interleaved(forms: Mapping[str, Callable[[], Any]], turns: int, device: torch.device) -> dict[str, float]:
    """Return the median wall time of each form, ms."""
    return {name: round(statistics.median(wall for wall, _ in t), 3) for name, t in turns_of(forms, turns, device).items()}


def write_table(rows: Sequence[Mapping[str, Any]], table: Path = TABLE) -> None:
    """Put rows into the table of measured forms, in the place of those of the same computations and devices."""
    renewed = {(row["what"], row["device"]) for row in rows}
    kept = [row for row in json.loads(table.read_text())["rows"] if (row["what"], row["device"]) not in renewed]
    lines = ",\n".join("    " + json.dumps(row) for row in (*kept, *rows))
    write_text(table, f'{{\n  "machine": {json.dumps(machine())},\n  "rows": [\n{lines}\n  ]\n}}\n')


def measure(device: torch.device, steps: int, order: int, q: int, hidden: int, turns: int) -> list[dict[str, Any]]:
    """Return one row for all states and one for projected states at these sizes."""
    batch = max(1, min(POSITIONS // steps, MAX_STATE // (steps * q * order)))
    u = torch.randn(batch, steps, q, device=device, requires_grad=True)
    state = torch.zeros(batch, q, order, device=device)
    weight = (torch.randn(hidden, q * order, device=device) / order).requires_grad_()
    theta = float(steps)

    def states(name: str) -> Callable[[], None]:
        return lambda: STATE_ENGINES[name](order, theta, u, state).sum().backward()

    def projected(name: str) -> Callable[[], None]:
        return lambda: PROJECTED_ENGINES[name](order, theta, u, state, weight)[0].sum().backward()

    sizes = {"device": device.type, "T": steps, "d": order, "q": q}
    # stepping is tens of times slower on long sequences: measured where it might win
    named = [name for name in STATE_ENGINES if name != "sequential" or steps <= 128]
    rows = [{"what": "states", **sizes, "batch": batch, "ms": interleaved({n: states(n) for n in named}, turns, device)}]
    ms = interleaved({n: projected(n) for n in PROJECTED_ENGINES}, turns, device)
    return [*rows, {"what": "projected", **sizes, "H": hidden, "batch": batch, "ms": ms}]


def main() -> None:
    """Measure the grid, and print or keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="times each form runs (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"renew this device's rows of {TABLE.name}")
    parser.add_argument("--out", type=Path, help="write the JSON to this file too")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows: list[dict[str, Any]] = []
    seen = set()
    for (q, hidden), order, steps in itertools.product(SHAPES, ORDERS, STEPS):
        if steps * q * order > MAX_STATE or q * order > 1024:
            continue
        for row in measure(device, steps, order, q, hidden, arguments.turns):
            key = (row["what"], row["T"], row["d"], row["q"], row.get("H"))
            if key in seen:  # all states do not depend on H
                continue
            seen.add(key)
            rows.append(row)
            print(json.dumps(row), flush=True)
    if arguments.write:
        write_table(rows)
    if arguments.out:
        report("engines", {"rows": rows, "torch_threads": torch.get_num_threads()}, arguments.out)


if __name__ == "__main__":
    main()
