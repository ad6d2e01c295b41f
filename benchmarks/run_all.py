"""Run every benchmark and keep its JSON in benchmarks/results:  python -m benchmarks.run_all"""

from __future__ import annotations

import sys

from benchmarks import agent_memory, analyze_speed, latency
from benchmarks.common import RESULTS


def main() -> int:
    for name, benchmark in (("analyze_speed", analyze_speed), ("agent_memory", agent_memory), ("latency", latency)):
        sys.argv = [name, "--out", str(RESULTS / f"{name}.json")]
        benchmark.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
