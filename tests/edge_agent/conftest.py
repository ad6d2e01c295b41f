"""A real broker, a bundle, and the agent as its own process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.board_program import build_board, export_board
from pdmu.bundle import Bundle
from tests.helpers import tiny_bundle

REPO = Path(__file__).resolve().parents[2]
WAIT_S = 30.0  # far beyond what anything here takes: a wait that reaches it has failed


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the condition's first true value, or fail."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {WAIT_S:.0f} s in vain for {what}")


class Broker:
    """A mosquitto that can be stopped and started again on its port."""

    def __init__(self, folder: Path, extra: str = "allow_anonymous true\n") -> None:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("mosquitto", path=path)
        if program is None:
            pytest.skip("mosquitto is not installed: delivery to a real broker is not tested")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = int(s.getsockname()[1])
        config = folder / "mosquitto.conf"
        user = "user root\n" if os.geteuid() == 0 else ""  # or it gives up the rights to read its files here
        config.write_text(f"{user}listener {self.port} 127.0.0.1\npersistence false\n{extra}")
        self._command = [program, "-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "mosquitto to listen")
        return self

    def _answers(self) -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Subscriber:
    """Collects everything a broker passes on under ``pdmu/#``, as (topic, payload, retained)."""

    def __init__(self, port: int, **login: str) -> None:
        import paho.mqtt.client as paho

        self.messages: list[tuple[str, str, bool]] = []
        self._ready = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if login:
            self._client.username_pw_set(**login)
        self._client.on_message = lambda c, u, m: self.messages.append((m.topic, m.payload.decode(), m.retain))
        self._client.on_connect = lambda c, *_: c.subscribe("pdmu/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(WAIT_S)

    def of(self, ending: str) -> list[dict[str, Any]]:
        """Payloads of the topics that end so."""
        return [json.loads(payload) for topic, payload, _ in list(self.messages) if topic.endswith(ending)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    b = Broker(tmp_path).start()
    yield b
    b.stop()


@pytest.fixture
def subscriber(broker: Broker) -> Iterator[Subscriber]:
    s = Subscriber(broker.port)
    yield s
    s.close()


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny.pdmu"
    tiny_bundle(path)
    return path


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    from pdmu.bundle import read_bundle

    return read_bundle(bundle_path)


def agent_toml(folder: Path, port: int, bundle: Path, source: str, extra: str = "", mqtt: str = "") -> Path:
    """Write a configuration and return its path; `source` is the body of ``[[source]]``."""
    path = folder / "agent.toml"
    path.write_text(
        f'[agent]\nnode = "t1"\nstate_dir = "{folder}/state"\n{extra}\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nretry_max_s = 1.0\n{mqtt}\n'
        f'[[source]]\nname = "rec"\n{source}\n[[model]]\nbundle = "{bundle}"\nbackend = "numpy"\n'
    )
    return path


def agent_process(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start `pdmu-agent` as a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "edge_agent.cli", *map(str, arguments)]
    return subprocess.Popen(command, text=True, env=env, **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options))


@pytest.fixture(scope="session")
def board_sources(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle's C sources, the boards' with them, or skip."""
    pytest.importorskip("serial", reason="pyserial is not installed: the console is NOT TESTED HERE")
    for tool in ("make", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the console against a board is NOT TESTED HERE")
    return export_board(bundle_path, tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="session")
def board_program(board_sources: Path) -> Path:
    """The boards' own code as a program of this machine."""
    return build_board(board_sources)


def console_process(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start `pdmu-console` as a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "edge_agent.console.cli", *map(str, arguments)]
    return subprocess.Popen(command, text=True, env=env, **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options))
