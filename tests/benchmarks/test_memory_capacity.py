"""Memory capacity where it is known: a delay line of L steps has L, d Legendre states have d."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.memory_capacity import build_parser, capacity_curve, family_model, measure, white_noise
from benchmarks.rows import parameter_count
from pdmu.nn.scan import memory_parallel


def test_a_delay_line_holds_its_length_and_nothing_beyond() -> None:
    u = white_noise((4000,), 1).numpy()
    line = np.stack([np.concatenate([np.zeros(delay), u[: len(u) - delay]]) for delay in range(1, 8)], 1)
    curve = capacity_curve(line, u, range(1, 21), 50, 2000)
    np.testing.assert_allclose(curve[:7], 1, atol=1e-6)  # the ridge penalty takes a millionth
    assert curve[7:].max() < 0.01  # of 7 outputs fitted to 2000 steps of unrelated noise


def test_legendre_states_hold_as_many_numbers_as_they_have() -> None:
    order, theta = 6, 12.0
    u = white_noise((12_000,), 2).double()
    with torch.no_grad():
        m = memory_parallel(order, theta, u[None, :, None], torch.zeros(1, 1, order, dtype=torch.float64))
    total = capacity_curve(m[0, :, 0].numpy(), u.numpy(), range(0, 120), 200, 8000).sum()
    assert total == pytest.approx(order, abs=0.15)  # linear states of full rank: exactly d (Jaeger 2001); noise of 120 fits on 8000 steps


def test_constant_outputs_hold_nothing() -> None:
    u = white_noise((1000,), 3).numpy()
    mixed = np.stack([np.ones_like(u), np.roll(u, 1)], 1)
    assert capacity_curve(mixed, u, [1, 2], 10, 500) == pytest.approx([1, 0], abs=0.02)


def test_a_delay_before_the_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="wash_out"):
        capacity_curve(np.zeros((100, 1)), np.zeros(100), [11], 10, 50)


def test_families_are_matched_and_measured_repeatably() -> None:
    options = build_parser().parse_args(["--hidden", "12", "--order", "6", "--theta", "12", "--taps", "3", "--dilation", "4"])
    target = parameter_count(family_model("pdmu", options), 1)
    for family in ("lstm", "lmu", "sdmu"):
        assert parameter_count(family_model(family, options), 1) <= target
    model = family_model("lmu", options)
    curve = measure(model, 40, 0, seed=1)
    np.testing.assert_array_equal(curve, measure(model, 40, 0, seed=1))
    assert curve.shape == (40,) and 0 < curve.sum() < model.layers[0].hidden
