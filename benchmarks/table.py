"""The tables of both READMEs, from the measured JSON in benchmarks/results and nothing else:  python -m benchmarks.table [--write]

README.md takes a line for each thing measured; benchmarks/README.md the whole tables.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT
from benchmarks.mcu.tables import chain_table, headline, reference_table, words

README = ROOT / "README.md"
DETAILS = Path(__file__).with_name("README.md")
MARKED = re.compile(r"(<!-- results:begin[^>]*-->\n).*?(<!-- results:end -->)", re.DOTALL)
# arXiv 2512.01626, accuracy in %, beside ours where the test set is the same: data set → (its test sequences, family → figure)
PAPER: dict[str, tuple[int, dict[str, float]]] = {
    "psmnist": (10_000, {"pdmu": 98.22, "sdmu": 96.07}),
    "shd": (2_264, {"pdmu": 84.57, "sdmu": 90.98}),
    "gsc": (11_005, {"pdmu": 96.93, "sdmu": 96.39}),
}

MOST_COMMITS = 4  # named under a table
STEPPED = ("pdmu-sequential", "sdmu-snntorch")  # of the speed benchmark's models

Results = Mapping[str, Mapping[str, Any]]


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the benchmark results in a folder, by file name without ending."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def of_kind(results: Results, benchmark: str) -> list[Mapping[str, Any]]:
    """Return the results of one benchmark, by file name."""
    return [r for r in results.values() if r["benchmark"] == benchmark]


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, its first column to the left and the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]) + "\n"


def agent_rows(results: Results) -> list[tuple[str, str, str]]:
    """Return (what, measured, how) of the agent and of the recipes of recordings."""
    rows = []
    for speed in of_kind(results, "analyze_speed"):
        how = f"`analyze_speed`: the whole command over {speed['audio_s'] / 60:g} min of audio, median of {speed['repeats']}"
        for backend, figures in speed["results"].items():
            rows.append((f"`analyze`, {backend} backend, × real time", f"{figures['x_real_time']:.0f}", how))
    for memory in of_kind(results, "agent_memory"):
        how = f"`agent_memory`: median over {memory['seconds']:g} s of a running agent; peak {memory['peak_mb']} MB"
        rows.append((f"resident memory, {memory['backend']} backend, MB", f"{memory['median_mb']}", how))
    for bridge in of_kind(results, "bridge"):
        how = f"`bridge`: a board's line cut {bridge['cuts']} times in {bridge['minutes']:g} min; {bridge['repeated']} came twice"
        rows.append(("detections of a board at the broker exactly once", f"{bridge['exactly_once']} of {bridge['detections']}", how))
    for latency in of_kind(results, "latency"):
        late = latency["beyond_detector_ms"]
        how = f"`latency`: sample in → PUBACK of mosquitto, {latency['events']} events, median; largest {late['largest']} ms"
        rows.append((f"end of a sound to PUBACK beyond the detector's {latency['detector_delay_ms']:g} ms, ms", f"{late['median']}", how))
    for result in of_kind(results, "cross_validation"):
        recalls = ", ".join(f"{label.replace('_', ' ')} {value:.2f}" for label, value in result["recall"].items())
        how = f"`cross_validation {result['recipe']}`: {result['recordings']} recordings, {result['folds']} folds of groups; {recalls}"
        rows.append((f"{result['recipe']} recipe, balanced accuracy over recordings", f"{result['balanced_accuracy']:.3f}", how))
    return rows


def accuracy(row: Mapping[str, Any], key: str = "test_accuracy") -> str:
    """Return an accuracy over seeds in %: mean ± standard deviation (seeds)."""
    value = row.get(key)
    if not value:
        return "none"
    sd = f" ± {100 * value['sd']:.2f}" if value["sd"] is not None else ""
    return f"{100 * value['mean']:.2f}{sd} ({value['n']} seed{'s' if value['n'] > 1 else ''})"


def paper_figure(result: Mapping[str, Any], family: str) -> float | None:
    """Return the paper's accuracy of a family in %, or None where it has none or its test set is another."""
    sequences, figures = PAPER.get(result["data"], (0, {}))
    seeds = result["rows"].get(family, {}).get("seeds", {})
    return figures.get(family) if any(s["test_sequences"] == sequences for s in seeds.values()) else None


def points(share: float) -> str:
    """Return a signed difference in percentage points."""
    return f"{100 * share:+.2f}".replace("-", "−")


def gate_sentence(gain: Mapping[str, Any]) -> str:
    """Say what the gate brings over another gate, in words that the figures bear."""
    over = {"lmu": "no gate (`lmu`)", "pdmu-uniform": "a uniform gate (`pdmu-uniform`)"}.get(gain["over"], f"`{gain['over']}`")
    if "mean" not in gain:
        return f"Against {over}: {gain['statement'].partition(': ')[2]}."
    if gain["n"] < 2:
        return f"Against {over}: {points(gain['mean'])} points on one seed; no spread, so nothing is shown."
    low, high = map(points, gain["interval"])
    figures = f"{points(gain['mean'])} ± {100 * gain['sd']:.2f} points, paired over {gain['n']} seeds, {gain['confidence']:.0%} interval"
    figures += f" {low} … {high}"
    if gain["includes_zero"]:
        return f"Against {over} the gate brings nothing that is shown here: {figures}, which includes zero."
    verb = "brings" if gain["mean"] > 0 else "costs"
    return f"Against {over} the gate {verb} accuracy: {figures}."


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def how_far(state: Mapping[str, Any]) -> str:
    """Return how far an unfinished seed has come, of several folds the least."""
    reached = state["epoch"]
    return f"{min(reached) if isinstance(reached, list) else reached} of {state['epochs']}"


def sequence_table(result: Mapping[str, Any]) -> str:
    """Return a task's table: every family's row, what has not finished, and what the gate brings."""
    rows, pending = result["rows"], result["unfinished"]
    paper = {family: figure for family in rows if (figure := paper_figure(result, family)) is not None}
    head = ["model", "hidden", "parameters", "test accuracy, %", "validation, %", "steps/s in training", "training time"]
    body = []
    for family, row in rows.items():
        cells = [family, "+".join(map(str, row["hidden"])), f"{row['parameters']:,}", accuracy(row), accuracy(row, "validation_accuracy")]
        cells += [f"{row['steps_per_s']['mean']:,.0f}", duration(row["seconds"]["mean"])]
        body.append([*cells, *([f"{paper[family]:.2f}" if family in paper else ""] if paper else [])])
    out = [table([*head, *(["the paper's, %"] if paper else [])], body)]
    for family, seeds in pending.items():
        reached = ", ".join(f"seed {seed} at epoch {how_far(state)}" for seed, state in seeds.items())
        out.append(f"Unfinished, so without a test figure: {family}, {reached}.\n")
    out += [gate_sentence(gain) + "\n" for gain in result["gain"].values()]
    changed = [f"{family}: {' '.join(row['changes'])}" for family, row in rows.items() if row["changes"]]
    if changed:
        out.append(f"Changes of the recipe: {'; '.join(changed)}.\n")
    if len({row["protocol"] for row in rows.values()}) > 1:
        out.append("Rows were trained under different settings (`protocol` in the JSON); only those with the same one compare.\n")
    folds = {row["folds"] for row in rows.values()} - {0}
    if folds:
        out.append(f"Each seed's figure is pooled over the test parts of {folds.pop()} folds.\n")
    return "\n".join(out)


def speed_ratios(speed: Mapping[str, Any]) -> tuple[str, str]:
    """Return the key of the ratios to show, and what they are: on one thread processor time, which other programs disturb least."""
    if speed["threads"] == 1 and speed["device"] == "cpu":
        return "times_lstm_cpu", "processor time, 1 thread"
    return "times_lstm", f"wall time, {speed['threads']} threads" if speed["device"] == "cpu" else f"wall time, {speed['device']}"


def speed_table(speed: Mapping[str, Any]) -> str:
    """Return how many times faster than LSTM each model trains, and the memory it adds."""
    key, what = speed_ratios(speed)
    models = [m for m in speed["rows"][0]["ms"] if ":" not in m]
    body = []
    for row in speed["rows"]:
        cells = [f"{row['T']} / {row['H']} / {row['batch']}"]
        for model in models:
            memory = row["added_mib"].get(model)
            cells.append(f"{row[key][model]:.2f}" + ("" if memory is None else f" · {memory:.0f} MiB") if model in row[key] else "")
        body.append(cells)
    stepped = ", ".join(f"`{m}`" for m in models if m in STEPPED)
    words = (
        f"Forward and backward of one layer, every output used, d = H, {speed['taps']} taps: times as fast as `torch.nn.LSTM` of equal "
        f"hidden width ({what}; above 1 is faster) · memory that a run adds."
    )
    if stepped:
        words += f" {stepped} run step by step: timed over their first {speed['sequential_steps']} steps, compared per step."
    return words + "\n\n" + table(["T / H / batch", *models], body)


def profile_table(result: Mapping[str, Any]) -> str:
    """Return where the time goes in training each model."""
    body = []
    for row in result["rows"]:
        for model, entry in row["models"].items():
            counts = ", ".join(f"{name} {n:,}" for name, n in entry["multiply_adds"].items())
            shares = ", ".join(f"`{o['name'].removeprefix('aten::')}` {o['share']:.0%}" for o in entry["operators"] if o["share"] >= 0.02)
            body.append([f"{row['T']} / {row['H']} / {row['batch']}", model, f"{entry['ms']:.0f}", counts, shares])
    words = (
        f"Shares of the processor's time by operator, {result['threads']} thread; operators under 2% are left out. `_Layer` is the delay "
        "line, W_x, normalisation and ReLU in one compiled kernel. An LSTM's matrices are four of H × H, a PDMU's is one of H × d: where "
        "both run at the processor's full rate, the matrices alone bound the ratio at four, and what else a PDMU does comes on top.\n"
    )
    return words + "\n" + table(["T / H / batch", "model", "ms", "multiply-adds a step", "time"], body)


def lif_table(lif: Mapping[str, Any]) -> str:
    """Return how many times faster than snnTorch's loop each form of the spiking neuron is."""
    forms = list(dict.fromkeys(name for row in lif["rows"] for name in row["times_faster_than_snntorch"]))
    body = []
    for row in lif["rows"]:
        ratios, memory = row["times_faster_than_snntorch"], row["added_memory_mib"]
        cells = [f"{row['what'].removeprefix('lif-')} / {row['T']} / {row['H']} / {row['batch']}", f"{row['snntorch_ms']:.1f} ms"]
        for form in forms:
            added = memory.get(form)
            cells.append(f"{ratios[form]:.1f}" + ("" if added is None else f" · {added:.0f} MiB") if form in ratios else "")
        body.append(cells)
    words = "Forward and backward; times as fast as the `snntorch.Leaky` loop, with the same spikes · memory that a run adds.\n"
    return words + "\n" + table(["reset / T / H / batch", "snnTorch", *forms], body)


def capacity_table(capacity: Mapping[str, Any]) -> str:
    """Return the memory capacity of each family's layer."""
    trained = any("trained" in f for f in capacity["families"].values())
    s, body = capacity["settings"], []
    for family, entry in capacity["families"].items():
        cells = [family, str(entry["hidden"]), f"{entry['parameters']:,}"]
        for name in ("untrained", *(["trained"] if trained else [])):
            total = entry.get(name, {}).get("total")
            sd = f" ± {total['sd']:.1f}" if total and total["sd"] is not None else ""
            cells.append(f"{total['mean']:.1f}{sd}" if total else "")
        body.append(cells)
    words = (
        f"Σ R² over delays 1 … {s['delays']} of a linear readout of the outputs to white noise (Jaeger 2001; `memory_capacity.py` says "
        f"how), mean ± standard deviation, seeds: {len(s['seeds'])}. d = {s['order']}, θ = {s['theta']:g}, {s['taps']} taps every "
        f"{s['dilation']} steps, sizes matched in parameters. It is at most the number of outputs.\n"
    )
    head = ["model", "outputs", "parameters", "untrained", *([f"after {s['train_steps']} updates"] if trained else [])]
    return words + "\n" + table(head, body)


def operations_table(result: Mapping[str, Any]) -> str:
    """Return what one step of inference costs each family."""
    body = []
    for family, entry in result["families"].items():
        spikes = [f"{r:.3f}" for r in entry["spike_rates"]["outputs"] if r is not None]
        cells = [family, f"{entry['parameters']:,}", f"{entry['macs']:,}", f"{entry['synaptic_operations']:,.0f}"]
        cells += [f"{entry['delay_reads']:,} / {entry['delay_writes']:,}", ", ".join(spikes), f"{entry['energy_nj_estimate']:.2f}"]
        body.append([*cells, entry["network"]])
    energy = result["energy"]
    words = (
        f"Per step of inference; spikes counted on {result['input']}. Energy is an **estimate** of the arithmetic alone: "
        f"{energy['mac_pj']:g} pJ a multiply-accumulate, {energy['ac_pj']:g} pJ an accumulate (Horowitz 2014, 45 nm, 32-bit floats); on "
        "most devices memory traffic costs more.\n"
    )
    head = ["model", "parameters", "multiply-accumulates", "synaptic operations", "delay line, reads / writes", "spikes a step and neuron"]
    return words + "\n" + table([*head, "energy, nJ (estimate)", "network"], body)


def mcu_table(result: Mapping[str, Any]) -> str:
    """Return what the C runtime takes of microcontrollers."""
    parts = [words(result)]
    for name, entry in result["bundles"].items():
        macs = f"{entry['macs_per_step']:,.0f} multiply-adds a model step"
        parts.append(f"`models/{name}.pdmu`, {macs}:\n\n{table(*chain_table(result, name))}")
    macs = f"{result['reference']['macs_per_step']:,.0f} multiply-adds a step"
    cell = f"A recurrent cell of 40 inputs, order 32, hidden 64, 8 taps and 12 classes, {macs}:"
    return "\n".join([*parts, f"{cell}\n\n{table(*reference_table(result))}", f"{'; '.join(result['tools'].values())}.\n"])


def brief_gain(gain: Mapping[str, Any]) -> str:
    """Return what the gate brings in a few words; `gate_sentence` says it whole."""
    points = f"{100 * gain['mean']:+.2f}".replace("-", "−") + (f" ± {100 * gain['sd']:.2f}" if gain["sd"] is not None else "")
    verdict = (
        "brings nothing that is shown" if gain.get("includes_zero", True) else "brings accuracy" if gain["mean"] > 0 else "costs accuracy"
    )
    return f"Over {gain['over']} the gate {verdict}: {points} points"


def headline_rows(results: Results) -> list[tuple[str, str, str]]:
    """Return (what, measured, how) of the family of models, a line each."""
    rows = []
    for result in of_kind(results, "rows"):
        measured = result["rows"]
        shown = "pdmu" if "pdmu" in measured else next(iter(measured))
        others = "; ".join(f"{f} {accuracy(row).partition(' (')[0]}" for f, row in measured.items() if f != shown)
        paper = paper_figure(result, shown)
        sizes = "" if any(row["parameters_of_pdmu"] is None for row in measured.values()) else ", the others no larger"
        parts = [f"`rows {result['task']}`: {measured[shown]['parameters']:,} parameters{sizes}"]
        parts += [others] if others else []
        parts += [f"the paper's {shown.upper()} {paper:.2f}"] if paper is not None else []
        parts += [brief_gain(gain) for gain in result["gain"].values()]
        rows.append((f"{result['task']}, {shown.upper()}, test accuracy, %", accuracy(measured[shown]), ". ".join(parts)))
    for speed in of_kind(results, "speed"):
        key, what = speed_ratios(speed)
        lengths, widths = ([row[k] for row in speed["rows"]] for k in ("T", "H"))
        how = f"`speed`: forward and backward, T {span(lengths)}, H = d {span(widths)}, {what}"
        for model in ("pdmu", "epdmu"):
            ratios = [row[key][model] for row in speed["rows"] if model in row.get(key, {})]
            if ratios:
                rows.append((f"{model.upper()} in training, × `nn.LSTM` of equal width", span(ratios, ".1f"), how))
    rows += [line for mcu in of_kind(results, "mcu") for line in headline(mcu)]
    for lif in of_kind(results, "lif"):
        ratios = [row["times_faster_than_snntorch"][row["fastest"]] for row in lif["rows"]]
        how = f"`lif`: the fastest form at each of {len(ratios)} sizes, forward and backward, the same spikes"
        rows.append(("LIF neurons with reset, × snnTorch's loop", span(ratios, ".0f"), how))
    return rows


def span(values: Sequence[float], form: str = "") -> str:
    """Return the least and the largest of some values."""
    ends = [format(v, form) for v in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " … ".join(ends)


def where(results: Iterable[Mapping[str, Any]]) -> str:
    """Return the machines that results were measured on, and the commits, one line a machine."""
    commits: dict[tuple[str, int, str], set[str]] = {}
    for result in results:
        machine = result["machine"]
        # rows are measured one after the other, each at a commit of its own
        found = {c for row in result["rows"].values() for c in row["commit"]} if result["benchmark"] == "rows" else {machine["commit"]}
        commits.setdefault((machine["processor"], machine["cores"], machine["python"]), set()).update(map(str, found))
    return "\n".join(
        f"{processor} ({cores} cores), Python {python}, "
        + (f"at commit {', '.join(sorted(found))}." if len(found) <= MOST_COMMITS else f"at {len(found)} commits, named in the JSON.")
        for (processor, cores, python), found in sorted(commits.items())
    )


def markdown(results: Results) -> str:
    """Return what README.md shows."""
    lines = ["| measured | | by `python -m benchmarks.…`; the agent's speed, memory and latency on one core |", "|---|---|---|"]
    lines += [f"| {what} | {value} | {how} |" for what, value, how in (*agent_rows(results), *headline_rows(results))]
    lines += ["", where(results.values()), "`make bench` repeats the agent's figures; [benchmarks](benchmarks/README.md) has every table."]
    return "\n".join(lines) + "\n"


def details(results: Results) -> str:
    """Return what benchmarks/README.md shows."""
    sections: list[tuple[str, str, list[Mapping[str, Any]]]] = []
    for result in of_kind(results, "rows"):
        title = f"{result['task']}" + (f": {result['description']}" if result["description"] else "")
        sections.append((title, sequence_table(result), [result]))
    for title, benchmark, make in (
        ("Training speed", "speed", speed_table),
        ("Where training's time goes", "speed_profile", profile_table),
        ("Spiking neurons against snnTorch", "lif", lif_table),
        ("Memory capacity", "memory_capacity", capacity_table),
    ):
        sections += [(title, make(result), [result]) for result in of_kind(results, benchmark)]
    for result in of_kind(results, "operations"):
        sections.append((f"Operations and energy: {result['task']}", operations_table(result), [result]))
    sections += [("Microcontrollers", mcu_table(result), [result]) for result in of_kind(results, "mcu")]
    if not sections:
        return "Nothing is measured yet.\n"
    return "\n".join(f"## {title}\n\n{text}\n{where(of)}\n" for title, text, of in sections)


def written(path: Path, text: str) -> str:
    """Return a README with its marked part replaced."""
    content = path.read_text(encoding="utf-8")
    if not MARKED.search(content):
        raise SystemExit(f"error: {path.name} has no <!-- results:begin --> … <!-- results:end -->: put these lines where the tables go")
    return MARKED.sub(lambda match: match[1] + text + match[2], content)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="Print the results tables, or put them into README.md and benchmarks/README.md.")
    parser.add_argument("--write", action="store_true", help="replace what stands between the markers")
    options = parser.parse_args()
    results = load(RESULTS)
    if not results:
        print(f"error: {RESULTS} holds no results; run python -m benchmarks.run_all", file=sys.stderr)
        return 1
    for path, text in ((README, markdown(results)), (DETAILS, details(results))):
        if options.write:
            path.write_text(written(path, text), encoding="utf-8")
        else:
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
