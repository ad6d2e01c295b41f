"""The line itself: found, opened alone, lost; every failure one clear line."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.serial_port import Address, LineLost, SerialPort, _open_advice, parse_address, resolve
from pdmu.errors import UserError
from tests.edge_agent.conftest import REPO

pytest.importorskip("serial", reason="pyserial is not installed: the boards' serial line is NOT TESTED HERE")


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """A pseudo-terminal: its far end's descriptor, and the path of the end to open."""
    far, near = pty.openpty()
    tty.setraw(near)
    yield far, os.ttyname(near)
    for fd in (far, near):
        try:
            os.close(fd)
        except OSError as error:
            assert error.errno == errno.EBADF  # the test has closed it


@pytest.mark.parametrize(
    ("text", "address"),
    [("auto", Address("auto", "auto")), ("id:E66 14", Address("id", "E66 14")), ("port:/dev/x", Address("port", "/dev/x")),
     ("/dev/x", Address("port", "/dev/x")), ("socket://[::1]:7000", Address("socket", "socket://[::1]:7000"))],
)  # fmt: skip
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "usb", "id:", "socket://host", "socket://:70", "socket://h:70000", "tty:/dev/x"])
def test_what_is_no_address_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="names no serial line: give auto, id:"):
        parse_address(text)


def test_bytes_both_ways_and_silence(line: tuple[int, str]) -> None:
    far, path = line
    port = SerialPort(path, 115200)
    assert port.read(0.01) == b""
    os.write(far, bytes(range(256)))
    assert port.read(1) == bytes(range(256))
    port.write(bytes(range(256)))
    assert os.read(far, 1000) == bytes(range(256))
    port.close()


def test_a_line_is_opened_once(line: tuple[int, str]) -> None:
    port = SerialPort(line[1], 115200)
    with pytest.raises(UserError, match=r"another program uses this line .*; stop it first"):
        SerialPort(line[1], 115200)
    port.close()
    SerialPort(line[1], 115200).close()


def test_unplugging_is_a_lost_line_and_closing_it_no_error(line: tuple[int, str]) -> None:
    far, path = line
    port = SerialPort(path, 115200)
    os.close(far)
    with pytest.raises(LineLost, match="is the board still plugged in"):
        port.read(1)
    with pytest.raises(LineLost, match="is the board still plugged in"):
        port.write(b"x")
    port.close()


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where, message in (
        (str(tmp_path / "none"), "no such device; is the board plugged in"),
        (str(tmp_path / "file"), "is it a serial device"),
        ("socket://127.0.0.1:1", "does anything listen there"),
    ):
        with pytest.raises(UserError, match=message):
            SerialPort(where, 115200)
    assert "'dialout' (sudo usermod" in _open_advice("/dev/ttyUSB0", 115200, PermissionError(errno.EACCES, "Permission denied"))


def test_a_serial_number_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no board found for id:none-has-this: .*; plug it in, or name it with --port auto, id:"):
        resolve(parse_address("id:none-has-this"))


def test_without_pyserial_the_extra_is_named() -> None:
    code = "import sys; sys.modules['serial'] = None; from edge_agent.console.cli import main; sys.exit(main(['hello', '--port=/dev/x']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=False)
    assert (done.returncode, done.stderr) == (1, "error: a board's serial line needs the pyserial package; pip install 'pdmu[console]'\n")
