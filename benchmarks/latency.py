"""From the end of a sound in the stream to the broker's PUBACK, less the detector's own delay:  python -m benchmarks.latency

The demonstration recording goes into `pdmu-agent run` on its standard input as a microphone would deliver it, 10 ms at a time; so this
process knows when every sample came into being. A forwarder between the agent and a real mosquitto notes when each detection's PUBACK
passed. An event's last sample is `t_start_s + dur_s`; the detector knows of the end one model step later, which is its own delay. What
remains, `beyond_detector_ms`, is the agent's: buffering, computing, storing, publishing, and the broker's answer.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.common import AGENT, STREAM, last_core, mosquitto, one_core, parser, report, with_runtimes
from benchmarks.mqtt_tap import MqttTap
from pdmu.bundle import read_bundle

CHUNK_S = 0.010
SETTLE_S = 3.0  # for the agent to start and connect before the first sample


def feed(pcm: NDArray[np.int16], rate_hz: int, pipe: IO[bytes]) -> float:
    """Write PCM at the pace of a microphone; return the monotonic time of sample 0. A chunk is written when its last sample exists."""
    chunk = round(CHUNK_S * rate_hz)
    began = time.monotonic()
    for start in range(0, len(pcm), chunk):
        block = pcm[start : start + chunk]
        time.sleep(max(0.0, began + (start + len(block)) / rate_hz - time.monotonic()))
        pipe.write(block.tobytes())
        pipe.flush()
    return began


def main() -> int:
    arguments = parser(__doc__.partition("\n")[0])
    arguments.add_argument("--backend", default="auto", choices=("auto", "tflite", "numpy", "c"))
    options = arguments.parse_args()
    bundle = read_bundle(options.bundle)
    rate_hz = bundle.frontend.sample_rate_hz
    step_s = bundle.model.frames_per_step * bundle.frontend.hop_samples / rate_hz
    pcm, file_rate_hz = soundfile.read(STREAM, dtype="int16")
    if file_rate_hz != rate_hz:
        raise SystemExit(f"error: {STREAM} has {file_rate_hz} Hz and the model {rate_hz}; resampling would hide its own delay here")
    with mosquitto() as port, MqttTap(port) as tap, tempfile.TemporaryDirectory() as folder:
        copy = with_runtimes(options.bundle, Path(folder))
        config = Path(folder) / "agent.toml"
        config.write_text(
            f'[agent]\nnode = "bench"\nstate_dir = "{folder}"\n[mqtt]\nhost = "127.0.0.1"\nport = {tap.port}\n'
            f'[[source]]\nname = "stdin"\ntype = "stdin"\nrate_hz = {rate_hz}\n'
            f'[[model]]\nbundle = "{copy}"\nbackend = "{options.backend}"\n'
        )
        with (Path(folder) / "log").open("w+") as log:
            command = [*AGENT, "run", "--config", str(config)]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT}
            agent: subprocess.Popen[bytes] = subprocess.Popen(command, **pipes, **one_core(last_core()))
            assert agent.stdin is not None
            time.sleep(SETTLE_S)
            began = 0.0
            with contextlib.suppress(BrokenPipeError):  # an agent that has ended: its status and log tell why, below
                began = feed(pcm, rate_hz, agent.stdin)
                agent.stdin.close()
            if agent.wait() != 0:
                log.seek(0)
                raise SystemExit(f"error: pdmu-agent ended with status {agent.returncode}: {log.read().strip()}")
    # Left out: an event that the end of the stream ended, and one cut at its longest, which is known a step earlier than the others.
    longest_s = (bundle.detector.max_steps - 0.5) * step_s
    last_s = len(pcm) / rate_hz - step_s
    whole = [a for a in tap.acknowledged if a.payload["t_start_s"] + a.payload["dur_s"] < last_s and a.payload["dur_s"] < longest_s]
    if not whole:
        raise SystemExit("error: the model detected nothing in the recording, so there is no delay to measure")
    late_ms = [1000 * (a.monotonic_s - began - a.payload["t_start_s"] - a.payload["dur_s"] - step_s) for a in whole]
    spread = {"median": statistics.median(late_ms), "smallest": min(late_ms), "largest": max(late_ms)}
    result = {
        "bundle": options.bundle.name,
        "backend": whole[0].payload["model"]["runtime"],
        "events": len(whole),
        "detector_delay_ms": round(1000 * step_s, 1),
        "beyond_detector_ms": {name: round(value, 1) for name, value in spread.items()},
    }
    report("latency", result, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
