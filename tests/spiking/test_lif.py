"""The sequential neuron gives snntorch's spikes, potentials and gradients, step by step."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
snntorch = pytest.importorskip("snntorch")

from spiking.lif import LIFState, Reset, lif_sequential  # noqa: E402


def _snntorch(current: Any, v0: Any, reset: Reset, **neuron: Any) -> tuple[Any, Any, Any]:
    leaky = snntorch.Leaky(reset_mechanism=reset, **neuron).to(current.dtype)
    mem, out, potentials = v0, [], []
    for k in range(current.shape[1]):
        s, mem = leaky(current[:, k], mem)
        out.append(s)
        potentials.append(mem)
    return torch.stack(out, 1), torch.stack(potentials, 1), leaky


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("threshold", [1.0, 0.5])
@pytest.mark.parametrize("learn_threshold", [False, True])
def test_spikes_potentials_and_gradients_equal_snntorch(reset: Reset, threshold: float, learn_threshold: bool) -> None:
    g = torch.Generator().manual_seed(3)
    current = torch.randn(3, 200, 5, generator=g) * 0.6 + 0.2
    beta0, v0 = torch.rand(5, generator=g), torch.randn(3, 5, generator=g)
    weight = torch.randn(3, 200, 5, generator=g)

    ours, theirs = current.clone().requires_grad_(), current.clone().requires_grad_()
    beta, limit = beta0.clone().requires_grad_(), torch.tensor(threshold).requires_grad_(learn_threshold)
    spikes, end = lif_sequential(ours, beta, LIFState(v0), limit, reset)
    ((spikes * weight).sum() + end.v.sum()).backward()

    reference, mem, neuron = _snntorch(
        theirs, v0, reset, beta=beta0.clone(), threshold=threshold, learn_beta=True, learn_threshold=learn_threshold
    )
    ((reference * weight).sum() + mem[:, -1].sum()).backward()

    assert 50 < int(reference.sum()) < 2900  # it fires, and not always
    assert torch.equal(spikes, reference) and torch.equal(end.v, mem[:, -1])  # the same operations in the same order
    tolerance = dict(rtol=1e-5, atol=1e-4)  # float32 sums over 3000 steps in another order
    torch.testing.assert_close(ours.grad, theirs.grad, **tolerance)
    torch.testing.assert_close(beta.grad, neuron.beta.grad, **tolerance)
    if learn_threshold:
        torch.testing.assert_close(limit.grad, neuron.threshold.grad, rtol=1e-4, atol=1e-3)  # one sum over all 3000


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_potential_at_the_threshold_does_not_fire(reset: Reset) -> None:
    spikes, end = lif_sequential(torch.tensor([[[1.0], [0.75], [0.0]]]), torch.tensor(0.5), None, 1.0, reset)
    assert spikes.flatten().tolist() == [0.0, 1.0, 0.0]
    assert end.v.item() == (0.0 if reset == "zero" else 0.5 * 1.25 - 1)


def test_a_sequence_cut_in_two_goes_on_where_it_was() -> None:
    g = torch.Generator().manual_seed(1)
    current, beta = torch.rand(2, 90, 4, generator=g), torch.tensor(0.9)
    whole, end = lif_sequential(current, beta)
    first, middle = lif_sequential(current[:, :37], beta)
    second, last = lif_sequential(current[:, 37:], beta, middle)
    assert torch.equal(torch.cat([first, second], 1), whole) and torch.equal(last.v, end.v)
