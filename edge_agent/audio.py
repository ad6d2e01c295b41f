"""Sources without a device: sound files and raw PCM on a file descriptor."""

from __future__ import annotations

import os
import select
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.ports import AudioBlock
from edge_agent.resample import Conditioner, Quality, check_format
from pdmu.errors import UserError

READ_BYTES = 1 << 16
SALVAGE_FRAMES = 256  # the pieces in which what stands before damage is read
POLL_S = 0.2  # how soon a waiting source notices that it should stop
STREAMED_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)  # data sizes that writers to a pipe leave in a WAV header


class FileSource:
    """A WAV, FLAC or other file that libsndfile reads, of any rate and channel count.

    Parameters
    ----------
    path : Path
    rate_out_hz : int
        The model's rate.
    block_s : float
        Length of the blocks in seconds: long ones for speed, a model step's for low latency.
    stop : threading.Event
        Ends the stream early.
    realtime : bool
        Deliver a block no sooner than a microphone would.
    rate_hz : int, optional
        The true rate, where the file's own is wrong.

    Raises
    ------
    UserError
        When made: missing, empty, not audio. From `blocks`, after all that could be read: truncated or damaged.

    Attributes
    ----------
    trouble : str or None
        That the header gives two different sample rates, where `rate_hz` does not decide between them.
    """

    def __init__(self, path: Path, rate_out_hz: int, block_s: float = 8.0, *, name: str = "file", stop: threading.Event | None = None,
                 realtime: bool = False, rate_hz: int | None = None, quality: Quality = "HQ") -> None:  # fmt: skip
        self.path, self.name, self.live = path, name, realtime
        self._stop = stop or threading.Event()
        header, self._file = _opened(path, rate_hz)
        self._declared = header.frames if header else None
        self._problem = ""  # what the decoder said of damage
        self.rate_hz = rate_hz or self._file.samplerate
        self.trouble = _rate_contradiction(path, header) if header and not rate_hz else None
        self._block_frames = max(1, round(block_s * self.rate_hz))
        self._conditioner = Conditioner(self.rate_hz, rate_out_hz, quality)

    @property
    def duration_s(self) -> float:
        """Length the file claims."""
        return self._file.frames / self.rate_hz

    def blocks(self) -> Iterator[AudioBlock]:
        """Yield the file's audio; see the class for what is raised after it."""
        began, done = time.monotonic(), 0
        expected = max(self._file.frames, self._declared or 0)
        for frames in self._frames():
            done += len(frames)
            if self.live:
                self._stop.wait(max(0.0, began + done / self.rate_hz - time.monotonic()))
            yield self._conditioner.push(frames)
            if self._stop.is_set():
                break
        yield self._conditioner.flush()
        if done < expected and not self._stop.is_set():
            raise UserError(
                f"{self.path}: truncated or damaged: {done / self.rate_hz:.2f} of {expected / self.rate_hz:.2f} s could be read"
                f"{self._problem}; what came before was used; copy or record it again"
            )

    def _frames(self) -> Iterator[NDArray[np.float32]]:
        """Yield float32 [n, channels] up to the end or the damage, which `_problem` then describes."""
        import soundfile

        done, size = 0, self._block_frames
        while True:
            try:
                frames = self._file.read(size, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                if self._problem:
                    return
                self._problem = f" ({str(error).rstrip('.')})"
                # A failed read loses what it had decoded before the damage: go there again (by reading: seeking may fail), and on in
                # small pieces.
                self._file.close()
                self._file = soundfile.SoundFile(self.path)
                for begin in range(0, done, size):
                    self._file.read(min(size, done - begin), dtype="float32")
                size = SALVAGE_FRAMES
                continue
            if not len(frames):
                return
            done += len(frames)
            yield frames

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_file(path: Path, rate_hz: int | None = None) -> None:
    """Raise `UserError` where `FileSource` would not open a file."""
    _opened(path, rate_hz)[1].close()


class _WavHeader(NamedTuple):
    """What a RIFF WAVE header claims, before libsndfile makes the best of it."""

    pcm: bool  # integer or float samples: `align` bytes are a frame
    channels: int
    rate_hz: int
    byte_rate: int
    align: int
    frames: int | None  # promised; None where the header leaves it open


def _opened(path: Path, rate_hz: int | None) -> tuple[_WavHeader | None, Any]:
    header = _wav_header(path)
    sound = _open_sound(path, header)
    check_format(rate_hz or sound.samplerate, sound.channels, str(path))
    return header, sound


def _open_sound(path: Path, header: _WavHeader | None) -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package without its libsndfile
        raise UserError(f"{path}: reading sound files needs the soundfile package ({error}); pip install 'pdmu[agent]'") from None
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name the sound files in it")
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: is a pipe or device, not a file; 'pdmu-agent run' reads PCM from a source of type stdin")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; copy or record it again")
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if header and header.channels == 0:
        raise UserError(f"{path}: the header says 0 audio channels; 1 or more are needed")
    if header and not 0 < header.rate_hz < 1 << 31:  # libsndfile's own words for it help nobody
        raise UserError(f"{path}: the header says a sample rate of {header.rate_hz} Hz; write the true one into it, or record it again")
    try:
        sound = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw, which soundfile asks parameters for
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise UserError(f"{path}: not a sound file that can be read ({reason}); give WAV, FLAC, OGG or AIFF") from None
    if sound.frames == 0:
        sound.close()
        raise UserError(f"{path}: holds no audio at all; copy or record it again")
    return sound


def _wav_header(path: Path) -> _WavHeader | None:
    """Return what the header of a RIFF WAVE file claims; None where there is none to be read."""
    fmt, data_bytes = b"", None
    try:
        if not path.is_file():  # looking into a pipe would take its bytes away
            return None
        with path.open("rb") as f:
            head = f.read(12)
            if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
                return None
            while data_bytes is None and len(chunk := f.read(8)) == 8:
                size = int.from_bytes(chunk[4:], "little")
                if chunk[:4] == b"data":
                    data_bytes = size
                elif chunk[:4] == b"fmt ":
                    fmt = f.read(16)
                    size -= len(fmt)
                f.seek(size + (size & 1), os.SEEK_CUR)
    except OSError:  # what cannot be read is reported by the reader itself
        return None
    if len(fmt) < 16:
        return None
    tag, channels, rate_hz, byte_rate, align, _bits = struct.unpack("<HHIIHH", fmt)
    pcm = align > 0 and tag in (1, 3, 0xFFFE)  # in compressed formats a block is not a frame
    frames = data_bytes // align if pcm and data_bytes is not None and data_bytes not in STREAMED_SIZES else None
    return _WavHeader(pcm, channels, rate_hz, byte_rate, align, frames)


def _rate_contradiction(path: Path, header: _WavHeader) -> str | None:
    """Say so where a WAV header's sample rate and bytes a second give different rates: one of them was changed or written wrongly."""
    if not header.pcm or header.byte_rate in (0, header.rate_hz * header.align):
        return None
    return (
        f"{path}: the header contradicts itself: {header.rate_hz} Hz was used, but {header.byte_rate} bytes a second make "
        f"{header.byte_rate / header.align:.0f} Hz; if that is the true rate, give it with --rate (or rate_hz in the configuration)"
    )


class RawSource:
    """Headerless signed 16-bit little-endian PCM, interleaved, from a pipe or file such as stdin.

    Parameters
    ----------
    stream : binary file
        Must have a file descriptor.
    rate_hz, channels : int
        What the bytes are.
    """

    def __init__(self, stream: BinaryIO, rate_hz: int, channels: int, rate_out_hz: int, *, name: str = "stdin",
                 stop: threading.Event | None = None, quality: Quality = "HQ", block_s: float = 8.0) -> None:  # fmt: skip
        check_format(rate_hz, channels, name)
        self.name, self.live, self.trouble = name, False, None
        self.channels = channels
        self._stop = stop or threading.Event()
        self._stream, self._fd = stream, stream.fileno()  # the object is kept: its end would close the descriptor
        self._conditioner = Conditioner(rate_hz, rate_out_hz, quality)
        self._block_bytes = max(1, round(block_s * rate_hz)) * 2 * channels

    def blocks(self) -> Iterator[AudioBlock]:
        """Yield the audio as it arrives; no audio at all, or a last incomplete frame, is an error after everything else."""
        rest, silent = b"", True
        while not self._stop.is_set():
            if not select.select([self._fd], [], [], POLL_S)[0]:
                continue
            got = os.read(self._fd, min(READ_BYTES, self._block_bytes))
            if not got:
                break
            silent = False
            samples, rest = s16_frames(rest + got, self.channels)
            if len(samples):
                yield self._conditioner.push(samples)
        yield self._conditioner.flush()
        if self._stop.is_set():
            return
        if silent:
            raise UserError(f"{self.name}: ended without any audio; did the program that should write it fail?")
        if rest:
            raise UserError(
                f"{self.name}: ended inside a sample frame ({len(rest)} of {2 * self.channels} bytes); "
                "is it signed 16-bit PCM, and are the source's channels right?"
            )

    def close(self) -> None:
        """Nothing to let go of: the descriptor is the caller's."""


def s16_frames(data: bytes, channels: int) -> tuple[NDArray[np.float32], bytes]:
    """Split bytes into whole frames float32 [n, channels] (full scale 1.0) and what is left over."""
    size = len(data) - len(data) % (2 * channels)
    frames = np.frombuffer(data[:size], "<i2").reshape(-1, channels)
    return frames.astype(np.float32) / np.float32(32768), data[size:]
