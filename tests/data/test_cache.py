"""Reading recordings: bad files each with a reason, and energies that are computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pdmu.config import FrontendConfig
from pdmu.data.audio import BadRecording, read_pcm
from pdmu.data.cache import EnergyCache
from pdmu.frontend import mel_energies

CFG = FrontendConfig(n_mels=16)


def _write(path: Path, x: np.ndarray, rate: int = 16000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, x, rate, subtype=subtype)
    return path


def _noise(n: int = 8000) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, n)


def test_int16_files_are_read_exactly(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, 4000).astype(np.int16)
    path = tmp_path / "a.wav"
    soundfile.write(path, pcm, 16000)
    assert np.array_equal(read_pcm(path, 16000), pcm)


def test_channels_are_averaged_and_rates_converted(tmp_path: Path) -> None:
    t = np.arange(44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 1000 * t)
    pcm = read_pcm(_write(tmp_path / "a.wav", np.stack([tone, 0 * tone], 1), 44100), 16000)
    assert abs(len(pcm) - 16000) <= 1
    middle = pcm[4000:12000] / 32768
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.25 / np.sqrt(2), rel=0.01)
    assert np.abs(np.fft.rfft(middle)).argmax() == 500  # 1 kHz in bins of 2 Hz


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.write_bytes(b""), "unreadable"),
        (lambda p: p.write_bytes(b"RIFF\x00\x00\x00\x00nonsense" * 9), "unreadable"),
        (lambda p: p.write_bytes(b"RIFF\x00\x00\x00\x00nonsense" * 9), r"^[^/]*$"),  # the reason repeats no path
        (lambda p: _write(p, _noise(), 16), "a sample rate of 16 Hz"),
        (lambda p: None, "no such file"),
        (lambda p: _write(p, np.zeros(0)), "empty"),
        (lambda p: _write(p, _noise(100)), "too short"),
        (lambda p: _write(p, np.zeros(8000)), "silent"),
        (lambda p: _write(p, np.full(8000, np.nan), subtype="FLOAT"), "NaN"),
    ],
)
def test_unusable_files_have_a_reason(tmp_path: Path, make: object, reason: str) -> None:
    path = tmp_path / "x.wav"
    make(path)  # type: ignore[operator]
    with pytest.raises(BadRecording, match=reason):
        read_pcm(path, 16000)


def test_cache_returns_what_was_computed_and_survives_damage(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wav", _noise())
    cache = EnergyCache(tmp_path / "cache", CFG)
    first, digest = cache.recording(path)
    assert np.array_equal(first, mel_energies(CFG, read_pcm(path, 16000)).astype(np.float32))
    (stored,) = (tmp_path / "cache").rglob("*.npy")
    np.save(stored, first + 1)  # what is returned next is the file, not a computation
    assert np.array_equal(cache.recording(path)[0], first + 1)
    stored.write_bytes(stored.read_bytes()[:50])
    again, same = cache.recording(path)
    assert np.array_equal(again, first) and same == digest


def test_cache_tells_front_ends_contents_and_limits_apart(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wav", _noise(8000))
    cache = EnergyCache(tmp_path / "cache", CFG)
    one, digest = cache.recording(path)
    two, _ = EnergyCache(tmp_path / "cache", FrontendConfig(n_mels=16, hop_samples=128)).recording(path)
    assert len(two) == 2 * len(one)
    slower, _ = cache.recording(path, 0.5)
    assert len(slower) == 2 * len(one)
    with pytest.raises(BadRecording, match="too short"):
        EnergyCache(tmp_path / "cache", CFG, min_s=1.0).recording(path)
    _write(path, _noise(8000) / 2)
    changed, other = cache.recording(path)
    assert other != digest and not np.array_equal(changed, one)
