"""Every parallel form gives the sequential law's spikes and potentials in every bit, and its gradients; snntorch's on a long sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from spiking import kernels, parallel  # noqa: E402
from spiking.lif import LIFState, Reset, lif_sequential  # noqa: E402
from spiking.parallel import LIF_ENGINES, able_engines, lif_fixed_point, lif_parallel, lif_pointer  # noqa: E402
from spiking.surrogate import reverse_scan_  # noqa: E402

FORMS = [
    (name, reset)
    for reset in ("subtract", "zero")
    for name in LIF_ENGINES
    if name != "sequential" and (name, reset) != ("pointer", "subtract")
]


def _skip_unless_able(name: str, current: Any, reset: Reset) -> None:
    if name not in able_engines(current, reset):
        pytest.skip("numba is not installed" if not kernels.usable(current) else f"{name} does not run here")


def _currents(batch: int, steps: int, hidden: int, seed: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(batch, steps, hidden, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.5 + 0.1


def _run(form: Callable[..., Any], current: Any, beta: Any, v0: Any, threshold: Any, reset: Reset) -> tuple[Any, Any, list[Any]]:
    """Return spikes, last potential and the gradients of all that goes in."""
    wanted = [t.clone().requires_grad_() for t in (current, beta, v0, threshold)]
    spikes, end = form(wanted[0], wanted[1], LIFState(wanted[2]), wanted[3], reset)
    g = torch.Generator().manual_seed(9)
    loss = (spikes * torch.randn(spikes.shape, generator=g, dtype=spikes.dtype)).sum() + (end.v * end.v.detach().cos()).sum()
    return spikes.detach(), end.v.detach(), list(torch.autograd.grad(loss, wanted))


def _assert_same(ours: tuple[Any, Any, list[Any]], law: tuple[Any, Any, list[Any]]) -> None:
    assert torch.equal(ours[0], law[0]) and torch.equal(ours[1], law[1])
    exact = ours[0].dtype == torch.float64
    for a, b in zip(ours[2], law[2], strict=True):
        # sums over all steps of a batch, in another order; the scale is that of the largest sum
        torch.testing.assert_close(a, b, rtol=1e-10 if exact else 1e-4, atol=float(b.abs().max()) * (1e-12 if exact else 5e-6))


@pytest.mark.parametrize(("name", "reset"), FORMS)
@pytest.mark.parametrize("steps", [1, 2, 37, 500])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99, 1.0, None])  # None: one per neuron
def test_spikes_potentials_and_gradients_equal_the_law(name: str, reset: Reset, steps: int, beta: float | None) -> None:
    current = _currents(3, steps, 7, seed=steps)
    _skip_unless_able(name, current, reset)
    g = torch.Generator().manual_seed(5)
    v0, decay = torch.randn(3, 7, generator=g) * 2, torch.rand(7, generator=g) if beta is None else torch.tensor(beta)
    for threshold in (torch.tensor(1.0), torch.rand(7, generator=g) + 0.2):
        law = _run(lif_sequential, current, decay, v0, threshold, reset)
        _assert_same(_run(LIF_ENGINES[name], current, decay, v0, threshold, reset), law)
    assert steps < 37 or 0 < law[0].mean() < 1


@pytest.mark.parametrize(("name", "reset"), [f for f in FORMS if f[0] != "fused"])
def test_any_chunks_and_blocks_give_the_law_in_float64_too(name: str, reset: Reset) -> None:
    current, beta, v0 = _currents(2, 203, 5, seed=1, dtype=torch.float64), torch.rand(5, dtype=torch.float64), torch.zeros(2, 5).double()
    law = _run(lif_sequential, current, beta, v0, torch.tensor(0.8).double(), reset)
    form: Any = LIF_ENGINES[name]
    for chunk, block in ((1, 203), (1, 10), (2, 64), (3, 50), (16, 16), (64, 4096), (203, 203), (500, 1)):
        ours = _run(lambda *a, c=chunk, b=block: form(*a, chunk=c, block=b), current, beta, v0, torch.tensor(0.8).double(), reset)
        _assert_same(ours, law)


@pytest.mark.parametrize(("name", "reset"), FORMS)
def test_ties_at_the_threshold_do_not_fire(name: str, reset: Reset) -> None:
    """Currents and decay of few bits: potentials meet the threshold exactly, again and again."""
    current = torch.randint(-2, 5, (4, 400, 6), generator=torch.Generator().manual_seed(2)) / 4
    _skip_unless_able(name, current, reset)
    law, _ = lif_sequential(current, torch.tensor(0.5), None, 1.0, reset)
    assert torch.equal(LIF_ENGINES[name](current, torch.tensor(0.5), None, 1.0, reset)[0], law)


@pytest.mark.parametrize(("name", "reset"), FORMS)
def test_a_sequence_cut_anywhere_goes_on_where_it_was(name: str, reset: Reset) -> None:
    current, beta = _currents(2, 300, 4, seed=4), torch.tensor(0.95)
    _skip_unless_able(name, current, reset)
    form = LIF_ENGINES[name]
    whole, end = form(current, beta, None, 1.0, reset)
    state, parts = None, []
    for part in current.split([1, 130, 7, 99, 63], 1):
        spikes, state = form(part, beta, state, 1.0, reset)
        parts.append(spikes)
    assert state is not None and torch.equal(torch.cat(parts, 1), whole) and torch.equal(state.v, end.v)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_long_sequence_equals_snntorch_in_float32(reset: Reset) -> None:
    snntorch = pytest.importorskip("snntorch")
    steps, beta0 = 16_000, torch.tensor([0.3, 0.9, 0.97, 0.999])
    current = _currents(2, steps, 4, seed=7)
    theirs = current.clone().requires_grad_()
    neuron = snntorch.Leaky(beta=beta0.clone(), learn_beta=True, reset_mechanism=reset)
    mem, out = torch.zeros(2, 4), []
    for given in theirs.unbind(1):
        s, mem = neuron(given, mem)
        out.append(s)
    reference = torch.stack(out, 1)
    weight = torch.randn(reference.shape, generator=torch.Generator().manual_seed(8))
    (reference * weight).sum().backward()
    for name in able_engines(current, reset):
        if name == "sequential":
            continue
        ours, beta = current.clone().requires_grad_(), beta0.clone().requires_grad_()
        spikes, end = LIF_ENGINES[name](ours, beta, None, 1.0, reset)
        (spikes * weight).sum().backward()
        assert torch.equal(spikes, reference) and torch.equal(end.v, mem), name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)  # float32 sums of up to 1000 terms
        torch.testing.assert_close(beta.grad, neuron.beta.grad, rtol=1e-3, atol=1e-3 * float(neuron.beta.grad.abs().max()))


def test_memory_is_bounded_by_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    settle, seen = parallel._settle, []
    monkeypatch.setattr(parallel, "_settle", lambda current, *rest: seen.append(current.shape) or settle(current, *rest))
    lif_fixed_point(_currents(1, 1000, 2, seed=3), torch.tensor(0.9), block=128)
    assert len(seen) == 8 and all(n * chunk <= 128 for _, n, chunk, _ in seen)


def test_a_value_that_is_no_number_spoils_its_own_neuron_alone() -> None:
    current = _currents(1, 200, 3, seed=6)
    law, _ = lif_sequential(current, torch.tensor(0.9))
    current[0, 20, 1] = float("nan")
    spikes, _ = lif_fixed_point(current, torch.tensor(0.9))
    assert torch.equal(spikes[..., [0, 2]], law[..., [0, 2]])


@pytest.mark.parametrize("steps", [1, 2, 50, 333])
def test_the_reverse_scan_is_its_recurrence(steps: int) -> None:
    g = torch.Generator().manual_seed(steps)
    factor, direct = torch.rand(2, steps, 3, generator=g).double(), torch.randn(2, steps, 3, generator=g).double()
    end = torch.randn(2, 3, generator=g).double()
    for f in (factor, factor[0, 0]):
        x, expected = end, []
        for k in reversed(range(steps)):
            x = direct[:, k] + (f[:, k] if f.ndim == 3 else f) * x
            expected.append(x)
        # float64 sums in another order
        torch.testing.assert_close(reverse_scan_(f, direct.clone(), end), torch.stack(expected[::-1], 1), rtol=1e-12, atol=1e-12)


def test_pointers_need_a_reset_that_forgets() -> None:
    with pytest.raises(ValueError, match="lif_fixed_point takes any reset"):
        lif_pointer(torch.zeros(1, 3, 1), torch.tensor(0.5), None, 1.0, "subtract")


def test_the_measured_table_chooses_among_what_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(parallel, "fastest", lambda *a: asked.append(a) or "fixed-point")
    for dtype, reset in ((torch.float32, "zero"), (torch.float64, "subtract")):
        current = _currents(1, 20, 3, seed=0, dtype=dtype)
        assert torch.equal(
            lif_parallel(current, torch.tensor(0.9), reset=reset)[0], lif_sequential(current, torch.tensor(0.9), reset=reset)[0]
        )
    assert [a[0] for a in asked] == ["lif-zero", "lif-subtract"] and asked[0][3] == (("T", 20), ("H", 3))
    assert ("fused" in asked[0][2]) == kernels.usable(torch.zeros(1))
    assert asked[1][2] == ("fixed-point", "sequential")
