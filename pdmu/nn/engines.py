"""Which of several equal forms of a computation to run: the fastest in a measured table, at the measured sizes nearest to those asked for.

The table is ``engines.json`` beside this module; ``python -m benchmarks.engines --write`` measures it again on the machine at hand.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("engines.json")


@functools.cache
def _rows(table: Path) -> list[dict[str, Any]]:
    return json.loads(table.read_text())["rows"]


@functools.lru_cache(maxsize=1024)
def fastest(what: str, device: str, among: tuple[str, ...], sizes: tuple[tuple[str, int], ...], table: Path = TABLE) -> str:
    """Return the name of the form to run.

    Parameters
    ----------
    what : str
        The computation, as the table names it.
    device : str
        ``cpu`` or ``cuda``; where nothing was measured on it, the first of `among` is returned.
    among : tuple of str
        The forms that can run here, the one to fall back on first.
    sizes : tuple of (str, int)
        Positive sizes; nearness is the sum of their ratios' logarithms.
    """
    measured = [row for row in _rows(table) if row["what"] == what and row["device"] == device and set(among) & set(row["ms"])]
    if not measured:
        return among[0]
    near = min(measured, key=lambda row: sum(abs(math.log2(value / row[name])) for name, value in sizes))
    return min((name for name in among if name in near["ms"]), key=near["ms"].__getitem__)
