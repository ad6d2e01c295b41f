"""The README's table, from the measured JSON in benchmarks/results and nothing else:  python -m benchmarks.table [--write]"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT

README = ROOT / "README.md"
MARKED = re.compile(r"(<!-- results:begin[^>]*-->\n).*?(<!-- results:end -->)", re.DOTALL)


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the benchmark results in a folder, by file name without ending."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def rows(results: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (what, measured, how) of every result there is."""
    table = []
    if speed := results.get("analyze_speed"):
        how = f"`analyze_speed`: the whole command over {speed['audio_s'] / 60:g} min of audio, median of {speed['repeats']}"
        for backend, figures in speed["results"].items():
            table.append((f"`analyze`, {backend} backend, × real time", f"{figures['x_real_time']:.0f}", how))
    if memory := results.get("agent_memory"):
        how = f"`agent_memory`: median over {memory['seconds']:g} s of a running agent; peak {memory['peak_mb']} MB"
        table.append((f"resident memory, {memory['backend']} backend, MB", f"{memory['median_mb']}", how))
    if latency := results.get("latency"):
        late = latency["beyond_detector_ms"]
        how = f"`latency`: sample in → PUBACK of mosquitto, {latency['events']} events, median; largest {late['largest']} ms"
        table.append((f"end of a sound to PUBACK beyond the detector's {latency['detector_delay_ms']:g} ms, ms", f"{late['median']}", how))
    for result in results.values():
        if result["benchmark"] == "cross_validation":
            recalls = ", ".join(f"{label.replace('_', ' ')} {value:.2f}" for label, value in result["recall"].items())
            how = f"`cross_validation {result['recipe']}`: {result['recordings']} recordings, {result['folds']} folds of groups; {recalls}"
            table.append((f"{result['recipe']} recipe, balanced accuracy over recordings", f"{result['balanced_accuracy']:.3f}", how))
    return table


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Return the table with the machine it was measured on."""
    machines = {(r["machine"]["processor"], r["machine"]["python"], r["machine"]["commit"]) for r in results.values()}
    lines = ["| measured | | by `python -m benchmarks.…`; speed, memory and latency on one core |", "|---|---|---|"]
    lines += [f"| {what} | {value} | {how} |" for what, value, how in rows(results)]
    lines.append("")
    lines += [f"{processor}, Python {python}, commit {commit}. `make bench` repeats it." for processor, python, commit in sorted(machines)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the results table, or put it into README.md.")
    parser.add_argument("--write", action="store_true", help="replace the table between the markers in README.md")
    options = parser.parse_args()
    results = load(RESULTS)
    if not results:
        print(f"error: {RESULTS} holds no results; run python -m benchmarks.run_all", file=sys.stderr)
        return 1
    text = markdown(results)
    if options.write:
        README.write_text(MARKED.sub(lambda match: match[1] + text + match[2], README.read_text()))
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
