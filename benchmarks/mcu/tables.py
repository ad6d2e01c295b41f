"""What benchmarks/README.md shows of the microcontrollers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Table = tuple[list[str], list[list[str]]]  # head, body


def _kb(size: int) -> str:
    return f"{size / 1000:.1f}"


def chain_table(result: Mapping[str, Any], bundle: str) -> Table:
    """Return the whole chain of a bundle on each target: flash, RAM, instructions, estimated load."""
    clocks = result["clocks_mhz"]
    head = ["processor", "kernels", "flash, kB: runtime / with the model", "RAM, kB: state and scratch / stack"]
    head += ["front end", "model", "detector", "an operation", "M instructions/s"]
    head += [f"load at {mhz} MHz (estimate)" for mhz in clocks]
    body = []
    for row in result["bundles"][bundle]["rows"].values():
        cells = [row["core"], row["kernels"]]
        if "does_not_fit" in row:
            body.append([*cells, "does not fit", *[""] * (len(head) - 3)])
            continue
        flash, ram, hop = row["flash_bytes"], row["ram_bytes"], row["instructions_per_hop"]
        runtime = flash["runtime"] + flash["library"]
        cells += [f"{_kb(runtime)} / {_kb(runtime + flash['model'])}"]
        cells += [f"{_kb(sum(ram.values()) - ram['stack'])} / {_kb(ram['stack'])}"]
        cells += [f"{hop[name]:,.0f}" for name in ("front end", "model", "detector")]
        cells += [f"{row['instructions_per_mac']:.2f}", f"{row['instructions_per_s'] / 1e6:.2f}"]
        body.append([*cells, *(f"{row['load_estimate'][str(mhz)]:.1%}" for mhz in clocks)])
    return head, body


def reference_table(result: Mapping[str, Any]) -> Table:
    """Return one step of the reference cell beside TensorFlow Lite Micro's."""
    body = []
    for row in result["reference"]["rows"].values():
        if "does_not_fit" not in row:
            theirs = result["tflm"].get(row["core"])
            cells = [row["core"], row["kernels"], f"{row['instructions_per_step']:,.0f}", f"{row['instructions_per_mac']:.2f}"]
            body.append([*cells, f"{theirs:,}" if theirs else ""])
    return ["processor", "kernels", "instructions a step", "a multiply-add", "TensorFlow Lite Micro (measured elsewhere)"], body


def words(result: Mapping[str, Any]) -> str:
    """Say what was measured, and what was not."""
    return (
        f"Compiled with `{result['optimisation']}`, run by QEMU over {result['signal']}; every score equals the integer law's. "
        "Instructions are exact, counted by a plugin, here a hop of audio; cycles are not modelled: the load assumes one an instruction "
        "and is an **estimate**. Flash is code and constants without start-up and drivers; stack is the deepest seen, start-up's included. "
        "An operation is one multiply-add of the network. `int16 weights` are compiled with `PDMU_WIDE_WEIGHTS`."
    )


def headline(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (what, measured, how) of the fastest Cortex-M4F build of each bundle."""
    out = []
    for name, entry in result["bundles"].items():
        row = entry["rows"].get("m4f-wide", {})
        if "ram_bytes" in row:
            flash, ram = row["flash_bytes"], sum(row["ram_bytes"].values())
            sizes = f"{_kb(flash['runtime'] + flash['library'])} kB of flash and the model's {_kb(flash['model'])}, {_kb(ram)} kB of RAM"
            how = f"`mcu`: the whole chain, {row['kernels']}, under QEMU; {sizes}"
            out.append((f"`{name}` on a {row['core']}, M instructions a second of audio", f"{row['instructions_per_s'] / 1e6:.2f}", how))
    return out
