"""The C runtime against the integer law, stage by stage, to the last bit."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pdmu.bundle import Bundle
from pdmu.config import ConvConfig, DetectorConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.detector import Detector, Rejected
from pdmu.golden import golden_pcm, lcg_noise
from pdmu.state_layout import law_trace, split_state
from tests.deploy.c_harness import BUILDS, Program, compile_harness, cut
from tests.deploy.random_bundle import FORMS, form_bundle, random_bundle

RANDOM_SEEDS = range(14)
SHIPPED_LIKE = ModelConfig(
    ("cough", "other"),
    (ConvConfig(8, 3, 5, 2, 2), ConvConfig(8, 3, 3, 1, 2, depthwise=True), ConvConfig(12, 1, 1)),
    (PDMUConfig(24), PDMUConfig(24, gate="uniform", residual=True)),
)


def assert_equal_to_law(program: Program, bundle: Bundle, pcm: np.ndarray, chunks: list[np.ndarray]) -> None:
    law = law_trace(bundle, pcm)
    got = program.trace(chunks)
    for name, values in law.stages.items():
        assert got.get(name, b"") == values.tobytes(), f"stage {name} differs"
    assert got["returned"] == law.stages["scores"].tobytes()
    assert set(got) - set(law.stages) <= {"returned", "state"}
    state = split_state(bundle, got["state"])
    assert list(state) == list(law.state)
    for name, values in law.state.items():
        assert np.array_equal(state[name][: len(values)], values), f"state {name} differs"


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("seed", RANDOM_SEEDS)
def test_random_network(seed: int, build: str, cc: str, tmp_path: Path) -> None:
    bundle = random_bundle(seed)
    program = compile_harness(bundle, tmp_path, cc, build)
    rng = np.random.default_rng(seed)
    pcm = golden_pcm()[: 12000 + seed]
    assert_equal_to_law(program, bundle, pcm, cut(pcm, rng, 2000))
    assert_equal_to_law(program, bundle, pcm, [pcm])


@pytest.mark.parametrize(("gate", "cell"), FORMS)
def test_every_form_of_layer(gate: str, cell: str, cc: str, tmp_path: Path) -> None:
    bundle = form_bundle(gate, cell)
    program, pcm = compile_harness(bundle, tmp_path, cc, "sanitized"), golden_pcm()
    assert_equal_to_law(program, bundle, pcm, cut(pcm, np.random.default_rng(1), 3000))


def signals() -> dict[str, np.ndarray]:
    """Extremes: silence, the largest values there are at every FFT symmetry, a chirp, full-scale noise."""
    n = np.arange(8000)
    chirp = np.round(32767 * np.sin(np.pi * n * n / 16000))
    made = {
        "silence": np.zeros(8000),
        "minimum": np.full(8000, -32768),
        "square": np.where(n // 20 % 2 == 0, 32767, -32768),
        "nyquist": np.where(n % 2 == 0, 32767, -32768),
        "quarter": np.where(n // 2 % 2 == 0, 32767, -32768),
        "chirp": chirp,
        "noise": lcg_noise(8000, seed=7),
    }
    return {name: v.astype(np.int16) for name, v in made.items()}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("window", [64, 512, 1024])
def test_extreme_signals(window: int, build: str, cc: str, tmp_path: Path) -> None:
    frontend = FrontendConfig(window_samples=window, hop_samples=window // 2, n_mels=8, f_min_hz=300.0, compression="log", floor=1)
    bundle = random_bundle(3, frontend, SHIPPED_LIKE)
    program = compile_harness(bundle, tmp_path, cc, build)
    for pcm in signals().values():
        assert_equal_to_law(program, bundle, pcm, cut(pcm, np.random.default_rng(window), 900))


def test_recordings(cc: str, tmp_path: Path, data_dir: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    bundle = random_bundle(11, FrontendConfig(), SHIPPED_LIKE)
    program = compile_harness(bundle, tmp_path, cc, "O2")
    with (data_dir / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].endswith(".flac")]
    sources = {row["source"]: row["path"] for row in rows}
    assert len(sources) > 3
    for path in sources.values():
        pcm, _ = soundfile.read(data_dir / path, dtype="int16", frames=48000)
        assert_equal_to_law(program, bundle, pcm, cut(pcm, np.random.default_rng(0), 5000))


def test_a_minute_without_drift(cc: str, tmp_path: Path) -> None:
    bundle = random_bundle(12, FrontendConfig(), SHIPPED_LIKE)
    program = compile_harness(bundle, tmp_path, cc, "O2")
    pcm = np.tile(golden_pcm(), 60)
    assert_equal_to_law(program, bundle, pcm, cut(pcm, np.random.default_rng(1), 20000))


@pytest.mark.parametrize("build", BUILDS)
def test_detector(build: str, cc: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    kinds = set()
    for trial in range(4):
        labels = ("a", "b", "other")
        config = DetectorConfig(
            (9000, 16000, 12000),
            float(rng.uniform(0.3, 1)),
            int(rng.integers(1, 5)),
            1 + trial,
            4 * trial + 4,
            int(rng.integers(0, 7)),
            ("other",),
        )
        base = random_bundle(1, FrontendConfig(), ModelConfig(labels, (), (PDMUConfig(4),)))
        bundle = Bundle(base.frontend, base.model, config, base.info, base.tensors, base.golden, base.sha256)
        program = compile_harness(bundle, tmp_path / str(trial), cc, build)
        # scores that stay up and down for a while, with steps of one and full-scale ends
        level = np.repeat(rng.integers(0, 32768, (300, 3)), rng.integers(1, 9, 300), axis=0)
        scores = np.clip(level + rng.integers(-4000, 4000, level.shape), 0, 32767).astype(np.int16)
        detector = Detector(config, labels, bundle.samples_per_step)
        state, events = detector.step(detector.init(), scores)
        expected = []
        for e in events + detector.finish(state):
            if isinstance(e, Rejected):
                outcome, peak = {"too_short": 2, "refractory": 3}[e.reason], round(e.score * config.smooth_steps * 32768)
            else:
                outcome, peak = int(e.cut), e.peak_sum
            expected.append((e.label, outcome, e.onset_step, e.end_step, peak))
            kinds.add(outcome)
        got = np.frombuffer(program.run("detect", scores.tobytes()), np.int64).reshape(-1, 5)
        assert sorted(map(tuple, got.tolist())) == sorted(expected)
    assert kinds == {0, 1, 2, 3}
