"""The parallel form equals the step: outputs, final state, gradients, odd lengths, non-zero initial state, any cut."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pdmu.config import ConvConfig, FrontendConfig, ModelConfig, PDMUConfig  # noqa: E402
from pdmu.nn.layer import LayerState, PDMULayer  # noqa: E402
from pdmu.nn.model import PDMUNet  # noqa: E402
from pdmu.nn.scan import memory_chunked, memory_sequential  # noqa: E402

F64_TOLERANCE = dict(rtol=1e-9, atol=1e-11)  # float64 sums of up to a few hundred terms in another order


def _layer_state(layer: PDMULayer, batch: int, generator: torch.Generator) -> LayerState:
    zero = layer.init_state(batch, torch.zeros(1, dtype=torch.float64))
    return LayerState(*(type(v)(*(torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in v)) if isinstance(v, tuple)
                        else torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in zero))  # fmt: skip


def _flat(state: object) -> list[torch.Tensor]:
    return [state] if isinstance(state, torch.Tensor) else [t for part in state for t in _flat(part)]  # type: ignore[attr-defined]


def _trained_statistics(net: torch.nn.Module) -> None:
    """Give every normalisation statistics that are not the identity."""
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.running_mean, -1, 1)
            torch.nn.init.uniform_(m.running_var, 0.5, 2)
            torch.nn.init.uniform_(m.weight, 0.5, 2)
            torch.nn.init.uniform_(m.bias, -1, 1)


@pytest.mark.parametrize("steps", [1, 7, 32, 33, 97])
@pytest.mark.parametrize("chunk", [1, 8, 32])
def test_chunked_memory_equals_the_sequential_reference(steps: int, chunk: int) -> None:
    g = torch.Generator().manual_seed(steps * 100 + chunk)
    u = torch.randn(3, steps, 4, generator=g, dtype=torch.float64, requires_grad=True)
    m0 = torch.randn(3, 4, 6, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, steps, 4, 6, generator=g, dtype=torch.float64)
    results = []
    for form in (memory_sequential, lambda *a: memory_chunked(*a, chunk=chunk)):
        m = form(6, 20.0, u, m0)
        results.append((m, *torch.autograd.grad((m * weight).sum(), (u, m0))))
    for reference, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, reference, **F64_TOLERANCE)


@pytest.mark.parametrize("gate", ["softmax", "uniform", "off"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("steps", [1, 5, 41])
def test_layer_over_a_sequence_equals_its_step(gate: str, residual: bool, steps: int) -> None:
    torch.manual_seed(steps)
    g = torch.Generator().manual_seed(steps)
    layer = PDMULayer(PDMUConfig(hidden=9, channels=3, order=5, theta=12, taps=4, dilation=3, gate=gate, residual=residual), 9).double()
    _trained_statistics(layer)
    layer.eval()
    x = torch.randn(2, steps, 9, generator=g, dtype=torch.float64, requires_grad=True)
    start, weight = _layer_state(layer, 2, g), torch.randn(2, steps, 9, generator=g, dtype=torch.float64)
    parameters = [x, *(p for p in layer.parameters() if p.requires_grad)]
    h, end = layer(x, start)
    grads = torch.autograd.grad((h * weight).sum(), parameters, allow_unused=True)
    state, stepped = start, []
    for k in range(steps):
        y, state = layer.step(x[:, k], state)
        stepped.append(y)
    reference = torch.stack(stepped, 1)
    reference_grads = torch.autograd.grad((reference * weight).sum(), parameters, allow_unused=True)
    torch.testing.assert_close(h, reference, **F64_TOLERANCE)
    for a, b in zip(_flat(end), _flat(state), strict=True):
        torch.testing.assert_close(a, b, **F64_TOLERANCE)
    for a, b in zip(grads, reference_grads, strict=True):
        zero = torch.zeros(())  # one form may not touch a gate whose taps all lie before time 0
        torch.testing.assert_close(
            *torch.broadcast_tensors(zero if a is None else a, (zero if b is None else b).to(h)), check_dtype=False, **F64_TOLERANCE
        )


def _net(**changes: object) -> PDMUNet:
    model = ModelConfig(
        labels=("a", "b"),
        conv=(ConvConfig(4, 3, 5, 1, 2), ConvConfig(4, 3, 3, 2, 2, depthwise=True), ConvConfig(6, 1, 1)),
        layers=(
            PDMUConfig(8, channels=3, order=4, theta=9, taps=3, dilation=2),
            PDMUConfig(8, channels=2, order=3, theta=5, taps=2, residual=True),
        ),
    )
    torch.manual_seed(0)
    net = PDMUNet(model, FrontendConfig(n_mels=21, **changes)).double()
    _trained_statistics(net)
    return net.eval()


def test_network_stepped_and_cut_anyhow_equals_the_whole_sequence() -> None:
    net = _net()
    x = torch.randn(2, 46, 21, dtype=torch.float64)
    whole, end = net(x, return_state=True)
    rng = np.random.default_rng(0)
    state, parts, at = net.init_state(2, x), [], 0
    while at < 46:
        n = 2 * int(rng.integers(1, 6))
        y, state = net(x[:, at : at + n], state, return_state=True)
        parts.append(y)
        at += n
    torch.testing.assert_close(torch.cat(parts, 1), whole, **F64_TOLERANCE)
    stepped, state = [], net.init_state(2, x)
    for k in range(0, 46, 2):
        y, state = net.step(x[:, k : k + 2], state)
        stepped.append(y)
    torch.testing.assert_close(torch.stack(stepped, 1), whole, **F64_TOLERANCE)
    for a, b in zip(_flat(state), _flat(end), strict=True):
        torch.testing.assert_close(a, b, **F64_TOLERANCE)


def test_the_future_does_not_leak_into_the_past() -> None:
    net = _net()
    x = torch.randn(1, 40, 21, dtype=torch.float64)
    y = x.clone()
    y[:, 20:] += 1.0
    before, after = net(x)[:, :10], net(y)[:, :10]
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert not torch.equal(net(x)[:, 10:], net(y)[:, 10:])


def test_gate_off_is_the_plain_lmu() -> None:
    """Without taps the layer must be relu(norm(W_m m + W_x x + b)) with m from the LMU recursion alone."""
    torch.manual_seed(1)
    layer = PDMULayer(PDMUConfig(hidden=5, channels=2, order=4, theta=10, gate="off"), 3).double().eval()
    x = torch.randn(1, 30, 3, dtype=torch.float64)
    m = memory_sequential(4, 10.0, layer.to_memory(x), torch.zeros(1, 2, 4, dtype=torch.float64))
    expected = torch.relu(layer.norm((layer.from_memory(m.flatten(2)) + layer.from_input(x))[0]))
    torch.testing.assert_close(layer(x, layer.init_state(1, x))[0][0], expected, **F64_TOLERANCE)
