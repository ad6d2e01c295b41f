"""`pdmu-agent bench` counts what it says, and the command prints it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from edge_agent.bench import LEAST_CALLS, bench
from edge_agent.channel import load_listener
from edge_agent.cli import main
from tests.helpers import tiny_bundle


def test_figures_follow_the_clock(tmp_path: Path) -> None:
    """With a clock that moves one millisecond a look, every call takes one millisecond."""
    tiny_bundle(tmp_path / "m.pdmu")
    ticks = itertools.count()
    result = bench(load_listener(tmp_path / "m.pdmu", "numpy"), 0.03, lambda: next(ticks) / 1000)
    assert result["live"]["median_ms"] == pytest.approx(1.0) and result["live"]["largest_ms"] == pytest.approx(1.0)
    assert result["live"]["core"] == pytest.approx(1 / 32)
    assert result["file"]["x_real_time"] == pytest.approx(5000.0)
    assert next(ticks) >= 4 * LEAST_CALLS and result["peak_memory_mb"] > 5


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bundle(tmp_path / "m.pdmu")
    arguments = ["bench", "--bundle", str(tmp_path / "m.pdmu"), "--backend", "numpy", "--seconds", "0.05"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "numpy"
    assert main(arguments) == 0
    assert "times real time" in capsys.readouterr().out
    assert main([*arguments[:-1], "0"]) == 1
    assert "--seconds 0" in capsys.readouterr().err
