"""The tables of `python -m benchmarks.mcu`, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.common import table

HEAD = ["network", "machine", "flash: runtime / tables / model, kB", "RAM: state / scratch / stack / all, bytes",
        "instructions a hop: front end / network / detector", "millions a second of sound", "load at 64 / 168 MHz, % (estimate)",
        "network, an operation"]  # fmt: skip


def mcu_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of every network on every machine."""
    rows = []
    for row in result["rows"]:
        cells = [row["network"], f"{row['core']} ({row['machine']})"]
        if row.get("too_large"):
            rows.append([*cells, "does not fit", *[""] * (len(HEAD) - 3)])
            continue
        flash, ram, parts = row["flash"], row["ram"], row["instructions"]
        load = row["load_percent_estimate"]
        cells += [" / ".join(f"{flash[k] / 1024:.1f}" for k in ("runtime", "tables", "model"))]
        cells += [" / ".join(f"{ram[k]:,}" for k in ("state", "scratch", "stack", "all"))]
        cells += [" / ".join(f"{parts[k]['mean']:,.0f}" for k in ("frontend", "network", "detector"))]
        cells += [f"{row['per_second'] / 1e6:.2f}", f"{load['64']:.1f} / {load['168']:.1f}", f"{row['per_mac']:.2f}"]
        rows.append(cells)
    return rows


def mcu_table(result: Mapping[str, Any]) -> str:
    """Return what each network costs each machine."""
    cells = [r for r in result["rows"] if r["network"] == "reference cell" and r["machine"] in result["tflm_per_step"]]
    beside = "; ".join(f"{r['core']} {r['per_step']:,} ({result['tflm_per_step'][r['machine']]:,})" for r in cells)
    words = (
        f"The first {result['seconds']:g} s of `{result['recording']}`, heard by the bare runtime under QEMU; a hop is 16 ms. "
        "Instructions are exact and are not cycles: a load is an estimate that takes one for the other. An operation is a "
        "multiply-accumulate or, over spikes, an addition. The reference cell, instructions a step (in brackets TensorFlow Lite Micro "
        f"with CMSIS-NN, measured elsewhere): {beside}.\n"
    )
    return words + "\n" + table(HEAD, mcu_rows(result))
