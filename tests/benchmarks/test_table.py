"""The tables say what the JSON says, and the committed ones are those that the command makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import RESULTS
from benchmarks.rows import Row, merge
from benchmarks.table import DETAILS, README, details, gate_sentence, load, markdown, paper_figure, sequence_table, written

MACHINE = {"processor": "P", "cores": 2, "python": "3.11", "commit": "abc"}


def result(data: str, test_sequences: int, rows: dict[str, list[float]], **extra: Any) -> dict[str, Any]:
    out: dict[str, Any] = {"benchmark": "rows", "task": data, "description": "", "data": data, "machine": MACHINE}
    for family, values in rows.items():
        row = Row(family, (), (), (24, 8), 12_345, 12_345, 0, 5, "settings", "protocol")
        common = {"test_sequences": test_sequences, "steps_per_s": 1000, "seconds": 600.0, "commit": "abc", "device": "cpu"}
        seeds = {str(i + 1): {"test_accuracy": v, "validation_accuracy": v, **common} for i, v in enumerate(values)}
        out = merge(out, row, seeds, extra.get(family, {}))
    return out


def test_both_readmes_show_the_committed_results() -> None:
    results = load(RESULTS)
    for path, text in ((README, markdown(results)), (DETAILS, details(results))):
        assert path.read_text(encoding="utf-8") == written(path, text), f"{path.name} is out of date: python -m benchmarks.table --write"


def test_a_gate_that_brings_nothing_is_said_to() -> None:
    flat = result("x", 10, {"lmu": [0.5, 0.5, 0.5], "pdmu": [0.49, 0.5, 0.52]})
    assert "brings nothing" in sequence_table(flat) and "includes zero" in sequence_table(flat)
    worse = result("x", 10, {"lmu": [0.9, 0.9, 0.9], "pdmu": [0.5, 0.51, 0.5]})
    assert "costs accuracy: −39.67" in sequence_table(worse)
    better = result("x", 10, {"lmu": [0.5, 0.5, 0.5], "pdmu": [0.9, 0.9, 0.91]})
    assert "brings accuracy" in sequence_table(better)
    assert "brings nothing" in markdown({"rows_x": flat}), "the headline says so too"


def test_one_seed_or_other_settings_show_nothing() -> None:
    one = result("x", 10, {"lmu": [0.5], "pdmu": [0.9]})
    assert "nothing is shown" in gate_sentence(one["gain"]["pdmu - lmu"])
    assert "50.00 (1 seed)" in sequence_table(one)
    other = {"of": "pdmu", "over": "lmu", "statement": "pdmu − lmu: trained under different settings, not to be compared"}
    assert "not to be compared" in gate_sentence(other)


def test_the_papers_figure_stands_beside_the_same_test_set_alone() -> None:
    same = result("psmnist", 10_000, {"pdmu": [0.98], "lstm": [0.9]})
    assert paper_figure(same, "pdmu") == 98.22 and paper_figure(same, "lstm") is None
    assert "the paper's, %" in sequence_table(same) and "98.22" in sequence_table(same)
    part = result("gsc", 130, {"pdmu": [0.98]})
    assert paper_figure(part, "pdmu") is None and "the paper's" not in sequence_table(part)


def test_what_is_unfinished_has_no_figure() -> None:
    state = {"2": {"epoch": 3, "epochs": 5, "validation_curve": [[3, 0.77]]}}
    text = sequence_table(result("x", 10, {"pdmu": [0.9], "gru": []}, gru=state))
    assert "Unfinished, so without a test figure: gru, seed 2 at epoch 3 of 5." in text
    assert "| gru" not in text and "77" not in text


def test_every_kind_of_table() -> None:
    speed_row: dict[str, Any] = {
        "T": 784,
        "d": 32,
        "H": 32,
        "batch": 32,
        "ms": {"lstm": 8.0, "pdmu": 2.0},
        "added_mib": {"lstm": 5.0, "pdmu": None},
    }
    ratios = {"times_lstm": {"lstm": 1.0, "pdmu": 4.0}, "times_lstm_cpu": {"lstm": 1.0, "pdmu": 3.0}}
    speed: dict[str, Any] = {
        "benchmark": "speed",
        "threads": 1,
        "device": "cpu",
        "taps": 8,
        "sequential_steps": 784,
        "rows": [speed_row | ratios],
    }
    operators = [{"name": "aten::mm", "share": 0.61, "calls": 5}, {"name": "aten::sum", "share": 0.01, "calls": 1}]
    layer = {"ms": 8.2, "multiply_adds": {"matrices": 4096}, "operators": operators}
    profiled = {"T": 784, "H": 32, "batch": 32, "models": {"lstm": layer}}
    profile: dict[str, Any] = {"benchmark": "speed_profile", "threads": 1, "rows": [profiled]}
    lif_row = {
        "what": "lif-zero",
        "T": 100,
        "H": 64,
        "batch": 2,
        "snntorch_ms": 9.0,
        "fastest": "fused",
        "added_memory_mib": {"fused": 1.0},
    }
    lif: dict[str, Any] = {"benchmark": "lif", "rows": [lif_row | {"times_faster_than_snntorch": {"fused": 50.0}}]}
    curve = {"total": {"mean": 20.0, "sd": None, "n": 1}}
    setting = {"delays": 300, "seeds": [1], "order": 32, "theta": 100.0, "taps": 8, "dilation": 16, "train_steps": 0}
    family = {"pdmu": {"hidden": 64, "parameters": 2387, "untrained": curve}}
    capacity: dict[str, Any] = {"benchmark": "memory_capacity", "settings": setting, "families": family}
    counts: dict[str, Any] = {
        "parameters": 10,
        "macs": 20,
        "synaptic_operations": 1.5,
        "delay_reads": 3,
        "delay_writes": 1,
        "network": "untrained",
    }
    entry = counts | {"spike_rates": {"outputs": [0.25]}, "energy_nj_estimate": 1.234}
    energy = {"mac_pj": 4.6, "ac_pj": 0.9}
    operations: dict[str, Any] = {
        "benchmark": "operations",
        "task": "x",
        "input": "white noise",
        "energy": energy,
        "families": {"sdmu": entry},
    }
    kinds = {"a": speed, "b": lif, "c": capacity, "d": operations, "e": profile}
    every: dict[str, Any] = {k: v | {"machine": MACHINE} for k, v in kinds.items()}
    text = details(every)
    assert "| 784 / 32 / 32 | 1.00 · 5 MiB | 3.00 |" in text, "on one thread, processor time"
    assert "| 784 / 32 / 32 | lstm | 8 | matrices 4,096 | `mm` 61% |" in text
    assert "| zero / 100 / 64 / 2 | 9.0 ms | 50.0 · 1 MiB |" in text
    assert "| pdmu | 64 | 2,387 | 20.0 |" in text
    assert "| sdmu | 10 | 20 | 2 | 3 / 1 | 0.250 | 1.23 | untrained |" in text and "**estimate**" in text
    assert "PDMU in training, × `nn.LSTM` of equal width | 3.0 |" in markdown(every)


def test_a_readme_without_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here\n")
    with pytest.raises(SystemExit, match="results:begin"):
        written(tmp_path / "README.md", "x")
