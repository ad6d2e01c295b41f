"""A board's serial line: found, opened for this process alone, read and written with every failure as one clear line."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import termios
from typing import Any, NamedTuple

from pdmu.errors import UserError

BAUD_RATES = (115200, 921600, 460800, 230400)  # tried in this order where none is given
READ_BYTES = 1 << 16
WRITE_S = 5.0  # a line that takes nothing for so long is dead
FORMS = "auto, id:<serial number>, port:<path> or socket://<host>:<port>"


class LineLost(UserError):
    """The line broke: unplugged, closed by the other end, or dead."""


class Address(NamedTuple):
    """Where a board is: ``kind`` is auto, id, port or socket."""

    kind: str
    value: str

    def __str__(self) -> str:
        return self.value if self.kind in ("auto", "socket") else f"{self.kind}:{self.value}"


def parse_address(text: str) -> Address:
    """Read ``auto``, ``id:…``, ``port:…``, ``socket://…`` or a path.

    Raises
    ------
    ValueError
        It is none of them.

    Examples
    --------
    >>> parse_address("/dev/ttyACM0")
    Address(kind='port', value='/dev/ttyACM0')
    """
    if text == "auto":
        return Address("auto", text)
    if text.startswith("/"):
        return Address("port", text)
    kind, _, value = text.partition(":")
    if kind == "socket":
        host, colon, port = value.removeprefix("//").rpartition(":")
        if value.startswith("//") and host and colon and port.isdigit() and 0 < int(port) < 65536:
            return Address("socket", text)
    elif kind in ("id", "port") and value:
        return Address(kind, value)
    raise ValueError(f"'{text}' names no serial line: give {FORMS}")


class Candidate(NamedTuple):
    """A serial device that is plugged in."""

    path: str
    serial_number: str
    description: str

    def __str__(self) -> str:
        about = [f"id:{self.serial_number}"] * bool(self.serial_number) + [self.description] * bool(self.description)
        return f"port:{self.path} ({', '.join(about)})"


def _pyserial() -> Any:
    try:
        import serial
    except ImportError:
        raise UserError("a board's serial line needs the pyserial package; pip install 'pdmu[console]'") from None
    return serial


def candidates() -> list[Candidate]:
    """Return the USB serial devices that are plugged in."""
    _pyserial()
    from serial.tools.list_ports import comports

    ports = sorted((p for p in comports() if p.vid is not None), key=lambda p: p.device)
    return [Candidate(p.device, p.serial_number or "", p.product or p.description or "") for p in ports]


def resolve(address: Address) -> str:
    """Return the device path or URL of an address.

    Raises
    ------
    UserError
        Nothing, or more than one thing, answers to it.
    """
    if address.kind in ("port", "socket"):
        return address.value
    present = candidates()
    listed = "; ".join(map(str, present)) or "no USB serial device is plugged in"
    fitting = [c for c in present if address.kind == "auto" or c.serial_number == address.value]
    if not fitting:
        raise UserError(f"no board found for {address}: {listed}; plug it in, or name it with --port {FORMS}")
    if len(fitting) > 1:
        raise UserError(f"{len(fitting)} serial devices fit {address}; name one with --port: {listed}")
    return fitting[0].path


class SerialPort:
    """An open line.

    Neither DTR nor RTS is touched beyond what the system does when it opens a device, and closing leaves DTR up: a board that restarts on
    its edge does so at most at the first opening after it was plugged in.

    Parameters
    ----------
    where : str
        From `resolve`.
    baud : int
        Means nothing to a socket, a pty and most USB boards.

    Raises
    ------
    UserError
        It cannot be opened; the message says why and what to do.
    """

    def __init__(self, where: str, baud: int) -> None:
        serial = _pyserial()
        self.where = where
        try:
            self._port = serial.serial_for_url(where, do_not_open=True, baudrate=baud, timeout=0, write_timeout=WRITE_S)
            if not where.startswith("socket:"):
                self._port.exclusive = True
            self._port.open()
            self._fd = int(self._port.fileno())
        except (OSError, ValueError, termios.error) as error:
            raise UserError(_open_advice(where, baud, error)) from None
        with contextlib.suppress(termios.error):  # a socket has no modem lines
            attributes = termios.tcgetattr(self._fd)
            attributes[2] &= ~termios.HUPCL
            termios.tcsetattr(self._fd, termios.TCSANOW, attributes)

    def read(self, timeout_s: float) -> bytes:
        """Return what has come, or nothing after `timeout_s`; raises `LineLost`."""
        try:
            if not select.select([self._fd], [], [], timeout_s)[0]:
                return b""
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:  # what select saw was gone again
            return b""
        except (OSError, ValueError) as error:
            raise LineLost(f"{self.where}: the line is gone ({error}); is the board still plugged in?") from None
        if not data:
            raise LineLost(f"{self.where}: the other end has closed the line; is the board still plugged in?")
        return data

    def write(self, data: bytes) -> None:
        """Send bytes; raises `LineLost`, also where the board takes none for `WRITE_S`."""
        try:
            self._port.write(data)
        except (OSError, ValueError, termios.error) as error:  # pyserial's SerialException is an OSError
            raise LineLost(f"{self.where}: cannot write ({error}); is the board still plugged in?") from None

    def close(self) -> None:
        """Let go of the line, in whatever state it is."""
        with contextlib.suppress(OSError, termios.error):
            self._port.close()


def _open_advice(where: str, baud: int, error: Exception) -> str:
    code = getattr(error, "errno", None)
    text = str(error)
    if isinstance(error, socket.gaierror) or where.startswith("socket:"):
        return f"{where}: cannot connect ({text}); does anything listen there?"
    if code == errno.EACCES:
        return f"{where}: permission denied; add this user to the group 'dialout' (sudo usermod -aG dialout $USER) and log in again"
    if code in (errno.EBUSY, errno.EAGAIN) or "lock" in text:
        return f"{where}: another program uses this line (a console, a bridge, ModemManager?); stop it first"
    if code in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return f"{where}: no such device; is the board plugged in?"
    if isinstance(error, ValueError) or code == errno.EINVAL:
        return f"{where}: {baud} baud is not possible on this line ({text}); try --baud 115200"
    return f"{where}: cannot be opened ({text}); is it a serial device?"
