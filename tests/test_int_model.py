"""The integer network against its plain reference, and any cutting of the frames."""

from __future__ import annotations

import numpy as np
import pytest

from pdmu.bundle import int_model
from pdmu.config import FrontendConfig, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.int_layer import lif
from pdmu.int_model import IntModel, model_init, model_step, model_trace
from pdmu.ranges import check_ranges
from pdmu.tensors import check_tensors
from tests import reference
from tests.deploy.random_bundle import FORMS, form_bundle, random_bundle


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


@pytest.mark.parametrize(("gate", "cell"), FORMS)
def test_every_form_equals_its_plain_reference(gate: str, cell: str) -> None:
    model = int_model(form_bundle(gate, cell))
    features = _features(2, model.n_mels, 80)
    _, scores, trace = model_trace(model, model_init(model), features)
    assert scores.tolist() == reference.run_network(model, features.tolist())
    if cell != "pdmu":
        assert 0 < trace["pdmu1"].mean() < 1, "neurons that never or always fire test nothing"


@pytest.mark.parametrize("seed", range(6))
def test_any_cut_gives_the_same_scores_and_state(seed: int) -> None:
    _assert_any_cut(int_model(random_bundle(seed)), seed)


@pytest.mark.parametrize(("gate", "cell"), FORMS)
def test_any_cut_of_every_form_gives_the_same_scores_and_state(gate: str, cell: str) -> None:
    _assert_any_cut(int_model(form_bundle(gate, cell)), 1)


def _assert_any_cut(model: IntModel, seed: int) -> None:
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


@pytest.mark.parametrize(
    ("cell", "inner"),
    [("pdmu", "u m p g"), ("spiking", "u m p g v"), ("spiking inside", "v_u u m g v_r r v")],
)
def test_trace_holds_every_stage_and_the_same_scores(cell: str, inner: str) -> None:
    model = int_model(form_bundle("softmax", cell))
    features = _features(3, model.n_mels, 30)
    _, scores, trace = model_trace(model, model_init(model), features)
    assert np.array_equal(trace["scores"], scores)
    assert {k for k in trace if k.startswith("pdmu0")} == {"pdmu0"} | {f"pdmu0.{k}" for k in inner.split()}
    assert {"conv0", "logits"} <= set(trace)


def test_equal_gate_logits_route_to_the_shortest_delay() -> None:
    bundle = form_bundle("top1", "pdmu")
    tensors = dict(bundle.tensors) | {k: np.zeros_like(bundle.tensors[k]) for k in ("pdmu0.wg", "pdmu0.bg")}
    model = IntModel(bundle.model, bundle.frontend.n_mels, tensors)
    _, _, trace = model_trace(model, model_init(model), _features(3, model.n_mels, 8))
    assert (trace["pdmu0.g"] == [6554, 0, 0, 0, 0]).all()  # a fifth in Q15


def test_potentials_and_the_line_saturate() -> None:
    """A neuron driven to either rail stays there, and sums of what arrives at one instant stop at int16's."""
    v, spikes = lif(np.array([32768, 32768]), "subtract", np.zeros(2, np.int32), np.array([[1 << 30, -(1 << 30)]] * 4))
    assert v[-1].tolist() == [1 << 30, -(1 << 30)] and spikes[-1].tolist() == [1, 0]
    bundle = form_bundle("straight_through", "pdmu")
    tensors = dict(bundle.tensors) | {"pdmu0.wg": np.zeros_like(bundle.tensors["pdmu0.wg"])}
    tensors["pdmu0.mp"] = np.full_like(tensors["pdmu0.mp"], 2**31 - 1)
    tensors["pdmu0.sp"] = np.full_like(tensors["pdmu0.sp"], 20)
    state, _ = model_step(m := IntModel(bundle.model, bundle.frontend.n_mels, tensors), model_init(m), _features(3, m.n_mels, 60))
    assert np.abs(state.arrays()["pdmu0.arriving"].astype(int)).max() >= 32767


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("beta", 32769, "a decay outside 0"), ("beta_r", -1, "a decay outside 0"), ("us", 0, "not positive"), ("sz", 63, "a shift outside"),
     ("v_scale", 0, "not a positive number")],
)  # fmt: skip
def test_neurons_outside_the_law_are_refused(name: str, value: int, message: str) -> None:
    bundle = form_bundle("softmax", "spiking inside")
    tensors = dict(bundle.tensors) | {f"pdmu0.{name}": np.full_like(bundle.tensors[f"pdmu0.{name}"], value)}
    with pytest.raises(UserError, match=f"pdmu0.{name}' holds .*{message}"):
        check_tensors(bundle.model, bundle.frontend.n_mels, tensors)


def test_sums_over_spikes_that_may_leave_int32_are_refused() -> None:
    bundle = form_bundle("softmax", "spiking inside")
    tensors = dict(bundle.tensors) | {"pdmu1.bx": np.full_like(bundle.tensors["pdmu1.bx"], 2**31 - 100)}
    with pytest.raises(UserError, match="pdmu1.wx, row .: a sum of spikes' weights may need more than 32 bits"):
        check_ranges(bundle.model, tensors)
