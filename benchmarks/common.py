"""What every benchmark needs: the machine's description, a pinned child process, a broker, and one way to report."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from demo.broker import free_port

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
STREAM = ROOT / "demo" / "stream.flac"
AGENT = (sys.executable, "-m", "edge_agent.cli")
DISTRIBUTIONS = ("pdmu", "numpy", "torch", "snntorch", "numba", "ai-edge-litert", "tflite-runtime", "paho-mqtt", "soundfile", "soxr")
BROKER_START_S = 5.0


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, system, versions, commit."""
    versions = {}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit.stdout.strip() or None,
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def processor() -> str:
    """Return the processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def one_core(core: int, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the `subprocess` arguments that keep a child on one core, without threads of numerical libraries."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {
        "env": os.environ | threads | dict(environment or {}),
        "preexec_fn": lambda: os.sched_setaffinity(0, {core}),
        "cwd": ROOT,
    }


def last_core() -> int:
    """Return the highest core this process may use (interrupts mostly land on the lowest)."""
    return max(os.sched_getaffinity(0))


def find_mosquitto() -> str | None:
    """Return the path of the installed broker; Debian keeps it in sbin, which is not on an ordinary user's PATH."""
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


@contextlib.contextmanager
def mosquitto() -> Iterator[int]:
    """Run a real mosquitto on a free loopback port while the context lasts, and give the port."""
    program = find_mosquitto()
    if program is None:
        raise SystemExit("error: mosquitto is not installed; this benchmark needs a real broker: apt-get install mosquitto")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n")
        broker = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port)
            yield port
        finally:
            broker.terminate()
            broker.wait()


def wait_for_port(port: int) -> None:
    """Return when something listens on the loopback port."""
    deadline = time.monotonic() + BROKER_START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"error: nothing listens on port {port} after {BROKER_START_S:g} s")
        time.sleep(0.02)


def with_runtimes(bundle: Path, folder: Path) -> Path:
    """Copy a bundle into `folder`, export its TFLite graphs and its C library beside it, and return the copy's path."""
    if not bundle.is_file():
        raise SystemExit(f"error: {bundle}: no such bundle; name one with --bundle")
    copy = Path(shutil.copy(bundle, folder))
    for target in (["tflite"], ["c", "--build"]):
        subprocess.run([sys.executable, "-m", "deploy.export", copy, "--target", *target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return copy


def parser(description: str) -> argparse.ArgumentParser:
    """Return the command line that the benchmarks share."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--bundle", type=Path, default=ROOT / "models" / "cough.pdmu", help="model bundle (default: %(default)s)")
    result.add_argument("--out", type=Path, help="write the JSON to this file too")
    return result


def report(name: str, result: Mapping[str, Any], out: Path | None) -> None:
    """Print one benchmark's result with the machine's description, and keep it if asked."""
    text = json.dumps({"benchmark": name, **result, "machine": machine()}, indent=2, ensure_ascii=False)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part")
        part.write_text(text + "\n")
        os.replace(part, out)


def run_agent_command(arguments: Sequence[str | Path], core: int) -> subprocess.CompletedProcess[str]:
    """Run `pdmu-agent` on one core to its end; a failure ends the benchmark with the agent's own words."""
    done = subprocess.run([*AGENT, *arguments], capture_output=True, text=True, **one_core(core))
    if done.returncode != 0:
        raise SystemExit(f"error: pdmu-agent {arguments[0]} ended with status {done.returncode}: {done.stderr.strip()}")
    return done


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, its first column to the left and the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]) + "\n"
