"""Sources: any rate, channel count and chunking; bad files, one clear error each and nothing lost."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from edge_agent.audio import FileSource, RawSource
from edge_agent.ports import Source
from edge_agent.resample import Conditioner
from pdmu.errors import UserError
from tests.helpers import scene


def pcm_of(source: Source) -> np.ndarray:
    return np.concatenate([b.pcm for b in source.blocks()])


def test_16_bit_at_the_models_rate_comes_out_bit_for_bit(tmp_path: Path) -> None:
    pcm = np.arange(-32768, 32768, dtype=np.int16)
    for name in ("a.wav", "a.flac"):
        sf.write(tmp_path / name, pcm, 16000, subtype="PCM_16")
        assert (pcm_of(FileSource(tmp_path / name, 16000, block_s=0.1)) == pcm).all()


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 48000])
def test_resampling_does_not_depend_on_the_chunks(rate_hz: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 0.1, 3 * rate_hz).astype(np.float32)
    whole = Conditioner(rate_hz, 16000)
    expected = np.concatenate([whole.push(x).pcm, whole.flush().pcm])
    assert len(expected) == 48000
    cut = Conditioner(rate_hz, 16000)
    got = [cut.push(part).pcm for part in np.split(x, np.sort(rng.integers(0, len(x), 200)))] + [cut.flush().pcm]
    assert (np.concatenate(got) == expected).all()


def test_resampled_tone_keeps_its_place_and_level() -> None:
    t = np.arange(48000) / 48000
    c = Conditioner(48000, 16000)
    got = np.concatenate([c.push((0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)).pcm, c.flush().pcm])
    expected = 0.5 * 32768 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(got - expected)[500:-500].max() < 3  # soxr HQ: better than 16 bits, and our rounding


def test_channels_are_averaged_and_rounded_to_even() -> None:
    frames = np.array([[1, 2], [3, 4], [-1, -2], [32767, 32767]], np.float32) / 32768
    assert Conditioner(16000, 16000).push(frames).pcm.tolist() == [2, 4, -2, 32767]


def test_nan_and_clipped_samples_are_counted_and_made_harmless() -> None:
    x = np.array([0.1, np.nan, np.inf, -np.inf, 1.5, -2.0, 1e30, 0.5], np.float32)
    block = Conditioner(16000, 16000).push(x)
    assert (block.n_invalid, block.n_clipped) == (3, 3)
    assert block.pcm.tolist() == [3277, 0, 0, 0, 32767, -32768, 32767, 16384]


def test_nan_does_not_poison_the_resampler() -> None:
    x = np.full(4800, 0.25, np.float32)
    x[100] = np.nan
    c = Conditioner(48000, 16000)
    got = np.concatenate([c.push(x).pcm, c.flush().pcm])
    assert abs(int(got[-100]) - 8192) < 5


def wav_bytes(channels: int = 1, rate_hz: int = 16000, samples: int = 16000, claimed: int | None = None) -> bytes:
    data = np.zeros(samples, "<i2").tobytes()
    size = len(data) if claimed is None else claimed
    head = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * 2 * channels, 2 * channels, 16)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + size, 0xFFFFFFFF))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + b"data"
        + struct.pack("<I", size)
        + data
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x00" * 500, "not a sound file"),
        (b"# A text\n" * 50, "not a sound file"),
        (b"RIFF\x00\x00\x00\x00WAVE", "not a sound file|no audio"),
        (b"fLaC" + b"\x00" * 100, "not a sound file"),
        (wav_bytes(channels=0), "0 audio channels"),
        (wav_bytes(rate_hz=1), "sample rate of 1 Hz"),
        (wav_bytes(rate_hz=0), "sample rate of 0 Hz"),
        (wav_bytes(rate_hz=2_000_000_000), "sample rate of 2000000000 Hz"),
        (wav_bytes(samples=0), "no audio at all"),
    ],
)
def test_unusable_files_are_named_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        FileSource(path, 16000)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        FileSource(tmp_path / "none.wav", 16000)
    with pytest.raises(UserError, match="is a folder"):
        FileSource(tmp_path, 16000)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_truncated_file_gives_what_it_has_and_then_one_error(tmp_path: Path, kind: str) -> None:
    path, pcm = tmp_path / f"x.{kind}", scene([(0.5, 1.0)], 10)
    sf.write(path, pcm, 16000, subtype="PCM_16")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    got = []
    with pytest.raises(UserError, match=r"truncated or damaged: \d\.\d+ of 10\.00 s") as caught:
        for block in FileSource(path, 16000, block_s=1.0).blocks():
            got.append(block.pcm)
    heard = np.concatenate(got)
    assert len(heard) > 3 * 16000
    assert (heard == pcm[: len(heard)]).all()
    assert str(path) in str(caught.value)


def test_what_stands_before_damage_is_heard_whatever_the_blocks(tmp_path: Path) -> None:
    path, pcm = tmp_path / "x.flac", scene([(0.5, 1.0)], 10)
    sf.write(path, pcm, 16000, subtype="PCM_16")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    heard = []
    for block_s in (0.016, 1.0, 8.0):  # the last reads beyond the damage at once
        blocks = []
        with pytest.raises(UserError, match="truncated or damaged"):
            for block in FileSource(path, 16000, block_s=block_s).blocks():
                blocks.append(block.pcm)
        heard.append(np.concatenate(blocks))
    assert len(heard[0]) > 4 * 16000
    assert [len(h) for h in heard] == [len(heard[0])] * 3
    assert (heard[2] == pcm[: len(heard[2])]).all()


def test_streamed_wav_without_a_length_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wav_bytes(claimed=0xFFFFFFFF))
    assert len(pcm_of(FileSource(path, 16000))) == 16000


def test_true_rate_overrules_the_files(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    sf.write(path, scene([], 1), 16000)
    assert len(pcm_of(FileSource(path, 16000, rate_hz=8000))) == 32000


def test_real_recordings_at_8_khz_are_read_whole(data_dir: Path) -> None:
    path = next((data_dir / "fsdd").rglob("*.flac"))
    info = sf.info(path)
    assert len(pcm_of(FileSource(path, 16000))) == round(info.frames * 16000 / info.samplerate)


def raw_source(data: bytes, channels: int = 1) -> RawSource:
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as f:
            f.write(data)

    threading.Thread(target=write, daemon=True).start()
    return RawSource(os.fdopen(reader, "rb"), 16000, channels, 16000, block_s=0.01)


def test_raw_pcm_from_a_pipe() -> None:
    pcm = scene([(0.1, 0.2)], 3)
    assert (pcm_of(raw_source(pcm.tobytes())) == pcm).all()
    stereo = np.stack([pcm, pcm], axis=1)
    assert (pcm_of(raw_source(stereo.tobytes(), 2)) == pcm).all()


def test_raw_pcm_that_ends_inside_a_frame() -> None:
    source, got = raw_source(b"\x01\x00\x02\x00\x03"), []
    with pytest.raises(UserError, match="1 of 2 bytes"):
        for block in source.blocks():
            got.append(block.pcm)
    assert np.concatenate(got).tolist() == [1, 2]


def test_waiting_source_stops_when_told() -> None:
    reader, writer = os.pipe()
    stop = threading.Event()
    source = RawSource(os.fdopen(reader, "rb"), 16000, 1, 16000, stop=stop)
    threading.Timer(0.1, stop.set).start()
    assert len(pcm_of(source)) == 0
    os.close(writer)


def test_header_with_two_sample_rates_is_said_unless_the_rate_is_given(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    raw = bytearray(wav_bytes())
    raw[24:28] = struct.pack("<I", 8000)  # the bytes a second still say 16000
    path.write_bytes(raw)
    source = FileSource(path, 16000)
    assert source.trouble is not None
    assert "8000 Hz was used, but 32000 bytes a second make 16000 Hz" in source.trouble
    assert FileSource(path, 16000, rate_hz=16000).trouble is None
    path.write_bytes(wav_bytes())
    assert FileSource(path, 16000).trouble is None


def test_pipe_is_not_called_an_empty_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UserError, match="is a pipe or device"):
        FileSource(tmp_path / "pipe.wav", 16000)
