"""Run the benchmarks and keep their JSON in benchmarks/results:  python -m benchmarks.run_all [--models]

The agent's take minutes; ``--models`` adds those of the family of models that need no data, which take an hour on two cores.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks.common import RESULTS

AGENT = ("analyze_speed", "agent_memory", "latency")
MODELS = ("speed", "lif", "memory_capacity")


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the benchmarks and keep their JSON in benchmarks/results.")
    parser.add_argument("--models", action="store_true", help="training speed, spiking neurons and memory capacity too")
    options = parser.parse_args()
    for name in (*AGENT, *(MODELS if options.models else ())):
        benchmark = importlib.import_module(f"benchmarks.{name}")
        sys.argv = [name, "--out", str(RESULTS / f"{name}.json")]
        if benchmark.main():
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
