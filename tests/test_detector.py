"""The detector against its law written out step by step, and against every cut of the stream."""

from __future__ import annotations

import numpy as np
import pytest

from pdmu.config import DetectorConfig
from pdmu.detector import Detector, Event, Output, Rejected


def naive(config: DetectorConfig, labels: tuple[str, ...], scores: np.ndarray) -> Output:
    """The law of the docstring, one step at a time."""
    n, out = config.smooth_steps, []
    big_r = int(config.release_ratio * 32768 + 0.5)
    for c, label in enumerate(labels):
        if label in config.reject_labels:
            continue
        on = config.threshold_q15[c] * n
        off = max(1, (config.threshold_q15[c] * big_r) >> 15) * n
        active, refused, onset, peak, free_at = False, False, 0, 0, 0
        for k in range(len(scores) + 1):
            s = sum(int(scores[j, c]) for j in range(max(0, k - n + 1), k + 1)) if k < len(scores) else 0
            if active and s < off:
                length, active, refused = k - onset, False, False
                if length == 0:
                    free_at = k + config.refractory_steps
                elif length < config.min_steps:
                    out.append(Rejected(c, onset, k, peak / (n * 32768), "too_short"))
                    free_at = k
                else:
                    out.append(Event(c, onset, k, onset * 512, k * 512, peak, peak / (n * 32768)))
                    free_at = k + config.refractory_steps
            elif not active and s >= on:
                if k < free_at:
                    if not refused:
                        out.append(Rejected(c, k, k + 1, s / (n * 32768), "refractory"))
                    refused = True
                else:
                    active, onset, peak = True, k, 0
            if active:
                peak = max(peak, s)
                if k - onset + 1 == config.max_steps:
                    out.append(Event(c, onset, k + 1, onset * 512, (k + 1) * 512, peak, peak / (n * 32768), True))
                    onset, peak = k + 1, 0
    return sorted(out, key=lambda e: (e.end_step, e.label))


def stream(detector: Detector, scores: np.ndarray, cuts: list[int]) -> Output:
    state, out = detector.init(), []
    for part in np.split(scores, cuts):
        state, got = detector.step(state, part)
        out += got
    return out + detector.finish(state)


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_law_for_any_chunking(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = ("a", "other", "b")
    low = int(rng.integers(1, 4))
    config = DetectorConfig(
        threshold_q15=tuple(int(v) for v in rng.integers(8000, 24000, 3)),
        release_ratio=float(rng.choice([0.3, 0.6, 1.0])),
        smooth_steps=int(rng.integers(1, 6)),
        min_steps=low,
        max_steps=low + int(rng.integers(0, 12)),
        refractory_steps=int(rng.integers(0, 9)),
        reject_labels=("other",),
    )
    length = int(rng.integers(1, 400))
    scores = np.clip(16000 + np.cumsum(rng.normal(0, 6000, (length, 3)), axis=0) % 20000 - 6000, 0, 32767).astype(np.int16)
    detector = Detector(config, labels, 512)
    expected = naive(config, labels, scores)
    whole = stream(detector, scores, [])
    assert sorted(whole) == sorted(expected)
    for cuts in (sorted(rng.integers(0, length + 1, 9).tolist()), list(range(1, length))):
        assert sorted(stream(detector, scores, cuts)) == sorted(expected)


def test_times_are_exact_to_the_step() -> None:
    config = DetectorConfig((20000,), smooth_steps=1, refractory_steps=0)
    scores = np.zeros((20, 1), np.int16)
    scores[5:9] = 30000
    (event,) = stream(Detector(config, ("a",), 512), scores, [])
    assert isinstance(event, Event)
    assert (event.onset_sample, event.end_sample, event.score) == (5 * 512, 9 * 512, 30000 / 32768)


def test_threshold_is_reached_exactly() -> None:
    detector = Detector(DetectorConfig((20000,), smooth_steps=3, refractory_steps=0, release_ratio=1.0), ("a",), 1)
    scores = np.array([[20000], [20000], [20000], [0]], np.int16)
    (event,) = stream(detector, scores, [])
    assert isinstance(event, Event)
    assert (event.onset_step, event.end_step) == (2, 3)
    scores[0] = 19999
    assert stream(detector, scores, []) == []


def test_long_sound_is_cut_and_goes_on() -> None:
    detector = Detector(DetectorConfig((20000,), smooth_steps=1, max_steps=4, refractory_steps=3), ("a",), 1)
    out = stream(detector, np.full((10, 1), 30000, np.int16), [3])
    assert [(e.onset_step, e.end_step, e.cut) for e in out if isinstance(e, Event)] == [(0, 4, True), (4, 8, True), (8, 10, False)]


def test_labels_must_fit() -> None:
    with pytest.raises(ValueError, match="2 thresholds for 1"):
        Detector(DetectorConfig((1, 2)), ("a",), 1)
    with pytest.raises(ValueError, match="reject_labels names b"):
        Detector(DetectorConfig((1,), reject_labels=("b",)), ("a",), 1)
