"""The rounding law, requantisation and table look-ups against plain integer arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdmu.fixedpoint import quantize_multiplier, requant, rshift_round, sigmoid_q15, softmax_q15
from pdmu.tables import exp_table, lmu_matrices, sigmoid_table
from tests import reference


@given(st.integers(-(2**61), 2**61), st.integers(0, 62))
def test_rounding_is_half_up_and_once(v: int, s: int) -> None:
    assert int(rshift_round(v, s)) == ((Fraction(v, 2**s) + Fraction(1, 2)).__floor__() if s else v)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(1, 62))
def test_requant_saturates_exactly(acc: int, m: int, s: int) -> None:
    exact = (Fraction(acc * m, 2**s) + Fraction(1, 2)).__floor__()
    assert int(requant(acc, m, s)) == max(-32768, min(32767, exact))
    assert int(requant(acc, m, s, low=0)) == max(0, min(32767, exact))


@given(st.floats(1e-9, 1e8))
def test_multiplier_keeps_thirty_bits(real: float) -> None:
    m, s = quantize_multiplier(real)
    assert 2**30 <= m < 2**31 and 1 <= s <= 62
    assert abs(m / 2**s / real - 1) < 2**-30


@pytest.mark.parametrize("real", [-1.0, float("nan"), float("inf"), 2.0**29])
def test_impossible_multipliers_are_refused(real: float) -> None:
    with pytest.raises(ValueError, match="cannot be represented"):
        quantize_multiplier(real)


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=20))
def test_softmax_and_sigmoid_equal_the_plain_reference(logits: list[int]) -> None:
    assert softmax_q15(logits, exp_table()).tolist() == reference.softmax_q15(logits)
    assert sigmoid_q15(logits, sigmoid_table()).tolist() == [reference.sigmoid_q15(v) for v in logits]
    x = np.array(logits) / 2048
    exact = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    assert np.abs(softmax_q15(logits, exp_table()) / 32768 - exact).max() < 4e-4  # interpolation of e^-z over 1/16: (1/16)²/8, and rounding
    assert np.abs(sigmoid_q15(logits, sigmoid_table()) / 32768 - 1 / (1 + np.exp(-x))).max() < 2e-4


@pytest.mark.parametrize(("order", "theta", "radius"), [(100, 300, 0.956), (256, 784, 0.976)])
def test_legendre_matrices_are_stable_and_known(order: int, theta: float, radius: float) -> None:
    a, _ = lmu_matrices(order, theta)
    assert np.abs(np.linalg.eigvals(a)).max() == pytest.approx(radius, abs=5e-4)


def test_legendre_matrices_equal_scipy_zero_order_hold() -> None:
    signal = pytest.importorskip("scipy.signal")
    for order, theta in ((1, 4.0), (6, 24.0), (32, 64.0)):
        i = np.arange(order)[:, None]
        a = (2 * i + 1) / theta * np.where(i < i.T, -1.0, (-1.0) ** (i - i.T + 1))
        b = (2 * i + 1) / theta * (-1.0) ** i
        expected_a, expected_b, *_ = signal.cont2discrete((a, b, np.eye(order), np.zeros((order, 1))), 1.0, "zoh")
        got_a, got_b = lmu_matrices(order, theta)
        assert np.allclose(got_a, expected_a, atol=1e-12) and np.allclose(got_b, expected_b[:, 0], atol=1e-12)
