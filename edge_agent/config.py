"""The agent's configuration: TOML, over it the environment (``PDMU_SECTION__KEY``), over both ``--set section.key=value``.

The environment names list entries by number: ``PDMU_SOURCE__0__PATH``. Unknown keys are errors that offer the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import re
import socket
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge_agent.backend import Kind, Precision
from edge_agent.outbox import OutboxConfig
from edge_agent.resample import Quality
from edge_agent.serial_port import parse_address
from pdmu.config import from_dict, to_dict
from pdmu.errors import UserError

DEFAULT_PATH = Path("/etc/pdmu/agent.toml")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # safe in a topic, a client id and a file name


def _check_name(what: str, value: str) -> None:
    if not NAME.fullmatch(value):
        raise ValueError(f"{what} {value!r} must be 1 to 64 letters, digits, '-' or '_' (it becomes part of MQTT topics)")


def default_node() -> str:
    """Return this machine's host name, made fit for a topic."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "node"


@dataclass(frozen=True)
class NodeConfig:
    """``[agent]``: who this is and where it keeps things."""

    node: str = field(default_factory=default_node)
    state_dir: str = "/var/lib/pdmu"
    health_interval_s: float = 60.0
    rejected_per_minute: int = 0  # publish what was suppressed, at most so often; 0: never
    self_test: bool = True  # replay the golden signal at start
    drain_s: float = 10.0  # at the end, how long to wait for acknowledgements

    def __post_init__(self) -> None:
        _check_name("node", self.node)
        if not (self.health_interval_s > 0 and self.rejected_per_minute >= 0 and self.drain_s >= 0):  # so put, NaN fails too
            raise ValueError("need health_interval_s > 0, rejected_per_minute >= 0 and drain_s >= 0")


@dataclass(frozen=True)
class MqttConfig:
    """``[mqtt]``: the broker."""

    host: str = "localhost"
    port: int = 1883
    username: str | None = None
    password_file: str | None = None  # its first line is the password; secrets stand nowhere else
    tls: bool = False
    ca_file: str | None = None  # default: the system's
    client_id: str | None = None  # default: pdmu-<node>
    protocol: Literal["auto", "5", "3.1.1"] = "auto"  # auto: 5, and 3.1.1 with a broker that does not know it
    keepalive_s: int = 30
    inflight: int = 20  # messages published and not yet acknowledged
    ack_timeout_s: float = 30.0  # a broker that takes messages and acknowledges none for so long is left and tried anew
    replay_after_s: float = 30.0  # detections that waited longer go to the replay topic, marked historical
    retry_max_s: float = 60.0  # longest wait between attempts to connect

    def __post_init__(self) -> None:
        if not (0 < self.port < 65536 and self.keepalive_s >= 5 and self.inflight >= 1):
            raise ValueError("need port 1 … 65535, keepalive_s >= 5 and inflight >= 1")
        if not (self.retry_max_s >= 1 and self.ack_timeout_s >= 1 and self.replay_after_s >= 0):
            raise ValueError("need retry_max_s >= 1, ack_timeout_s >= 1 and replay_after_s >= 0")


@dataclass(frozen=True)
class SourceConfig:
    """``[[source]]``: where sound comes from."""

    name: str = "mic0"
    type: Literal["alsa", "file", "stdin", "serial"] = "alsa"  # serial: a board that hears for itself, through pdmu-console bridge
    device: str = "default"  # alsa
    path: str | None = None  # file
    realtime: bool = False  # file: no faster than a microphone would
    rate_hz: int | None = None  # of stdin and alsa (default 16000); for files only where their own is wrong
    channels: int = 1  # of stdin and alsa; several are averaged
    resample_quality: Quality = "HQ"
    port: str = "auto"  # serial: auto, id:<serial number>, port:<path> or socket://<host>:<port>
    baud: int | None = None  # serial; default: the first usual one at which the board answers

    def __post_init__(self) -> None:
        _check_name("source name", self.name)
        parse_address(self.port)
        if self.baud is not None and self.baud <= 0:
            raise ValueError(f"source {self.name!r}: baud is {self.baud}: leave it out, or give the board's, mostly 115200")
        if self.type == "file" and not self.path:
            raise ValueError(f"source {self.name!r} is of type file and needs a path")


@dataclass(frozen=True)
class BundleConfig:
    """``[[model]]``: a bundle that listens to every source."""

    bundle: str
    backend: Kind = "auto"
    precision: Precision = "int16x8"
    library: str | None = None  # the C backend's, where it does not lie beside the bundle
    thresholds: dict[str, float] = field(default_factory=dict)  # label = 0 … 1, instead of the bundle's


@dataclass(frozen=True)
class AgentConfig:
    """The whole configuration."""

    agent: NodeConfig = field(default_factory=NodeConfig)
    mqtt: MqttConfig = field(default_factory=MqttConfig)
    outbox: OutboxConfig = field(default_factory=OutboxConfig)
    source: tuple[SourceConfig, ...] = ()
    model: tuple[BundleConfig, ...] = ()

    def __post_init__(self) -> None:
        names = [s.name for s in self.source]
        if len(set(names)) != len(names):
            raise ValueError(f"source names must differ: {', '.join(names)}")
        from_stdin = [s.name for s in self.source if s.type == "stdin"]
        if len(from_stdin) > 1:
            raise ValueError(f"sources {', '.join(from_stdin)} are all of type stdin: only one can read it")
        lines = [s.port for s in self.source if s.type == "serial"]
        if len(set(lines)) != len(lines):
            raise ValueError(f"each source of type serial needs a port of its own: {', '.join(lines)}")

    @property
    def outbox_path(self) -> Path:
        """Where the outbox lies."""
        return Path(self.outbox.path) if self.outbox.path else Path(self.agent.state_dir) / "outbox.sqlite"

    @property
    def hash(self) -> str:
        """Short hash of the configuration, published with the node's info."""
        return hashlib.sha256(json.dumps(to_dict(self), sort_keys=True).encode()).hexdigest()[:12]


def read_config(path: Path | None, env: Mapping[str, str] | None = None, overrides: Iterable[str] = ()) -> AgentConfig:
    """Read the configuration.

    Parameters
    ----------
    path : Path, optional
        TOML; default `DEFAULT_PATH` where that exists, else the built-in defaults.
    env : mapping, optional
        Default the process's environment.
    overrides : iterable of str
        ``section.key=value``.

    Raises
    ------
    UserError
        Unreadable file, bad TOML, unknown key, wrong type or value; it says where.
    """
    found = path or (DEFAULT_PATH if DEFAULT_PATH.exists() else None)
    data = _read_toml(found) if found else {}
    for name, text in sorted((os.environ if env is None else env).items()):
        if name.startswith("PDMU_") and "__" in name:
            _put(data, name[5:].lower().split("__"), text, f"environment variable {name}")
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or "." not in key:
            raise UserError(f"--set {item}: expected section.key=value, for example --set mqtt.host=broker.local")
        _put(data, key.strip().split("."), text, f"--set {item}")
    return from_dict(AgentConfig, data, str(found) if found else "configuration")


def effective(config: AgentConfig) -> str:
    """Return the configuration as TOML. There are no secrets in it: passwords stand in their own files."""
    lines: list[str] = []
    for section, value in to_dict(config).items():
        tables = value if isinstance(value, list) else [value]
        for table in tables:
            lines.append(f"[[{section}]]" if isinstance(value, list) else f"[{section}]")
            lines += [f"{k} = {_toml(v)}" if v is not None else f"# {k} is not set" for k, v in table.items()]
            lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def read_password(config: MqttConfig) -> str | None:
    """Return the password, or None where none is configured.

    Raises
    ------
    UserError
        The file is configured and cannot be read, or is empty.
    """
    if config.password_file is None:
        return None
    try:
        lines = Path(config.password_file).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{config.password_file}: the MQTT password cannot be read: {error}") from None
    if not lines or not lines[0]:
        raise UserError(f"{config.password_file}: the MQTT password file's first line is empty")
    return lines[0]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


def _put(data: dict[str, Any], keys: list[str], text: str, where: str) -> None:
    """Set one value of nested tables from text, of the type the configuration has there."""
    at: Any = data
    hint: Any = AgentConfig
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(at, list):
            if not key.isdigit() or int(key) > len(at):
                raise UserError(f"{where}: '{key}' is not the number of an entry (there are {len(at)}, counted from 0)")
            if int(key) == len(at):
                at.append({})
            at, hint = at[int(key)], typing.get_args(hint)[0]
            if last:
                raise UserError(f"{where}: is a table; set one of its keys")
            continue
        if dataclasses.is_dataclass(hint):
            hints = typing.get_type_hints(hint)
            if key not in hints:
                near = difflib.get_close_matches(key, hints, n=1)
                raise UserError(
                    f"{where}: there is no '{key}'; " + (f"did you mean '{near[0]}'?" if near else f"known: {', '.join(hints)}")
                )
            hint = hints[key]
        elif typing.get_origin(hint) is dict:
            hint = typing.get_args(hint)[1]
        else:
            raise UserError(f"{where}: nothing lies below '{keys[depth - 1]}'")
        if last:
            at[key] = _value(hint, text, where)
        else:
            at = at.setdefault(key, [] if typing.get_origin(hint) is tuple else {})


def _value(hint: Any, text: str, where: str) -> Any:
    """Read text as a value of the type `hint`; what does not fit is left to `from_dict` to refuse in its words."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if dataclasses.is_dataclass(hint) or typing.get_origin(hint) in (tuple, dict):
        raise UserError(f"{where}: is a table; set one of its keys")
    if hint is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        return hint(text) if hint in (int, float) else text
    except ValueError:
        return text
