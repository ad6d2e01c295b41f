"""The sequential neuron gives snntorch's spikes, potentials and gradients, step by step."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
snntorch = pytest.importorskip("snntorch")

from spiking.lif import LIFState, Reset, lif_sequential  # noqa: E402


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_spikes_potentials_and_gradients_equal_snntorch(reset: Reset, threshold: float) -> None:
    g = torch.Generator().manual_seed(3)
    current = torch.randn(3, 200, 5, generator=g, dtype=torch.float64) * 0.6 + 0.2
    beta0, v0 = torch.rand(5, generator=g, dtype=torch.float64), torch.randn(3, 5, generator=g, dtype=torch.float64)
    weight = torch.randn(3, 200, 5, generator=g, dtype=torch.float64)

    ours_in, ours_beta = current.clone().requires_grad_(), beta0.clone().requires_grad_()
    spikes, end = lif_sequential(ours_in, ours_beta, LIFState(v0), threshold, reset)
    (spikes * weight).sum().backward()

    theirs_in = current.clone().requires_grad_()
    neuron = snntorch.Leaky(beta=beta0.clone(), threshold=threshold, learn_beta=True, reset_mechanism=reset).double()
    mem, out = v0, []
    for k in range(current.shape[1]):
        s, mem = neuron(theirs_in[:, k], mem)
        out.append(s)
    reference = torch.stack(out, 1)
    (reference * weight).sum().backward()

    assert 50 < int(reference.sum()) < 2900  # it fires, and not always
    assert torch.equal(spikes, reference.to(spikes.dtype))
    torch.testing.assert_close(end.v, mem, rtol=1e-12, atol=1e-12)  # the same float64 operations, in another order at most
    # snntorch's spikes are float32 whatever goes in, so its gradients pass through 24 bits
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours_beta.grad, neuron.beta.grad, rtol=1e-5, atol=1e-4)


def test_a_sequence_cut_in_two_goes_on_where_it_was() -> None:
    g = torch.Generator().manual_seed(1)
    current, beta = torch.rand(2, 90, 4, generator=g), torch.tensor(0.9)
    whole, end = lif_sequential(current, beta)
    first, middle = lif_sequential(current[:, :37], beta)
    second, last = lif_sequential(current[:, 37:], beta, middle)
    assert torch.equal(torch.cat([first, second], 1), whole) and torch.equal(last.v, end.v)
