"""The integer network against its plain reference, and any cutting of the frames."""

from __future__ import annotations

import numpy as np
import pytest

from pdmu.bundle import int_model
from pdmu.config import FrontendConfig, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.int_model import model_init, model_step, model_trace
from pdmu.ranges import check_ranges
from pdmu.tensors import check_tensors
from tests import reference
from tests.deploy.random_bundle import random_bundle


def _features(bundle_seed: int, n_mels: int, frames: int) -> np.ndarray:
    rng = np.random.default_rng(bundle_seed)
    walk = rng.integers(-3000, 3000, (frames, n_mels)).cumsum(0)
    walk[frames // 2] = 32767  # and a jump to the rail
    return np.clip(walk, -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("seed", range(12))
def test_network_equals_its_plain_reference(seed: int) -> None:
    model = int_model(random_bundle(seed))
    features = _features(seed, model.n_mels, 24)
    _, scores = model_step(model, model_init(model), features)
    assert scores.tolist() == reference.run_network(model, features.tolist())


@pytest.mark.parametrize("seed", range(6))
def test_any_cut_gives_the_same_scores_and_state(seed: int) -> None:
    model = int_model(random_bundle(seed))
    features = _features(seed, model.n_mels, 60)
    end, whole = model_step(model, model_init(model), features)
    rng, state, parts, at = np.random.default_rng(seed), model_init(model), [], 0
    while at < len(features):
        n = int(rng.integers(0, 9))
        state, scores = model_step(model, state, features[at : at + n])
        parts.append(scores)
        at += n
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(state.pending, end.pending)
    for (name, a), b in zip(state.arrays().items(), end.arrays().values(), strict=True):
        assert np.array_equal(a, b), name


def test_trace_holds_every_stage_and_the_same_scores() -> None:
    model = int_model(random_bundle(3))
    features = _features(3, model.n_mels, 30)
    _, scores, trace = model_trace(model, model_init(model), features)
    assert np.array_equal(trace["scores"], scores)
    assert {f"conv{i}" for i in range(len(model.config.conv))} | {"pdmu0.u", "pdmu0.m", "pdmu0.p", "pdmu0", "logits"} <= set(trace)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.bias"), "'head.bias' is missing"),
        (lambda t: t.update(extra=np.zeros(1, np.int8)), "'extra' is not part"),
        (lambda t: t.update({"head.bias": t["head.bias"].astype(np.int16)}), "int16"),
        (lambda t: t.update({"head.shift": np.zeros_like(t["head.shift"])}), "outside 1"),
        (lambda t: t.update({"in.scale": np.array([np.nan], np.float32)}), "not a positive number"),
    ],
)
def test_inconsistent_tensors_are_refused(change: object, message: str) -> None:
    bundle = random_bundle(1)
    tensors = dict(bundle.tensors)
    change(tensors)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        check_tensors(bundle.model, bundle.frontend.n_mels, tensors)


def test_sum_that_may_leave_int64_is_refused_and_named() -> None:
    """600 inputs of the largest weights reach 2^62.3 with the largest multiplier: inside. The largest bias on top is outside."""
    layer = PDMUConfig(600, 1, 1, taps=1)
    bundle = random_bundle(1, FrontendConfig(), ModelConfig(("a",), (), (layer, layer)))
    tensors = {k: np.array(v) for k, v in bundle.tensors.items()}
    largest = 2**31 - 1
    for prefix, weight, bias, mult in (("head", "weight", "bias", "mult"), ("pdmu1", "wx", "bx", "mx")):
        for name, value in ((weight, -128), (bias, 0), (mult, largest)):
            tensors[f"{prefix}.{name}"][...] = value
        tensors[f"{prefix}.{'sh' if prefix == 'pdmu1' else 'shift'}"][...] = 40
        check_ranges(bundle.model, tensors)
        last = tensors[f"{prefix}.{bias}"]
        last[-1] = largest
        with pytest.raises(UserError, match=f"{prefix}.*, row {len(last) - 1}: a sum may need 65 bits"):
            check_ranges(bundle.model, tensors)
        last[-1] = 0
