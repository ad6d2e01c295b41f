"""The spiking DMU: the parallel form equals the step for both forms and every gate; padding, truncation, what is learnt."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pdmu.config import LIFConfig, ModelConfig, PDMUConfig  # noqa: E402
from pdmu.nn.layers import build_layer  # noqa: E402
from pdmu.nn.model import PDMUNet  # noqa: E402
from spiking.sdmu import SpikingDMULayer, SpikingState  # noqa: E402

TOLERANCE = dict(rtol=1e-9, atol=1e-10)  # float64 sums of up to a few hundred terms in another order
BASE = PDMUConfig(hidden=7, channels=3, order=5, theta=12, taps=4, dilation=2, cell="spiking", lif=LIFConfig(threshold=0.3))
SWITCHES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "off": {"gate": "off"},
    "uniform": {"gate": "uniform"},
    "top1": {"gate": "top1"},
    "gate of x and u": {"gate_input": "xu"},
    "gate of x and m": {"gate_input": "xm"},
    "per channel": {"gate_per_channel": True},
    "reset to zero": {"lif": LIFConfig(threshold=0.3, reset="zero")},
    "all learnt": {"lif": LIFConfig(threshold=0.3, learn_threshold=True)},
    "none learnt": {"lif": LIFConfig(threshold=0.3, learn_beta=False)},
}
both_forms = pytest.mark.parametrize("spikes", ["hidden", "all"])


def _flat(state: Any) -> list[torch.Tensor]:
    return [state] if isinstance(state, torch.Tensor) else [t for part in state for t in _flat(part)]


def _layer(spikes: str, changes: dict[str, Any]) -> SpikingDMULayer:
    torch.manual_seed(3)
    layer = build_layer(dataclasses.replace(BASE, spikes=spikes, **changes), 6).double().eval()  # type: ignore[arg-type]
    assert isinstance(layer, SpikingDMULayer)
    torch.nn.init.uniform_(layer.norm.running_var, 0.02, 0.2)
    with torch.no_grad():  # neurons of one row differ
        for name, values in [*layer.named_parameters(), *layer.named_buffers()]:
            if name.endswith(("beta", "threshold")):
                values.mul_(1 + 0.1 * torch.rand_like(values))
    return layer


def _steps(layer: Any, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    outputs = []
    for k in range(x.shape[1]):
        y, state = layer.step(x[:, k], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@both_forms
@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("steps", [1, 45])
def test_a_sequence_equals_its_steps_from_any_state(spikes: str, name: str, steps: int) -> None:
    layer = _layer(spikes, SWITCHES[name])
    g = torch.Generator().manual_seed(steps)
    before, x = (2 * torch.randn(2, n, 6, generator=g, dtype=torch.float64) for n in (23, steps))
    _, state = layer(before, layer.init_state(2, before))  # memory, line and neurons are under way
    whole, end = layer(x, state)
    stepped, end_stepped = _steps(layer, x, state)
    assert torch.equal(whole, stepped) and set(whole.unique().tolist()) <= {0.0, 1.0}
    assert steps == 1 or 0.02 < whole.mean() < 0.9
    for a, b in zip(_flat(end), _flat(end_stepped), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)
    assert torch.equal(layer.last(x, state), whole[:, -1])


@both_forms
@pytest.mark.parametrize("name", SWITCHES)
def test_gradients_of_the_parallel_form_equal_those_through_the_steps(spikes: str, name: str) -> None:
    layer = _layer(spikes, SWITCHES[name])
    g = torch.Generator().manual_seed(1)
    x = (2 * torch.randn(2, 37, 6, generator=g, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(2, 37, BASE.hidden, generator=g, dtype=torch.float64)
    wanted = [("x", x), *((n, p) for n, p in layer.named_parameters() if p.requires_grad)]
    grads = []
    for form in (layer, lambda *a: _steps(layer, *a)):
        grads.append(torch.autograd.grad((form(x, layer.init_state(2, x))[0] * weight).sum(), [t for _, t in wanted], allow_unused=True))
    for (label, _), a, b in zip(wanted, *grads, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE, msg=lambda m, label=label: f"{label}: {m}")


@both_forms
@pytest.mark.parametrize("learn_beta", [False, True])
@pytest.mark.parametrize("learn_threshold", [False, True])
def test_what_is_learnt_is_a_parameter_of_every_neuron(spikes: str, learn_beta: bool, learn_threshold: bool) -> None:
    layer = SpikingDMULayer(dataclasses.replace(BASE, spikes=spikes, lif=LIFConfig(0.8, learn_beta, 0.4, learn_threshold)), 6)  # type: ignore[arg-type]
    learnt = {n for n, _ in layer.named_parameters() if n.endswith(("beta", "threshold"))}
    rows = ("output_neurons",) if spikes == "hidden" else ("output_neurons", "write_neurons", "read_neurons")
    names = [name for name, learn in (("beta", learn_beta), ("threshold", learn_threshold)) if learn]
    assert learnt == {f"{row}.{name}" for row in rows for name in names}
    saved = layer.state_dict()
    for row, size in zip(rows, (7, 3, 15), strict=False):
        assert saved[f"{row}.beta"].tolist() == pytest.approx([0.8] * size)
        assert saved[f"{row}.threshold"].tolist() == pytest.approx([0.4] * size)


@both_forms
def test_training_moves_every_parameter(spikes: str) -> None:
    layer = _layer(spikes, {"lif": LIFConfig(threshold=0.3, learn_threshold=True)}).train()
    x = 2 * torch.randn(4, 30, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (layer(x, layer.init_state(4, x))[0] * torch.linspace(0, 1, 7).double()).sum().backward()
    for name, p in ((n, p) for n, p in layer.named_parameters() if p.requires_grad):
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


@both_forms
def test_padding_changes_no_valid_step_and_no_statistic(spikes: str) -> None:
    torch.manual_seed(1)
    net = PDMUNet(ModelConfig(("a", "b"), layers=(dataclasses.replace(BASE, spikes=spikes),) * 2), 6).double()  # type: ignore[arg-type]
    x, lengths = 2 * torch.randn(3, 24, 6, dtype=torch.float64), torch.tensor([24, 10, 16])
    other = x.clone()
    for i, n in enumerate(lengths.tolist()):
        other[i, n:] = 100.0
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    logits, after = [], []
    for given in (x, other):
        net.load_state_dict(kept)
        logits.append(net.train()(given, lengths=lengths))
        after.append({k: v.clone() for k, v in net.state_dict().items()})
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(logits[0][i, :n], logits[1][i, :n], **TOLERANCE)
    for k in kept:
        torch.testing.assert_close(after[0][k], after[1][k], **TOLERANCE)
    together = net.eval()(x, lengths=lengths)
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(together[i : i + 1, :n], net(x[i : i + 1, :n]), **TOLERANCE)


@both_forms
def test_a_truncated_start_has_the_exact_memory_and_outputs_at_rest(spikes: str) -> None:
    layer = _layer(spikes, {})
    x = 2 * torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    begun, state = layer.begin(x, layer.init_state(2, x)), layer.init_state(2, x)
    _, full = layer(x, state)
    assert isinstance(begun, SpikingState)
    torch.testing.assert_close(begun.memory, full.memory, **TOLERANCE)
    assert not begun.neurons[0].v.any() and not any(t.any() for t in _flat(begun.delay))
    if spikes == "all":
        torch.testing.assert_close(begun.neurons[1].v, full.neurons[1].v, **TOLERANCE)  # they write the memory: exact too
        assert not begun.neurons[2].v.any()
