"""Configuration: file, environment over it, flags over both; every mistake named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.config import MqttConfig, effective, read_config, read_password
from pdmu.errors import UserError

TEXT = """
[agent]
node = "marsh-01"
[mqtt]
host = "broker.local"
username = "marsh"
[[source]]
name = "mic0"
type = "file"
path = "a.wav"
[[model]]
bundle = "b.pdmu"
thresholds = { cough = 0.7 }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(TEXT)
    return tmp_path / "agent.toml"


def test_environment_over_file_and_flags_over_both(path: Path) -> None:
    env = {"PDMU_MQTT__HOST": "env.local", "PDMU_MQTT__PORT": "1999", "PDMU_SOURCE__0__PATH": "b.wav",
           "PDMU_MODEL__0__THRESHOLDS__COUGH": "0.8", "PDMU_SOURCE__1__NAME": "mic1",
           "PDMU_MQTT__TLS": "true", "PDMU_DATA": "/not/ours"}  # fmt: skip
    config = read_config(path, env, ["mqtt.host=flag.local", "mqtt.username=1234", "source.0.realtime=true"])
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.tls, config.mqtt.username) == ("flag.local", 1999, True, "1234")
    assert (config.source[0].path, config.source[0].realtime, config.source[1].name) == ("b.wav", True, "mic1")
    assert config.model[0].thresholds == {"cough": 0.8}
    assert config.agent.node == "marsh-01"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mqtt]\nhots = 'a'", r"unknown key 'hots'; did you mean 'host'\?"),
        ("[mqqt]\nhost = 'a'", r"unknown key 'mqqt'; did you mean 'mqtt'\?"),
        ("[[source]]\nnam = 'a'", r"source\[0\].*unknown key 'nam'; did you mean 'name'\?"),
        ("[mqtt]\nport = 'x'", "port: expected int"),
        ("[mqtt]\nport = 70000", "port 1 … 65535"),
        ("[agent]\nnode = 'a/b'", "node 'a/b' must be"),
        ("[[source]]\ntype = 'file'", "needs a path"),
        ("[[source]]\n[[source]]", "source names must differ"),
        ("[mqtt", "not valid TOML"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_config(tmp_path / "agent.toml", {})
    assert str(tmp_path / "agent.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mqtt.hots=a", r"did you mean 'host'\?"),
        ("mqtt", "expected section.key=value"),
        ("source.3.name=a", "'3' is not the number of an entry"),
        ("mqtt.port=x", "expected int, found 'x'"),
        ("mqtt.tls=perhaps", "expected bool"),
        ("source.0=a", "is a table|expected a table"),
        ("mqtt.host.x=a", "nothing lies below 'host'"),
        ("agent.drain_s=nan", "nan is no setting"),
        ("mqtt.retry_max_s=nan", "nan is no setting"),
        ("mqtt.replay_after_s=-1", "replay_after_s >= 0"),
    ],
)
def test_mistakes_in_flags(path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(path, {}, [override])


def test_mistake_in_the_environment_names_the_variable(path: Path) -> None:
    with pytest.raises(UserError, match=r"PDMU_MQTT__HOTS: there is no 'hots'; did you mean 'host'\?"):
        read_config(path, {"PDMU_MQTT__HOTS": "a"})


def test_two_sources_cannot_share_standard_input(path: Path) -> None:
    with pytest.raises(UserError, match="sources a, b are all of type stdin"):
        read_config(path, {"PDMU_SOURCE__0__NAME": "a", "PDMU_SOURCE__0__TYPE": "stdin"}, ["source.1.name=b", "source.1.type=stdin"])


def test_missing_file() -> None:
    with pytest.raises(UserError, match="/none/agent.toml: cannot read the configuration"):
        read_config(Path("/none/agent.toml"), {})


def test_effective_configuration_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    config = read_config(path, {})
    shown = tmp_path / "shown.toml"
    shown.write_text(effective(config))
    assert read_config(shown, {}) == config


def test_password_is_read_from_its_file_and_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "pw"
    secret.write_text("hunter2\n")
    assert read_password(MqttConfig(password_file=str(secret))) == "hunter2"
    assert "hunter2" not in effective(read_config(None, {}, [f"mqtt.password_file={secret}"]))
    secret.write_text("")
    with pytest.raises(UserError, match="first line is empty"):
        read_password(MqttConfig(password_file=str(secret)))


def test_boards_are_sources_with_a_port(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[[source]]\nname = "b0"\ntype = "serial"\nport = "id:E66"\nbaud = 921600\n[[source]]\nname = "b1"\ntype = "serial"\n')
    config = read_config(path, {"PDMU_SOURCE__1__PORT": "socket://pi.local:7000"})
    assert [(s.port, s.baud) for s in config.source] == [("id:E66", 921600), ("socket://pi.local:7000", None)]
    assert 'port = "id:E66"' in effective(config)
    for text, message in (
        ('port = "usb0"', "'usb0' names no serial line: give auto, id:"),
        ("baud = 0", "leave it out, or give the board's"),
        ('[[source]]\nname = "b1"\ntype = "serial"', "needs a port of its own: auto, auto"),
    ):
        path.write_text(f'[[source]]\nname = "b0"\ntype = "serial"\n{text}\n')
        with pytest.raises(UserError, match=message):
            read_config(path, {})
