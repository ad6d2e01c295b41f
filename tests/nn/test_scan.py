"""The memory's parallel forms against the reference that steps, and the delay gate's compiled kernels against torch's own operations."""

import pytest

torch = pytest.importorskip("torch")

from pdmu.nn import kernels  # noqa: E402
from pdmu.nn.delay_gate import delay_init, delay_sequence, route_init, route_sequence  # noqa: E402
from pdmu.nn.engines import fastest  # noqa: E402
from pdmu.nn.scan import (  # noqa: E402
    PROJECTED_ENGINES,
    STATE_ENGINES,
    memory_at,
    memory_parallel,
    memory_projected,
    memory_sequential,
)


def inputs(steps, order, channels=2, dtype=torch.float64, batch=3):
    torch.manual_seed(steps)
    u = torch.randn(batch, steps, channels, dtype=dtype, requires_grad=True)
    return u, torch.randn(batch, channels, order, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("engine", [name for name in STATE_ENGINES if name != "sequential"])
@pytest.mark.parametrize("steps", [1, 5, 32, 77])
def test_every_engine_gives_the_states_and_gradients_of_stepping(engine, steps):
    u, state = inputs(steps, 6)
    weight = torch.randn(3, steps, 2, 6, dtype=torch.float64)
    expected = memory_sequential(6, 20.0, u, state)
    wanted = torch.autograd.grad((expected * weight).sum(), (u, state))
    got = STATE_ENGINES[engine](6, 20.0, u, state)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad((got * weight).sum(), (u, state)), wanted)


@pytest.mark.parametrize("engine", PROJECTED_ENGINES)
@pytest.mark.parametrize("steps", [1, 5, 32, 77])
def test_projections_are_those_of_the_states(engine, steps):
    u, state = inputs(steps, 6)
    w = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    m = memory_sequential(6, 20.0, u, state)
    p, end = PROJECTED_ENGINES[engine](6, 20.0, u, state, w)
    torch.testing.assert_close(p, m.flatten(2) @ w.T)
    torch.testing.assert_close(end, m[:, -1])
    mark, final = torch.randn_like(p), torch.randn_like(end)
    wanted = torch.autograd.grad((m.flatten(2) @ w.T * mark).sum() + (m[:, -1] * final).sum(), (u, state, w))
    torch.testing.assert_close(torch.autograd.grad((p * mark).sum() + (end * final).sum(), (u, state, w)), wanted)


@pytest.mark.parametrize("steps", [(40,), (0,), (40, 39, 37), (40, 3), (12, 12)])
def test_states_at_named_steps(steps):
    u, state = inputs(41, 6)
    expected = memory_sequential(6, 20.0, u, state)[:, list(steps)]
    got = memory_at(6, 20.0, u, state, steps)
    torch.testing.assert_close(got, expected)
    wanted = torch.autograd.grad(expected.square().sum(), (u, state))
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), (u, state)), wanted)


@pytest.mark.parametrize("engine", [name for name in STATE_ENGINES if name != "sequential"])
def test_float32_holds_over_sixteen_thousand_steps(engine):
    u, state = inputs(16000, 16, 1, torch.float32, 1)
    with torch.no_grad():
        exact = memory_sequential(16, 4000.0, u.double(), state.double())
        got = STATE_ENGINES[engine](16, 4000.0, u, state)
        assert (got - exact).abs().max() < 1e-4 * exact.abs().max()


def test_projections_in_float32_hold_over_sixteen_thousand_steps():
    u, state = inputs(16000, 16, 1, torch.float32, 1)
    w = torch.randn(8, 16)
    with torch.no_grad():
        exact = memory_sequential(16, 4000.0, u.double(), state.double()).flatten(2) @ w.double().T
        got, _ = memory_projected(16, 4000.0, u, state, w)
        assert (got - exact).abs().max() < 1e-4 * exact.abs().max()


def test_the_chosen_engine_is_the_fastest_measured_nearby(tmp_path):
    table = tmp_path / "engines.json"
    rows = [{"what": "states", "device": "cpu", "T": 100, "d": 8, "ms": {"a": 3.0, "b": 2.0, "c": 1.0}}]
    rows.append({"what": "states", "device": "cpu", "T": 10000, "d": 8, "ms": {"a": 1.0, "b": 2.0}})
    table.write_text(__import__("json").dumps({"rows": rows}))
    assert fastest("states", "cpu", ("a", "b"), (("T", 150), ("d", 16)), table) == "b"  # c cannot run here
    assert fastest("states", "cpu", ("b", "a"), (("T", 5000), ("d", 8)), table) == "a"
    assert fastest("states", "cuda", ("b", "a"), (("T", 5000), ("d", 8)), table) == "b"  # nothing was measured there


def test_the_package_carries_a_measured_table():
    sizes = (("T", 784), ("d", 64), ("q", 1))
    u, state = inputs(50, 6)
    assert fastest("states", "cpu", tuple(STATE_ENGINES), sizes) in STATE_ENGINES
    torch.testing.assert_close(memory_parallel(6, 20.0, u, state), memory_sequential(6, 20.0, u, state))


def both_ways(monkeypatch, run, *values):
    """Output, state and gradients with the compiled kernels and without."""
    results = []
    for available in (True, False):
        monkeypatch.setattr(kernels, "AVAILABLE", available)
        state, z = run()
        mark = torch.linspace(-1, 1, z.numel()).view_as(z)
        results.append((z, *state, *torch.autograd.grad((z * mark).sum() + state[0].square().sum(), values)))
    return results


@pytest.mark.skipif(not kernels.AVAILABLE, reason="numba is not installed")
@pytest.mark.parametrize(("taps", "dilation", "first"), [(1, 1, 1), (4, 1, 0), (3, 5, 1), (8, 9, 1)])
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_kernels_gather_and_route_as_torch_does(monkeypatch, taps, dilation, first, threads):
    torch.manual_seed(taps)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    p = torch.randn(3, 50, 7, requires_grad=True)
    g = torch.rand(3, 50, taps, requires_grad=True)
    line = delay_init(3, taps, dilation, first, (7,), (), p)
    line = type(line)(*(torch.randn_like(v) for v in line))
    arriving = route_init(3, taps, dilation, first, (7,), p)
    arriving = type(arriving)(*(torch.randn_like(v) for v in arriving))
    choice, weight = torch.randint(0, taps, (3, 50)), g[:, :, 0]
    try:
        for run in (
            lambda: delay_sequence(line, p, g, dilation, first),
            lambda: route_sequence(arriving, p, choice, weight, dilation, first),
        ):
            for ours, theirs in zip(*both_ways(monkeypatch, run, p, g), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)
