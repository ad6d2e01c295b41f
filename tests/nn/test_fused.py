"""The compiled layer gives the outputs, gradients, statistics and state of the same layer as torch operations."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from pdmu.config import FAMILIES, PDMUConfig  # noqa: E402
from pdmu.nn import layer as module  # noqa: E402
from pdmu.nn.layer import PDMULayer  # noqa: E402

BASE = PDMUConfig(hidden=9, channels=2, order=4, theta=10, taps=3, dilation=4)
# float32 sums of hundreds of terms in another order; gradients are of order 1 to 100
TOLERANCE = dict(rtol=2e-4, atol=2e-4)


def _both(monkeypatch: pytest.MonkeyPatch, layer: PDMULayer, x: Any, through_state: bool) -> list[dict[str, Any]]:
    results = []
    for fuse in (True, False):
        one, given = copy.deepcopy(layer), x.detach().clone().requires_grad_(x.requires_grad)
        with monkeypatch.context() as patch:
            if not fuse:
                patch.setattr(module, "can_fuse", lambda *a: False)
            else:
                patch.setattr(PDMULayer, "currents", lambda *a: pytest.fail("the layer was not fused"))
            torch.manual_seed(3)  # Gumbel noise
            y, after = one(given, one.init_state(len(x), x))
        loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
        if through_state:
            loss = loss + sum(v.square().sum() for v in (after.memory, *after.delay))
        loss.backward()
        found = {"y": y, "memory": after.memory, **{f"line{i}": v for i, v in enumerate(after.delay)}}
        found |= {f"grad {n}": p.grad for n, p in one.named_parameters() if p.requires_grad}
        found |= {f"buffer {n}": b for n, b in one.named_buffers()} | ({"grad x": given.grad} if x.requires_grad else {})
        results.append(found)
    return results


@pytest.mark.parametrize("family", ["lmu", "pdmu", "pdmu-uniform", "epdmu", "epdmu-st"])
@pytest.mark.parametrize(("inputs", "first", "steps"), [(1, 1, 70), (3, 0, 301), (12, 1, 40), (2, 1, 7)])
@pytest.mark.parametrize("threads", [1, 2])
def test_fused_is_the_layer(monkeypatch: pytest.MonkeyPatch, family: str, inputs: int, first: int, steps: int, threads: int) -> None:
    torch.manual_seed(steps)
    layer = PDMULayer(dataclasses.replace(BASE, first_tap=first, **FAMILIES[family]), inputs).train()
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.norm.bias.uniform_(-1, 1)
        layer.norm.running_mean.uniform_(-1, 1)
        layer.from_input.bias.fill_(0.7)  # of a network trained with one
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.randn(4, steps, inputs).requires_grad_(inputs > 8)
        fused, plain = _both(monkeypatch, layer, x, through_state=first == 1)
    finally:
        torch.set_num_threads(before)
    assert fused.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(fused[name], value, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def test_not_a_number_stays_one() -> None:
    layer = PDMULayer(BASE, 2).train()
    with torch.no_grad():
        layer.to_memory.weight[0, 0] = float("nan")
    x = torch.randn(2, 20, 2)
    y, _ = layer(x, layer.init_state(2, x))
    assert torch.isnan(y).all()


def test_what_it_cannot_do_goes_the_other_way() -> None:
    x = torch.randn(2, 9, 9)
    for changes in ({"residual": True}, {"gate_per_channel": True}, {"gate_input": "xm"}):
        layer = PDMULayer(dataclasses.replace(BASE, **changes), 9).train()
        assert not layer.can_fuse(x, layer.init_state(2, x)), changes
    layer = PDMULayer(BASE, 9).train()
    state = layer.init_state(2, x)
    assert layer.can_fuse(x, state) and not layer.can_fuse(x.double(), state)
    assert not layer.can_fuse(x, layer(x, state)[1]), "values are on their way"
