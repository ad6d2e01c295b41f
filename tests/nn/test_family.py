"""Every model of the family: the parallel form equals the step, for every switch; readouts; what cannot stream says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pdmu.config import FAMILIES, ConvConfig, ModelConfig, PDMUConfig, from_dict, to_dict  # noqa: E402
from pdmu.data.recipe import parse_recipe, read_table, shipped_recipes  # noqa: E402
from pdmu.data.sequence_recipe import parse_sequence_recipe  # noqa: E402
from pdmu.errors import UserError  # noqa: E402
from pdmu.nn.layer import PDMULayer  # noqa: E402
from pdmu.nn.layers import build_layer  # noqa: E402
from pdmu.nn.model import PDMUNet  # noqa: E402
from pdmu.nn.noise import Gumbel  # noqa: E402

TOLERANCE = dict(rtol=1e-9, atol=1e-10)  # float64 sums of up to a few hundred terms in another order
BASE = PDMUConfig(hidden=7, channels=3, order=5, theta=12, taps=4, dilation=2)
SWITCHES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "sigmoid": {"gate": "sigmoid"},
    "uniform": {"gate": "uniform"},
    "off": {"gate": "off"},
    "top1": {"gate": "top1"},
    "straight_through": {"gate": "straight_through"},
    "gate of x and u": {"gate_input": "xu"},
    "gate of x and m": {"gate_input": "xm"},
    "gate of x and m, top1": {"gate_input": "xm", "gate": "top1"},
    "tanh": {"gate_tanh": True},
    "per channel": {"gate_per_channel": True},
    "per channel, sigmoid of x and m": {"gate_per_channel": True, "gate": "sigmoid", "gate_input": "xm"},
    "per channel, top1": {"gate_per_channel": True, "gate": "top1"},
    "taps from 0": {"first_tap": 0},
    "taps from 0, top1": {"first_tap": 0, "gate": "top1"},
    "one tap at 0, top1": {"first_tap": 0, "gate": "top1", "taps": 1},
    "one tap at 0": {"first_tap": 0, "taps": 1},
    "relu write": {"write": "relu"},
    "residual": {"residual": True, "hidden": 6},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
}


def _flat(state: Any) -> list[torch.Tensor]:
    return [state] if isinstance(state, torch.Tensor) else [t for part in state for t in _flat(part)]


def _layer(changes: dict[str, Any], n_inputs: int = 6) -> Any:
    torch.manual_seed(3)
    layer = build_layer(dataclasses.replace(BASE, **changes), n_inputs).double().eval()
    for m in layer.modules():
        if isinstance(m, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(m.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(m.running_var, 0.01, 0.1)
    return layer


def _steps(layer: Any, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    outputs = []
    for k in range(x.shape[1]):
        y, state = layer.step(x[:, k], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("steps", [1, 3, 45])
def test_a_sequence_equals_its_steps_from_any_state(name: str, steps: int) -> None:
    layer = _layer(SWITCHES[name])
    g = torch.Generator().manual_seed(steps)
    before = torch.randn(2, 23, 6, generator=g, dtype=torch.float64)
    x = torch.randn(2, steps, 6, generator=g, dtype=torch.float64)
    _, state = layer(before, layer.init_state(2, before))  # neither memory nor line is empty
    whole, end = layer(x, state)
    stepped, end_stepped = _steps(layer, x, state)
    torch.testing.assert_close(whole, stepped, **TOLERANCE)
    for a, b in zip(_flat(end), _flat(end_stepped), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)
    torch.testing.assert_close(layer.last(x, state), whole[:, -1], **TOLERANCE)


@pytest.mark.parametrize("name", SWITCHES)
def test_gradients_of_the_parallel_form_equal_those_through_the_steps(name: str) -> None:
    layer = _layer(SWITCHES[name])
    x = torch.randn(2, 37, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 37, BASE.hidden if name != "residual" else 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    named = [(n, p) for n, p in layer.named_parameters() if p.requires_grad]
    wanted = [x, *(p for _, p in named)]
    grads = []
    for form in (lambda: layer(x, layer.init_state(2, x))[0], lambda: _steps(layer, x, layer.init_state(2, x))[0]):
        grads.append(torch.autograd.grad((form() * weight).sum(), wanted, allow_unused=True))
    for (label, _), a, b in zip([("x", x), *named], *grads, strict=True):
        assert (a is None) == (b is None), label
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, **TOLERANCE, msg=lambda m, label=label: f"{label}: {m}")


@pytest.mark.parametrize("name", ["softmax", "top1", "straight_through", "gate of x and m", "per channel"])
def test_the_gate_learns(name: str) -> None:
    layer = _layer(SWITCHES[name]).train()
    x = torch.randn(4, 30, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (layer(x, layer.init_state(4, x))[0] ** 2).sum().backward()
    assert layer.to_gate.weight.grad.abs().max() > 0 and layer.to_gate.bias.grad.abs().max() > 0


def test_routing_is_the_gate_with_all_but_its_largest_weight_dropped() -> None:
    layer, x = _layer({"gate": "top1"}), torch.randn(1, 9, 6, dtype=torch.float64)
    g = layer.gate(x, layer.write(x), None)
    soft = torch.softmax(layer.to_gate(x), -1)
    assert (g > 0).sum(-1).eq(1).all()
    torch.testing.assert_close(g.amax(-1), soft.amax(-1))
    assert g.argmax(-1).equal(soft.argmax(-1))


def test_annealing_runs_from_the_first_temperature_to_the_last() -> None:
    net = PDMUNet(ModelConfig(("a", "b"), layers=(dataclasses.replace(BASE, gate="straight_through", gumbel_temperature=(2.0, 0.5)),)), 3)
    seen = []
    for progress in (0.0, 0.5, 1.0, 2.0):
        net.anneal(progress)
        seen.append(net.layers[0].temperature)  # type: ignore[union-attr]
    assert seen == pytest.approx([2.0, 1.0, 0.5, 0.5])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", sorted(path.stem for path in shipped_recipes().glob("*.toml")))
def test_every_family_fits_every_shipped_recipe(recipe: str, family: str) -> None:
    table = read_table(recipe, (f"model.family={family}", "train.tail=0") if recipe == "psmnist-spiking" else (f"model.family={family}",))
    if table.of_sequences:
        table.data["model"].setdefault("labels", ["a", "b"])
        net = PDMUNet(parse_sequence_recipe(table).model, 28)
    else:
        parsed = parse_recipe(table)
        net = PDMUNet(parsed.model, parsed.frontend)
    assert all(layer.config.cell == FAMILIES[family].get("cell", "pdmu") for layer in net.layers)  # type: ignore[union-attr]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_by_name(family: str) -> None:
    """A forward and a backward pass of a two-layer network, and streaming where the model is causal."""
    torch.manual_seed(0)
    layers = tuple(from_dict(PDMUConfig, {**to_dict(BASE), "hidden": h, **FAMILIES[family]}, family) for h in (5, 6))
    net = PDMUNet(ModelConfig(("a", "b", "c"), layers=layers, readout="mean"), 4)
    x = torch.randn(3, 20, 4)
    net(x).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters() if p.requires_grad)
    net.eval()
    if family == "bi-pdmu":
        with pytest.raises(UserError, match="end of a sequence before its beginning"):
            net.step(x[:, :1], net.init_state(3, x))
        with pytest.raises(UserError, match="layer 0 is bidirectional.*model.family=pdmu"):
            net.config.check_contract("cannot export")
        return
    state, logits = net.init_state(3, x), []
    with torch.no_grad():
        for k in range(20):
            y, state = net.step(x[:, k : k + 1], state)
            logits.append(y)
        torch.testing.assert_close(torch.stack(logits, 1).mean(1), net(x), rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize("readout", ["step", "last", "mean", "leaky"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("conv", [False, True])
def test_padding_changes_nothing(readout: str, bidirectional: bool, conv: bool) -> None:
    torch.manual_seed(1)
    layer = dataclasses.replace(BASE, bidirectional=bidirectional)
    front = (ConvConfig(channels=3, stride_time=2, stride_mel=2),) if conv else ()
    net = PDMUNet(ModelConfig(("a", "b"), conv=front, layers=(layer, layer), readout=readout), 5).double().eval()  # type: ignore[arg-type]
    x, lengths = torch.randn(3, 24, 5, dtype=torch.float64), torch.tensor([24, 10, 16])
    together = net(x, lengths=lengths)
    for i, n in enumerate(lengths.tolist()):
        alone = net(x[i : i + 1, :n])
        torch.testing.assert_close(together[i : i + 1, : alone.shape[1]] if readout == "step" else together[i : i + 1], alone, **TOLERANCE)


@pytest.mark.parametrize("name", ["softmax", "off", "top1", "gate of x and m"])
@pytest.mark.parametrize("readout", ["leaky", "last"])
def test_a_tail_longer_than_the_readout_looks_back_changes_nothing(name: str, readout: str) -> None:
    """One layer without neurons that carry over starts from its exact memory, and the leaky mean's weights before the tail vanish."""
    torch.manual_seed(4)
    config = ModelConfig(("a", "b"), layers=(dataclasses.replace(BASE, **SWITCHES[name]),), readout=readout, readout_decay=0.3)  # type: ignore[arg-type]
    net = PDMUNet(config, 5).double().eval()
    x = torch.randn(2, 60, 5, dtype=torch.float64)
    torch.testing.assert_close(net(x, tail=25, lengths=torch.tensor([60, 60])), net(x), **TOLERANCE)
    assert readout == "last" or not torch.allclose(net(x, tail=2), net(x), rtol=1e-6)


def test_upper_layers_forget_what_came_before_a_long_tail() -> None:
    """Their memory fades with its window (12 steps); a tail of several of them leaves little."""
    torch.manual_seed(4)
    net = PDMUNet(ModelConfig(("a", "b"), layers=(BASE, BASE), readout="last"), 5).double().eval()
    x = torch.randn(2, 200, 5, dtype=torch.float64)
    error = [(net(x, tail=tail) - net(x)).abs().max() for tail in (12, 60, 120)]
    assert error[0] > error[1] > error[2] and error[2] < 1e-3


def test_the_leaky_readout_is_the_weighted_mean_of_the_logits() -> None:
    config = ModelConfig(("a", "b"), layers=(BASE,), readout="leaky", readout_decay=0.7)
    net = PDMUNet(config, 3).double().eval()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    every = PDMUNet(dataclasses.replace(config, readout="step"), 3).double().eval()
    every.load_state_dict(net.state_dict())
    mean, total = torch.zeros(2, 2, dtype=torch.float64), 0.0
    for logits in every(x).unbind(1):
        mean, total = 0.7 * mean + logits, 0.7 * total + 1
    torch.testing.assert_close(net(x), mean / total, **TOLERANCE)


def test_padding_takes_no_part_in_normalisation_statistics() -> None:
    torch.manual_seed(2)
    net = PDMUNet(ModelConfig(("a", "b"), layers=(BASE,), readout="mean"), 5).double().train()
    x, lengths = torch.randn(2, 12, 5, dtype=torch.float64), torch.tensor([12, 5])
    other = x.clone()
    other[1, 5:] = 100.0
    torch.testing.assert_close(net(x, lengths=lengths), net(other, lengths=lengths), **TOLERANCE)


def test_padding_takes_no_part_in_a_convolutions_statistics() -> None:
    torch.manual_seed(2)
    front = (ConvConfig(channels=3, stride_time=2, stride_mel=2), ConvConfig(channels=4, stride_time=2))
    net = PDMUNet(ModelConfig(("a", "b"), conv=front, layers=(BASE,), readout="mean"), 5).double().train()
    x = torch.randn(2, 24, 5, dtype=torch.float64)
    short = net(x[:, :20], lengths=torch.tensor([20, 8]))
    torch.testing.assert_close(net(x, lengths=torch.tensor([20, 8])), short, **TOLERANCE)


@pytest.mark.parametrize("name", ["softmax", "top1", "straight_through", "per channel", "gate of x and m"])
def test_the_last_step_has_the_gradients_of_the_whole_run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    layer = _layer(SWITCHES[name]).train()
    layer.norm.eval()  # statistics of every step and of the last alone differ
    monkeypatch.setattr(Gumbel, "forward", lambda self, logits: torch.zeros_like(logits))  # it is drawn for other steps in each
    x = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    named = [(n, p) for n, p in layer.named_parameters() if p.requires_grad]
    whole, last = layer(x, layer.init_state(3, x))[0][:, -1], layer.last(x, layer.init_state(3, x))
    grads = [torch.autograd.grad(y.square().sum(), [p for _, p in named]) for y in (whole, last)]
    for (label, _), one, other in zip(named, *grads, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE, msg=lambda m, label=label: f"{label}: {m}")


def test_the_last_readout_needs_no_other_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states of all steps are never formed where the last one alone is read."""
    net = PDMUNet(ModelConfig(("a", "b"), layers=(BASE,), readout="last"), 2).eval()
    x = torch.randn(2, 40, 2)
    expected = net(x, return_state=True)[0]  # the whole run
    monkeypatch.setattr(PDMULayer, "forward", lambda *a, **k: pytest.fail("ran over every step"))
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gate": "sigmoid"}, 'its gate is "sigmoid"'),
        ({"cell": "spiking", "write": "relu"}, "write = 'relu'"),
        ({"cell": "lstm"}, "its cell is lstm.*--family pdmu"),
        ({"gate_input": "xm", "first_tap": 0}, "gate_input = 'xm', first_tap = 0"),
    ],
)
def test_what_the_integer_law_lacks_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ModelConfig(("a",), layers=(dataclasses.replace(BASE, **changes),)).check_contract("cannot quantise")
    ModelConfig(("a",), layers=(BASE,)).check_contract("cannot quantise")
