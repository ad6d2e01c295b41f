"""How many times faster than real time `pdmu-agent analyze` is, per backend, on one core:  python -m benchmarks.analyze_speed

The whole command is timed, from starting the interpreter to its exit, over a WAV file of the demonstration recording repeated; the
same command over a one-second file gives the start-up part. `x_real_time` is the file's length over the whole command's time (what a user
waits for), `x_real_time_running` leaves the start-up out. Medians.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.common import STREAM, last_core, parser, report, run_agent_command, with_runtimes

BACKENDS = ("c", "tflite", "numpy")


def wall_s(bundle: Path, backend: str, file: Path, core: int, repeats: int) -> float:
    """Return the median time of one `analyze` command, seconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run_agent_command(["analyze", file, "--bundle", bundle, "--backend", backend, "--json"], core)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> int:
    arguments = parser(__doc__.partition("\n")[0])
    arguments.add_argument("--minutes", type=float, default=30.0, help="length of the recording (default: %(default)s)")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--backend", action="append", choices=BACKENDS, help="may be repeated; default: all")
    options = arguments.parse_args()
    core, results = last_core(), {}
    samples, rate_hz = soundfile.read(STREAM, dtype="int16")
    with tempfile.TemporaryDirectory() as folder:
        long, short = Path(folder) / "long.wav", Path(folder) / "short.wav"
        length_s = options.minutes * 60
        soundfile.write(long, np.resize(samples, round(length_s * rate_hz)), rate_hz)
        soundfile.write(short, samples[:rate_hz], rate_hz)
        bundle = with_runtimes(options.bundle, Path(folder))
        for backend in options.backend or BACKENDS:
            start_s = wall_s(bundle, backend, short, core, options.repeats)
            whole_s = wall_s(bundle, backend, long, core, options.repeats)
            results[backend] = {
                "x_real_time": round(length_s / whole_s, 1),
                "x_real_time_running": round((length_s - 1) / (whole_s - start_s), 1),
                "whole_s": round(whole_s, 3),
                "start_up_s": round(start_s, 3),
            }
    setting = {"bundle": options.bundle.name, "audio_s": length_s, "repeats": options.repeats}
    report("analyze_speed", {**setting, "results": results}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
