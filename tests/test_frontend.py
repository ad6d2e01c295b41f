"""Front end: the integer law against its plain reference, any chunking, the float form, librosa."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pdmu.config import FrontendConfig
from pdmu.errors import UserError
from pdmu.frontend import compress, frontend_init, frontend_step, log2_q12, mel_energies
from pdmu.golden import golden_pcm
from pdmu.tables import frontend_tables
from tests.reference import Frontend

CONFIGS = [
    FrontendConfig(),
    FrontendConfig(compression="log"),
    FrontendConfig(window_samples=256, hop_samples=100, n_mels=16, f_min_hz=200, pcen_smooth_shift=3),
]


def _signals() -> dict[str, NDArray[np.int16]]:
    rng = np.random.default_rng(0)
    i = np.arange(4096)
    return {
        "silence": np.zeros(2048, np.int16),
        "full-scale square": np.where(i // 8 % 2, 32767, -32768).astype(np.int16),
        "most negative": np.full(2048, -32768, np.int16),
        "alternating": np.where(i % 2, 32767, -32768).astype(np.int16),
        "noise": rng.integers(-32768, 32768, 4096).astype(np.int16),
        "quiet": rng.integers(-2, 3, 4096).astype(np.int16),
        "chirp": (30000 * np.sin(np.cumsum(0.0004 * i))).astype(np.int16),
        "step after silence": np.concatenate([np.zeros(3000, np.int16), np.full(1096, 20000, np.int16)]),
    }


@pytest.mark.parametrize("cfg", CONFIGS, ids=["pcen", "log", "odd"])
@pytest.mark.parametrize("name", _signals())
def test_law_equals_its_plain_reference(cfg: FrontendConfig, name: str) -> None:
    pcm = _signals()[name]
    _, features = frontend_step(cfg, frontend_init(cfg), pcm)
    assert features.tolist() == Frontend(cfg).run(pcm.tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 1500), min_size=1, max_size=30), st.sampled_from(CONFIGS))
def test_any_chunking_gives_the_same_frames_and_state(sizes: list[int], cfg: FrontendConfig) -> None:
    pcm = np.random.default_rng(1).normal(0, 3000, sum(sizes)).astype(np.int16)
    whole_state, whole = frontend_step(cfg, frontend_init(cfg), pcm)
    state, parts = frontend_init(cfg), []
    for chunk in np.split(pcm, np.cumsum(sizes)[:-1]):
        state, features = frontend_step(cfg, state, chunk)
        parts.append(features)
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(whole) == len(pcm) // cfg.hop_samples
    assert all(np.array_equal(a, b) for a, b in zip(state, whole_state, strict=True))


def test_float_front_end_stays_within_its_bound() -> None:
    """0.02 of a feature unit: the FFT's rounding on signals of a few counts; louder ones differ by under 0.01."""
    rng = np.random.default_rng(2)
    for cfg in CONFIGS:
        for level in (3, 300, 30000):
            pcm = np.clip(rng.normal(0, level, 32000), -32768, 32767).astype(np.int16)
            _, law = frontend_step(cfg, frontend_init(cfg), pcm)
            assert np.abs(law / 512 - compress(cfg, mel_energies(cfg, pcm))).max() < (0.02 if level == 3 else 0.01)


def test_mel_energies_equal_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    cfg = FrontendConfig()
    pcm = np.random.default_rng(3).normal(0, 1000, 16000)
    ours = mel_energies(cfg, pcm)
    theirs = librosa.feature.melspectrogram(
        y=np.concatenate([np.zeros(256), pcm]),
        sr=16000,
        n_fft=512,
        hop_length=256,
        center=False,
        htk=True,
        norm=None,
        n_mels=40,
        fmin=60,
        fmax=7800,
    )
    assert np.allclose(ours, theirs.T, rtol=1e-6)  # librosa keeps its filters in float32


def test_pcen_equals_librosa() -> None:
    """Same smoother, same formula; librosa adds eps where we add the floor, and starts its smoother at our floor through `zi`."""
    librosa = pytest.importorskip("librosa")
    cfg = replace(FrontendConfig(), pcen_smooth_shift=4)
    e = mel_energies(cfg, np.random.default_rng(4).normal(0, 1000, 16000))
    s = 2.0**-cfg.pcen_smooth_shift
    theirs = librosa.pcen(
        (e + 1).T,
        gain=cfg.pcen_alpha,
        bias=cfg.pcen_delta,
        power=cfg.pcen_r,
        eps=cfg.floor - 1,
        b=s,
        zi=np.full((40, 1), (1 - s) * (cfg.floor + 1)),
    )
    assert np.allclose(compress(cfg, e), theirs.T, rtol=1e-6, atol=1e-6)


def test_log2_is_accurate_over_its_whole_range() -> None:
    tables = frontend_tables(FrontendConfig())
    powers = np.left_shift(np.int64(1), np.arange(55))
    v = np.concatenate(
        [np.arange(1, 5000), powers, powers[2:] - 1, powers + 1, (2 ** np.random.default_rng(0).uniform(0, 54.9, 5000)).astype(np.int64)]
    )
    reference = Frontend(FrontendConfig())
    assert log2_q12(tables, v).tolist() == [reference.log2_q12(int(x)) for x in v]
    assert np.abs(log2_q12(tables, v) / 4096 - np.log2(v.astype(np.float64))).max() < 2 / 4096


def test_silence_and_a_quiet_microphone_look_alike() -> None:
    """A clip padded with zeros must not stand out: below the floor nothing is told apart."""
    cfg = FrontendConfig(compression="log")
    hiss = np.random.default_rng(0).normal(0, 1, 16000).round().astype(np.int16)
    difference = compress(cfg, mel_energies(cfg, hiss))
    assert difference.mean() < 0.5 and difference.max() < 2.0  # octaves of energy, of a range of about 28; silence is zero


def test_wrong_types_and_impossible_settings_are_refused() -> None:
    cfg = FrontendConfig()
    with pytest.raises(TypeError, match="int16"):
        frontend_step(cfg, frontend_init(cfg), np.zeros(10, np.float32))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="mel band 0 is narrower"):
        frontend_tables(FrontendConfig(n_mels=128, f_min_hz=0))


@pytest.mark.parametrize("cfg", CONFIGS[:2], ids=["pcen", "log"])
def test_real_recordings_match_the_plain_reference(cfg: FrontendConfig, data_dir: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    for folder in ("cough_c19", "birds/red_rumped_swallow", "noise"):
        path = sorted((data_dir / folder).glob("*.flac"))[0]
        pcm = soundfile.read(path, dtype="int16")[0][:8000]
        _, features = frontend_step(cfg, frontend_init(cfg), pcm)
        assert features.tolist() == Frontend(cfg).run(pcm.tolist())


def test_golden_signal_is_what_it_was() -> None:
    """Bundles hold answers to it: its samples may never change under the same name."""
    pcm = golden_pcm()
    assert pcm.shape == (16000,) and pcm.max() == 32767 and pcm.min() == -32768
    assert hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest() == "3754381662d0f1f960cb0fa9cc85fea567f5490a1f0164567442025b50caa694"
