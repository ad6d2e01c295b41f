"""Networks whose neurons are snntorch's give our spikes, and what was trained there comes back."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
snntorch = pytest.importorskip("snntorch")

from pdmu.config import LIFConfig, ModelConfig, PDMUConfig  # noqa: E402
from pdmu.errors import UserError  # noqa: E402
from pdmu.nn.model import PDMUNet  # noqa: E402
from spiking.snn import from_snntorch, to_snntorch  # noqa: E402

BASE = PDMUConfig(
    hidden=12, channels=3, order=5, theta=12, taps=4, dilation=2, cell="spiking",
    lif=LIFConfig(beta=0.8, threshold=0.3, reset="subtract"),
)  # fmt: skip
STEPS = 120


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps of such size are many times slower where a thread waits for a core that others use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _net(dtype: Any = torch.float32, **changes: Any) -> PDMUNet:
    """Two layers with neurons that all differ, and normalisation that does something."""
    torch.manual_seed(5)
    layer = dataclasses.replace(BASE, **changes)
    net = PDMUNet(ModelConfig(("a", "b", "c"), layers=(layer, layer)), 6).to(dtype).eval()
    for name, value in itertools.chain(net.named_parameters(), net.named_buffers()):
        if name.endswith(("beta", "threshold")):
            torch.nn.init.uniform_(value, 0.1, 1.0)
        elif name.endswith(("norm.weight", "running_var")):
            torch.nn.init.uniform_(value, 0.5, 1.5)
        elif name.endswith(("norm.bias", "running_mean")):
            torch.nn.init.uniform_(value, -0.3, 0.3)
    return net


def _input(dtype: Any = torch.float32, steps: int = STEPS) -> Any:
    return torch.randn(4, steps, 6, generator=torch.Generator().manual_seed(2), dtype=dtype) * 3


def _record(net: PDMUNet, x: Any) -> tuple[Any, Any]:
    """Potentials of all neurons, and logits, step by step."""
    potentials, logits, state = [], [], net.init_state(len(x), x)
    with torch.no_grad():
        for k in range(x.shape[1]):
            y, state = net.step(x[:, k : k + 1], state)
            logits.append(y)
            potentials.append(torch.cat([n.v for layer in state.layers for n in layer.neurons], 1))
    return torch.stack(potentials, 1), torch.stack(logits, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("spikes", ["hidden", "all"])
def test_potentials_and_logits_are_the_same_in_every_bit(spikes: str, reset: Any, dtype: Any) -> None:
    net = _net(dtype, spikes=spikes, lif=dataclasses.replace(BASE.lif, reset=reset))
    theirs, x = to_snntorch(net), _input(dtype)
    potentials, logits = _record(net, x)
    assert 0.02 < (potentials > 0.55).float().mean() < 0.9  # half of the thresholds: it fires, and not always
    other, other_logits = _record(theirs, x)
    assert torch.equal(potentials, other) and torch.equal(logits, other_logits)


@pytest.mark.parametrize("gate", ["softmax", "top1", "straight_through", "uniform", "off"])
def test_whole_sequences_give_the_same_spikes_for_every_gate(gate: str) -> None:
    net = _net(torch.float64, gate=gate)
    x = _input(torch.float64)
    with torch.no_grad():
        assert torch.equal(net(x), to_snntorch(net)(x))  # linear in spikes that are equal


def test_all_neurons_are_snntorch_s_and_keep_what_is_trained() -> None:
    net = _net(spikes="all", lif=dataclasses.replace(BASE.lif, learn_beta=False, learn_threshold=True, reset="zero"))
    theirs = to_snntorch(net)
    found = [m for m in theirs.modules() if isinstance(m, snntorch.Leaky)]
    assert len(found) == 6 and all(m.reset_mechanism == "zero" and m.reset_delay for m in found)
    assert all(isinstance(m.threshold, torch.nn.Parameter) and not isinstance(m.beta, torch.nn.Parameter) for m in found)
    trained = {n for n, _ in theirs.named_parameters()}
    assert {n.replace(".leaky", "") for n in trained} == {n for n, _ in net.named_parameters()}


def test_gradients_are_ours() -> None:
    net, x = _net(torch.float64, lif=dataclasses.replace(BASE.lif, learn_threshold=True)), _input(torch.float64, 40)
    theirs = to_snntorch(net)
    for one in (net, theirs):
        one(x).square().sum().backward()
    other = {n.replace(".leaky", ""): p.grad for n, p in theirs.named_parameters()}
    for name, p in net.named_parameters():
        if not p.requires_grad:
            continue
        assert p.grad is not None
        # snntorch's spikes, and so the gradients that come back through them, are float32
        torch.testing.assert_close(p.grad, other[name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_trained_in_a_loop_of_snntorch_it_comes_back_with_its_spikes() -> None:
    net, x = _net(), _input(steps=30)
    theirs = to_snntorch(net, snntorch.surrogate.fast_sigmoid(slope=10)).train()
    before = copy.deepcopy(theirs.state_dict())
    optimiser = torch.optim.Adam(theirs.parameters(), lr=0.05)
    for _ in range(3):
        state, loss = theirs.init_state(4, x), torch.zeros(())
        for k in range(30):
            logits, state = theirs.step(x[:, k : k + 1], state)
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    moved = [n for n, v in theirs.state_dict().items() if not torch.equal(v, before[n])]
    assert "layers.0.output_neurons.leaky.beta" in moved and "layers.1.from_memory.weight" in moved
    copy.deepcopy(theirs)  # nothing of the last pass is left in the neurons
    back = from_snntorch(theirs.eval())
    assert not back.training and isinstance(back, PDMUNet)
    for a, b in zip(_record(back, x), _record(theirs, x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spikes", ["hidden", "all"])
def test_there_and_back_every_weight_is_the_same(spikes: str, dtype: Any) -> None:
    net = _net(dtype, spikes=spikes)
    back = from_snntorch(to_snntorch(net))
    assert back.config == net.config and back.frontend == net.frontend
    assert list(back.state_dict()) == list(net.state_dict())
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(back.state_dict().values(), net.state_dict().values(), strict=True))


def test_a_row_of_neurons_with_one_decay_is_spread_over_it() -> None:
    theirs, x = to_snntorch(_net(lif=LIFConfig(reset="zero"))), _input(steps=50)
    theirs.layers[1].output_neurons.leaky = snntorch.Leaky(beta=0.6, threshold=0.4, reset_mechanism="zero", reset_delay=False)  # type: ignore[union-attr]
    back = from_snntorch(theirs)
    assert torch.equal(back.layers[1].output_neurons.beta, torch.full((12,), 0.6))  # type: ignore[union-attr]
    # to zero it is the same whether at once or a step later, except for the potential that is left standing in between
    assert torch.equal(_record(back, x)[1], _record(theirs, x)[1])


def test_the_original_stays_as_it_was() -> None:
    net = _net()
    theirs = to_snntorch(net)
    with torch.no_grad():
        for p in theirs.parameters():
            p.zero_()
    assert all(bool(p.any()) for n, p in net.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("cell", ["pdmu", "lstm"])
def test_a_network_without_neurons_is_refused_with_the_way_out(cell: str) -> None:
    with pytest.raises(UserError, match=rf"\({cell}\) have no spiking neurons.*model.family=sdmu"):
        to_snntorch(_net(cell=cell))


@pytest.mark.parametrize(
    ("neuron", "words"),
    [
        (lambda: snntorch.Leaky(beta=0.5, reset_mechanism="zero"), 'resets by "zero" and the configuration by "subtract"'),
        (lambda: snntorch.Leaky(beta=0.5, reset_delay=False), "reset_delay=False"),
        (lambda: snntorch.Leaky(beta=0.5, graded_spikes_factor=2.0), "graded_spikes_factor"),
        (lambda: snntorch.Leaky(beta=0.5, state_quant=lambda v: v), "state_quant"),
        (lambda: snntorch.Synaptic(alpha=0.9, beta=0.5), "is a Synaptic"),
        (lambda: snntorch.Leaky(beta=torch.rand(5)), "5 values of beta for 12 neurons"),
    ],
)
def test_neurons_that_ours_are_not_are_named(neuron: Any, words: str) -> None:
    theirs = to_snntorch(_net())
    theirs.layers[1].output_neurons.leaky = neuron()  # type: ignore[union-attr]
    with pytest.raises(UserError, match=f"layers.1.output_neurons.leaky.*{words}"):
        from_snntorch(theirs)


def test_a_configuration_that_does_not_fit_is_named() -> None:
    theirs = to_snntorch(_net())
    with pytest.raises(UserError, match="no neurons at layers.0.write_neurons.leaky"):
        from_snntorch(theirs, dataclasses.replace(theirs.config, layers=(dataclasses.replace(BASE, spikes="all"), BASE)))
    with pytest.raises(UserError, match="the weights are not those of the configuration.*from_memory.weight"):
        from_snntorch(theirs, dataclasses.replace(theirs.config, layers=(dataclasses.replace(BASE, order=6), BASE)))
    with pytest.raises(UserError, match="give the model's configuration"):
        from_snntorch(torch.nn.Linear(2, 2))
