"""Resident memory of a running agent with TFLite:  python -m benchmarks.agent_memory

`pdmu-agent run` hears the demonstration recording in real time and delivers to a real mosquitto; its resident memory is read from
/proc twice a second after a warm-up. `peak_mb` is the kernel's high-water mark since the process began.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import AGENT, STREAM, last_core, mosquitto, one_core, parser, report, with_runtimes

WARM_UP_S = 5.0
PERIOD_S = 0.5


def memory_mb(pid: int, field: str) -> float:
    """Return one memory figure of a process (VmRSS, VmHWM), MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"error: process {pid} has ended")


def main() -> int:
    arguments = parser(__doc__.partition("\n")[0])
    arguments.add_argument("--backend", default="tflite", choices=("tflite", "numpy", "c"))
    arguments.add_argument("--seconds", type=float, default=30.0, help="how long to watch (default: %(default)s)")
    options = arguments.parse_args()
    with mosquitto() as port, tempfile.TemporaryDirectory() as folder:
        bundle = with_runtimes(options.bundle, Path(folder))
        config = Path(folder) / "agent.toml"
        config.write_text(
            f'[agent]\nnode = "bench"\nstate_dir = "{folder}"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
            f'[[source]]\nname = "recording"\ntype = "file"\nrealtime = true\npath = "{STREAM}"\n'
            f'[[model]]\nbundle = "{bundle}"\nbackend = "{options.backend}"\n'
        )
        with (Path(folder) / "log").open("w+") as log:
            agent = subprocess.Popen([*AGENT, "run", "--config", config], stdout=log, stderr=subprocess.STDOUT, **one_core(last_core()))
            try:
                time.sleep(WARM_UP_S)
                resident, deadline = [], time.monotonic() + options.seconds
                while time.monotonic() < deadline:
                    if agent.poll() is not None:
                        log.seek(0)
                        raise SystemExit(f"error: pdmu-agent ended with status {agent.returncode}: {log.read().strip()}")
                    resident.append(memory_mb(agent.pid, "VmRSS"))
                    time.sleep(PERIOD_S)
                peak = memory_mb(agent.pid, "VmHWM")
            finally:
                agent.terminate()
                agent.wait()
    result = {"median_mb": round(statistics.median(resident), 1), "largest_mb": round(max(resident), 1), "peak_mb": round(peak, 1)}
    report("agent_memory", {"bundle": options.bundle.name, "backend": options.backend, "seconds": options.seconds, **result}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
