"""A row of the results for each family and seed of a task of sequences:  python -m benchmarks.rows fsdd --root DIR

Every run is a `pdmu-train` of its own below ``--work``; stopped at any moment, the same command goes on, and finished runs are not trained
again. ``--deadline-s`` ends in time: the run in progress is interrupted and keeps its checkpoint. ``benchmarks/results/rows_TASK.json``
holds per family the mean, the spread and every seed's figures, and the paired gain of the delay gate; a command for some families changes
their rows alone. A run that has not finished stands under ``unfinished`` with the epochs it has reached: no test figure, nothing
extrapolated.

Families are compared at equal size: the widths of all layers are scaled together to the most parameters that are not above those of the
recipe's own PDMU (``--no-match`` keeps the recipe's widths; ``--set model.…`` does not move what is matched to).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.stats import t as student

from benchmarks.common import RESULTS, ROOT, machine
from pdmu.config import FAMILIES, ModelConfig
from pdmu.data.recipe import RecipeTable, read_table
from pdmu.data.sequence_recipe import parse_sequence_recipe
from pdmu.data.sequences import load_sequences
from pdmu.errors import UserError
from pdmu.files import write_text
from pdmu.nn.model import PDMUNet

GAINS = (("pdmu", "lmu"), ("pdmu", "pdmu-uniform"))  # what the gate brings over none, and over one that reads nothing
CONFIDENCE = 0.95
STOP_GRACE_S = 30.0  # from the interrupt to being killed


class Row(NamedTuple):
    """What is trained for one family."""

    family: str
    changes: tuple[str, ...]  # of the recipe, as asked for
    widths: tuple[str, ...]  # further changes: the hidden widths that match
    hidden: tuple[int, ...]
    parameters: int
    parameters_of_pdmu: int | None  # what was matched to
    folds: int
    epochs: int
    settings: str  # hash of everything but seed and fold: seeds of one row have it in common
    protocol: str  # hash of what is not the family's own: rows to be compared have it in common


def parameter_count(model: ModelConfig, inputs: int) -> int:
    """Return the number of trained values of a network; built without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in PDMUNet(model, inputs).parameters())


def with_widths(model: ModelConfig, hidden: Sequence[int]) -> ModelConfig:
    """Return the model with other hidden widths."""
    layers = tuple(dataclasses.replace(layer, hidden=width) for layer, width in zip(model.layers, hidden, strict=True))
    return dataclasses.replace(model, layers=layers)


def match_widths(model: ModelConfig, inputs: int, target: int) -> tuple[int, ...]:
    """Return the hidden widths, all scaled together, that give the most parameters not above `target`.

    The widest layer takes every width; the others keep their proportion to it, rounded down.

    Raises
    ------
    UserError
        Even one unit is above it.
    """
    given = [layer.hidden for layer in model.layers]
    widest = max(given)

    def widths(k: int) -> tuple[int, ...]:
        return tuple(max(1, k * h // widest) for h in given)

    def fits(k: int) -> bool:
        return parameter_count(with_widths(model, widths(k)), inputs) <= target

    if not fits(1):
        raise UserError(f"no hidden width has at most {target:,} parameters: the memory alone has more; make it smaller, or --no-match")
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return widths(low)


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]


def count_inputs(table: RecipeTable, root: Path, keep: Path) -> int:
    """Return N_x of a recipe's data; kept in the folder `keep`, for reading the data takes long."""
    sequence = {k: v for k, v in table.data["sequence"].items() if k != "fold"}
    path = keep / f"inputs-{_hash(sequence)}.json"
    if path.exists():
        return int(json.loads(path.read_text())["inputs"])
    inputs = load_sequences(parse_sequence_recipe(table).sequence, root).inputs
    write_text(path, json.dumps({"inputs": inputs}) + "\n")
    return inputs


def plan(recipe: str, family: str, changes: tuple[str, ...], match: bool, inputs: Callable[[RecipeTable], int]) -> Row:
    """Return what to train for a family.

    Parameters
    ----------
    recipe : str
        As `pdmu-train` takes it.
    changes : tuple of str
        ``section.key=value``.
    match : bool
        Scale the widths to the parameters of the recipe's own PDMU.
    inputs : callable
        From a recipe's table to N_x of its data.

    Raises
    ------
    UserError
        A recipe, family or change that can't be used, or one of recordings.
    """
    asked = (f"model.family={family}", *changes)
    table = read_table(recipe, asked)
    parsed, n = parse_sequence_recipe(table), inputs(table)
    hidden, target = tuple(layer.hidden for layer in parsed.model.layers), None
    widths: tuple[str, ...] = ()
    if match:
        of_data = tuple(c for c in changes if not c.strip().startswith("model."))
        target = parameter_count(parse_sequence_recipe(read_table(recipe, ("model.family=pdmu", *of_data))).model, n)
        given, hidden = hidden, match_widths(parsed.model, n, target)
        widths = tuple(f"model.layers.{i}.hidden={h}" for i, h in enumerate(hidden) if h != given[i])
    count = parameter_count(with_widths(parsed.model, hidden), n)
    settings = settings_of(recipe, family, (*changes, *widths))
    protocol = _hash([match, _without_seed(read_table(recipe, ("model.family=pdmu", *changes)))])
    return Row(family, changes, widths, hidden, count, target, parsed.sequence.folds, parsed.train.epochs, settings, protocol)


def settings_of(recipe: str, family: str, changes: tuple[str, ...]) -> str:
    """Return the hash of what a row's runs have in common."""
    return _hash([family, _without_seed(read_table(recipe, (f"model.family={family}", *changes)))])


def _without_seed(table: RecipeTable) -> dict[str, Any]:
    """Return a recipe's settings without those that differ between the runs of one row."""
    data = {name: dict(section) if isinstance(section, dict) else section for name, section in table.data.items()}
    for section, key in (("train", "seed"), ("sequence", "fold")):
        data.get(section, {}).pop(key, None)
    return data


def run_folders(row: Row, seed: int, below: Path) -> list[Path]:
    """Return the folders of a seed's runs: one, or one a fold."""
    base = below / f"{row.family}-{row.settings}"
    return [base / f"seed{seed}-fold{fold}" for fold in range(row.folds)] if row.folds else [base / f"seed{seed}"]


def finished(run: Path) -> bool:
    """Whether a run has read its test set and kept its weights, which are written last."""
    return (run / "model.pt").exists() and (run / "summary.json").exists()


def train_run(recipe: str, row: Row, seed: int, fold: int, run: Path, options: argparse.Namespace, deadline: float) -> None:
    """Train one run, or go on with it, until it has finished or the deadline (of `time.monotonic`) is there.

    Raises
    ------
    UserError
        The trainer refused or failed, or the recipe is no longer what the row was planned from.
    """
    if settings_of(recipe, row.family, (*row.changes, *row.widths)) != row.settings:
        raise UserError(f"{recipe}: the recipe has changed since this command began; start it again")
    command: list[str | Path] = [sys.executable, "-m", "pdmu.nn.train", recipe, "--root", options.root, "--out", run, "--seed", str(seed)]
    command += ["--threads", str(options.threads), "--device", options.device]
    for change in (f"model.family={row.family}", *row.changes, *row.widths, *([f"sequence.fold={fold}"] if row.folds else [])):
        command += ["--set", change]
    # a shell gives its background jobs a SIGINT that is ignored, and children inherit it: the trainer must hear ours
    child = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, stdout=sys.stderr, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    stopped = False
    try:
        child.wait(max(0.0, deadline - time.monotonic()) if math.isfinite(deadline) else None)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
        stopped = True
        stop(child)
        if isinstance(reason, KeyboardInterrupt):
            raise
    if child.returncode == 0:
        write_text(run / "machine.json", json.dumps(machine(), indent=1) + "\n")
    elif not stopped:
        said = f"pdmu-train ended with status {child.returncode}"
        raise UserError(f"{row.family}, seed {seed}: {said}; the same command goes on from where it was")


def stop(child: subprocess.Popen[Any]) -> None:
    """Interrupt a trainer, which keeps its last checkpoint; kill it where it does not end."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def seed_figures(runs: Sequence[Path]) -> dict[str, Any]:
    """Return one seed's figures: those of its run, or pooled over the sequences of all its folds."""
    each = [json.loads((run / "summary.json").read_text()) for run in runs]
    out: dict[str, Any] = {}
    for part in ("test", "validation"):
        held = [s[part] for s in each if s.get(part)]
        count = sum(h["sequences"] for h in held)
        out[f"{part}_accuracy"] = round(sum(h["accuracy"] * h["sequences"] for h in held) / count, 6) if count else None
        out[f"{part}_sequences"] = count
    seconds = sum(s["seconds"] for s in each)
    out |= {
        "parameters": each[0]["parameters"],
        "epochs": each[0]["epochs"],
        "steps_per_s": round(sum(s["steps_per_s"] * s["seconds"] for s in each) / seconds) if seconds else each[0]["steps_per_s"],
        "seconds": round(seconds, 1),
        "threads": each[0].get("threads"),
        "device": each[0].get("device"),
    }
    if len(each) > 1:
        out["fold_test_accuracy"] = [round(s["test"]["accuracy"], 6) for s in each]
    if (runs[-1] / "machine.json").exists():
        where = json.loads((runs[-1] / "machine.json").read_text())
        out |= {"commit": where["commit"], "processor": where["processor"]}
    return out


def progress(runs: Sequence[Path], epochs: int) -> dict[str, Any] | None:
    """Return how far a seed's runs have come, or None where none was begun: epochs, validation curves and training losses alone."""
    reached, curves, losses = [], [], []
    for run in runs:
        log = run / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        reached.append(len(lines))
        curves.append([[line["epoch"], line["val_accuracy"]] for line in lines if "val_accuracy" in line])
        losses.append([[line["epoch"], line["train_loss"]] for line in lines])
    if not any(run.exists() for run in runs):
        return None
    if len(runs) == 1:
        return {"epoch": reached[0], "epochs": epochs, "validation_curve": curves[0], "train_loss": losses[0]}
    done = sum(map(finished, runs))
    return {"epoch": reached, "epochs": epochs, "folds_finished": done, "validation_curve": curves, "train_loss": losses}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and sample standard deviation (None of one value) over seeds."""
    sd = round(statistics.stdev(values), 6) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 6), "sd": sd, "n": len(values)}


def row_entry(row: Row, seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a family's row of the JSON from its finished seeds' figures."""
    ordered = dict(sorted(seeds.items(), key=lambda item: int(item[0])))
    entry: dict[str, Any] = {
        "changes": [*row.changes],
        "hidden": [*row.hidden],
        "parameters": row.parameters,
        "parameters_of_pdmu": row.parameters_of_pdmu,
        "folds": row.folds,
        "epochs": row.epochs,
        "settings": row.settings,
        "protocol": row.protocol,
        "seeds": ordered,
    }
    for key in ("test_accuracy", "validation_accuracy", "steps_per_s", "seconds"):
        values = [s[key] for s in ordered.values() if s[key] is not None]
        entry[key] = spread(values) if values else None
    for key in ("commit", "processor", "device", "threads"):
        entry[key] = sorted({str(s.get(key)) for s in ordered.values()})
    return entry


def gain(rows: Mapping[str, Mapping[str, Any]], of: str, over: str) -> dict[str, Any] | None:
    """Return the paired difference of test accuracy between two families over the seeds that both have, or None without such seeds.

    The interval is Student's for the mean of paired differences: seeds vary the start and the order of training, never the test set.
    """
    if of not in rows or over not in rows:
        return None
    a, b = rows[of]["seeds"], rows[over]["seeds"]
    common = [s for s in a if s in b]
    if not common:
        return None
    words = f"{of} − {over}"
    if rows[of]["protocol"] != rows[over]["protocol"]:
        return {"of": of, "over": over, "statement": f"{words}: trained under different settings, not to be compared"}
    each = {s: round(a[s]["test_accuracy"] - b[s]["test_accuracy"], 6) for s in common}
    n, mean = len(each), statistics.fmean(each.values())
    result: dict[str, Any] = {"of": of, "over": over, "each": each, **spread([*each.values()])}
    if n < 2:
        result["statement"] = f"{words}: {100 * mean:+.2f} points on one seed, which shows no spread"
        return result
    half = float(student.ppf(0.5 + CONFIDENCE / 2, n - 1)) * result["sd"] / math.sqrt(n)
    low, high = mean - half, mean + half
    zero = low <= 0 <= high
    verdict = "includes zero: no difference shown" if zero else "excludes zero"
    result |= {"interval": [round(low, 6), round(high, 6)], "confidence": CONFIDENCE, "includes_zero": zero}
    result["statement"] = (
        f"{words}: {100 * mean:+.2f} ± {100 * result['sd']:.2f} points (n = {n}); "
        f"the {CONFIDENCE:.0%} interval {100 * low:+.2f} … {100 * high:+.2f} {verdict}"
    )
    return result


def merge(result: dict[str, Any], row: Row, seeds: Mapping[str, Any], unfinished: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's result with one family's row renewed; other rows stay.

    Seeds that the row already has are kept where they were trained under the same settings, for a command may name some seeds only.
    """
    rows, pending = dict(result.get("rows", {})), dict(result.get("unfinished", {}))
    before = rows.get(row.family, {})
    same = before.get("settings") == row.settings
    kept = {**(before["seeds"] if same else {}), **seeds}
    if kept:
        rows[row.family] = row_entry(row, kept)
    else:
        rows.pop(row.family, None)  # it was of other settings
    waiting = {s: {**p, "settings": row.settings} for s, p in unfinished.items()}
    earlier = {s: p for s, p in pending.get(row.family, {}).items() if p["settings"] == row.settings and s not in kept}
    pending[row.family] = {**earlier, **waiting}
    pending = {family: p for family, p in pending.items() if p}
    order = [*FAMILIES]
    rows = {family: rows[family] for family in sorted(rows, key=order.index)}
    gains = {f"{of} - {over}": g for of, over in GAINS if (g := gain(rows, of, over)) is not None}
    return {**result, "rows": rows, "unfinished": pending, "gain": gains}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock: commands for several families may end at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def update(out: Path, head: Mapping[str, Any], row: Row, seeds: Sequence[int], below: Path) -> dict[str, Any]:
    """Put what one family's runs have come to into the JSON file, and return its content."""
    done, pending = {}, {}
    for seed in seeds:
        runs = run_folders(row, seed, below)
        if all(map(finished, runs)):
            done[str(seed)] = seed_figures(runs)
        elif (reached := progress(runs, row.epochs)) is not None:
            pending[str(seed)] = reached
    with locked(below / ".lock"):
        before = json.loads(out.read_text()) if out.exists() else {}
        result = {**merge({**before, **head}, row, done, pending), "machine": machine()}
        write_text(out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def text(result: Mapping[str, Any]) -> str:
    """Return the rows as a few aligned lines."""
    lines = []
    for family, row in result["rows"].items():
        accuracy = row["test_accuracy"]
        sd = f" ± {100 * accuracy['sd']:.2f}" if accuracy["sd"] is not None else ""
        figures = f"{100 * accuracy['mean']:.2f}{sd} (n = {accuracy['n']})"
        cost = f"{row['steps_per_s']['mean']:>9,.0f} steps/s {row['seconds']['mean']:>7,.0f} s"
        lines.append(f"{family:13} {row['parameters']:>9,} parameters  {figures:22} {cost}")
    for family, seeds in result["unfinished"].items():
        lines += [f"{family}, seed {seed}: unfinished, epoch {p['epoch']} of {p['epochs']}" for seed, p in seeds.items()]
    return "\n".join([*lines, *(g["statement"] for g in result["gain"].values())])


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rows", description="Train every family on a task of sequences and keep its figures."
    )
    parser.add_argument("recipe", help="name of a shipped recipe of sequences (psmnist, fsdd …) or a .toml file")
    known = f"of {', '.join(FAMILIES)} (default: all)"
    parser.add_argument("--families", nargs="+", default=[*FAMILIES], choices=[*FAMILIES], metavar="NAME", help=known)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "rows", help="folder of the runs (default: runs/rows)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="as pdmu-train takes it (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting of the recipe")
    parser.add_argument("--no-match", dest="match", action="store_false", help="keep the recipe's widths in every family")
    parser.add_argument("--deadline-s", type=float, default=math.inf, metavar="S", help="stop in time, from now; the same command goes on")
    parser.add_argument("--collect", action="store_true", help="train nothing: only bring the JSON up to date")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/rows_RECIPE.json)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Train what is missing, seed by seed so that a deadline leaves whole comparisons, and keep the figures after each run."""
    deadline = time.monotonic() + options.deadline_s
    task = Path(options.recipe).stem
    recipe = str(Path(options.recipe).resolve()) if options.recipe.endswith(".toml") else options.recipe
    options.root, below, out = options.root.resolve(), options.work.resolve() / task, options.out or RESULTS / f"rows_{task}.json"
    changes = tuple(options.set)
    rows = [plan(recipe, family, changes, options.match, lambda t: count_inputs(t, options.root, below)) for family in options.families]
    data = read_table(recipe, changes).data
    head = {"benchmark": "rows", "task": task, "description": data["task"].get("description", ""), "data": data["sequence"]["data"]}
    result: dict[str, Any] = {}
    try:
        for seed in options.seeds:
            for row in rows:
                for fold, folder in enumerate(run_folders(row, seed, below)):
                    if finished(folder) or options.collect or time.monotonic() >= deadline:
                        continue
                    print(f"{task} {row.family} seed {seed}" + (f" fold {fold}" if row.folds else ""), file=sys.stderr, flush=True)
                    train_run(recipe, row, seed, fold, folder, options, deadline)
                    result = update(out, head, row, options.seeds, below)
    finally:
        for row in rows:
            result = update(out, head, row, options.seeds, below)
        print(text(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = build_parser().parse_args(argv)
    try:
        return run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
