"""Microphones through ALSA's own `arecord`: no Python audio library, and a device that hangs is a child process that can be killed."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from edge_agent.audio import POLL_S, READ_BYTES, s16_frames
from edge_agent.ports import AudioBlock
from edge_agent.resample import Conditioner, Quality, check_format
from pdmu.errors import UserError

SILENT_S = 5.0  # a recorder that delivers nothing for so long hangs (an unplugged USB microphone does that)
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # waits before the recorder is started again
INSTALL = "install ALSA's utilities (Debian: apt install alsa-utils)"


class AlsaSource:
    """A microphone, kept alive: when the recorder ends or falls silent it is started again, and `trouble` says why meanwhile.

    Parameters
    ----------
    device : str
        ALSA name; ``plughw:CARD=Device`` survives renumbering of cards, as ``hw:1`` does not.
    block_s : float
        Audio in a block: the model step's length or less keeps latency low.

    Raises
    ------
    UserError
        `arecord` is not installed.
    """

    def __init__(self, device: str, rate_hz: int, channels: int, rate_out_hz: int, *, name: str = "mic0",
                 stop: threading.Event | None = None, quality: Quality = "HQ", block_s: float = 0.032,
                 arecord: str = "arecord") -> None:  # fmt: skip
        check_format(rate_hz, channels, name)
        program = shutil.which(arecord)
        if program is None:
            raise UserError(f"{name}: the program '{arecord}' is not installed, and microphones are read through it; {INSTALL}")
        self.name, self.live, self.device = name, True, device
        self.trouble: str | None = None
        self._stop = stop or threading.Event()
        self._rate_hz, self._channels = rate_hz, channels
        period_us = max(4000, round(block_s * 5e5))
        self._command = [program, "-q", "-D", device, "-t", "raw", "-f", "S16_LE", "-r", str(rate_hz), "-c", str(channels),
                         f"--period-time={period_us}", f"--buffer-time={20 * period_us}"]  # fmt: skip
        self._block_bytes = max(1, round(block_s * rate_hz)) * 2 * channels
        self._conditioner = Conditioner(rate_hz, rate_out_hz, quality)
        self._child: subprocess.Popen[bytes] | None = None

    def blocks(self) -> Iterator[AudioBlock]:
        """Yield audio until stopped; the first block after an interruption carries the gap."""
        failures = gaps = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                for block in self._record():
                    yield block._replace(n_gaps=block.n_gaps + gaps)
                    gaps = 0
                    self.trouble = None
            finally:
                self.close()
            if self._stop.is_set():
                break
            failures = failures + 1 if time.monotonic() - began < 60 else 0
            gaps += 1
            self._stop.wait(RETRY_S[min(failures, len(RETRY_S) - 1)])
        yield self._conditioner.flush()

    def once(self, wait_s: float = SILENT_S) -> AudioBlock:
        """Return the first block the device gives, for a check.

        Raises
        ------
        UserError
            With what `arecord` said.
        """
        try:
            for block in self._record(wait_s):
                return block
        finally:
            self.close()
        raise UserError(f"{self.name}: no audio from ALSA device '{self.device}': {self.trouble}; pdmu-agent devices lists what there is")

    def _record(self, silent_s: float = SILENT_S) -> Iterator[AudioBlock]:
        """Run one recorder until it ends, hangs or the source is stopped; `trouble` then says what happened."""
        child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._child = child
        assert child.stdout is not None and child.stderr is not None
        out, err = child.stdout.fileno(), child.stderr.fileno()
        rest, said, heard = b"", b"", time.monotonic()
        watched = [out, err]
        while not self._stop.is_set():
            ready = select.select(watched, [], [], POLL_S)[0]
            overruns = 0
            if err in ready:
                words = os.read(err, 4096)
                if not words:
                    watched.remove(err)
                overruns = words.count(b"overrun")
                said = (said + words)[-500:]
            if out in ready:
                got = os.read(out, min(READ_BYTES, self._block_bytes))
                if not got:
                    child.kill()  # one that lingers without its output must not be waited for
                    child.wait()
                    if err in watched and select.select([err], [], [], 0)[0]:
                        said += os.read(err, 4096)
                    self.trouble = _last_line(said) or "arecord ended without a word"
                    return
                heard = time.monotonic()
                samples, rest = s16_frames(rest + got, self._channels)
                yield self._conditioner.push(samples, n_gaps=overruns)
            elif time.monotonic() - heard > silent_s:
                self.trouble = _last_line(said) or f"no audio for {silent_s:.0f} s"
                return

    def close(self) -> None:
        """End the recorder."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


class Device(NamedTuple):
    """A capture device as ALSA lists it."""

    name: str
    description: str


def list_devices(arecord: str = "arecord") -> list[Device]:
    """Return the capture devices `arecord -l` names, by the card's name, which does not change when cards are renumbered.

    Raises
    ------
    UserError
        `arecord` is missing.
    """
    program = shutil.which(arecord)
    if program is None:
        raise UserError(f"the program '{arecord}' is not installed; {INSTALL}")
    done = subprocess.run([program, "-l"], capture_output=True, text=True, timeout=20, check=False, env={**os.environ, "LC_ALL": "C"})
    pattern = re.compile(r"^card \d+: (?P<card>[^ ]+) \[(?P<long>.*?)\], device (?P<dev>\d+): (?P<what>.*)$", re.MULTILINE)
    return [Device(f"plughw:CARD={m['card']},DEV={m['dev']}", f"{m['long']}, {m['what']}") for m in pattern.finditer(done.stdout)]
