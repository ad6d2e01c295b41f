"""Kernels of every processor against the integer law: where they share work between rows, where they may not, and at the extremes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.c_source import model_source
from deploy.c_text import Layout, dense
from deploy.conformance_c import build_target, first_difference, tools_of
from deploy.toolchain import missing
from pdmu.bundle import Bundle, law_stages, with_golden
from pdmu.config import ConvConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.golden import golden_pcm
from pdmu.tables import frontend_tables
from tests.deploy.random_bundle import random_bundle
from tests.deploy.test_c_runtime import signals

TARGETS = ("c-O2", "c-wide", "mps2-an386-portable", "mps2-an386", "mps2-an386-wide", "mps3-an547", "mps3-an547-wide")
BLOCKS = ModelConfig(  # fan-ins of 15, 16, 24, 40 and 64, outputs in fours; taps beyond eight; orders even, odd and of eights
    ("a", "b", "c", "d"),
    (
        ConvConfig(16, 3, 5, 1, 2),
        ConvConfig(16, 4, 3, 2, 2, depthwise=True),
        ConvConfig(24, 1, 1),
        ConvConfig(24, 2, 4, 1, 1, depthwise=True),
        ConvConfig(8, 1, 1),
        ConvConfig(8, 1, 1, 1, 1),
    ),
    (
        PDMUConfig(32, 6, 6, 24.0, 8, 2),
        PDMUConfig(32, 8, 8, 24.0, 11, 1, residual=True),
        PDMUConfig(32, 3, 5, 24.0, 9, 2, "uniform"),
        PDMUConfig(64, 4, 16, 24.0, 5, 3),
    ),
)
ODD = ModelConfig(  # nothing in fours or eights, and odd sizes that leave words unaligned
    ("a", "b", "c"),
    (ConvConfig(5, 3, 3, 1, 2), ConvConfig(5, 3, 3, 1, 1, depthwise=True), ConvConfig(7, 1, 1), ConvConfig(8, 1, 1)),
    (PDMUConfig(13, 3, 7, 24.0, 3, 1), PDMUConfig(12, 5, 3, 24.0, 10, 1), PDMUConfig(16, 1, 8, 24.0, 16, 3)),
)


def run(bundle: Bundle, target: str, folder: Path, *pcm: np.ndarray) -> None:
    absent = missing(*tools_of(target))
    if absent:
        pytest.skip(f"no {' and no '.join(absent)}: the kernels of {target} are NOT TESTED HERE")
    program = build_target(bundle, target, folder)
    for signal in pcm:
        whole = signal[: len(signal) // bundle.samples_per_step * bundle.samples_per_step]
        assert first_difference(program.answer(whole).stages, law_stages(bundle, whole)) is None


def with_tensors(bundle: Bundle, **changes: np.ndarray) -> Bundle:
    tensors = bundle.tensors | {name.replace("__", "."): value for name, value in changes.items()}
    return with_golden(replace(bundle, tensors=tensors, golden={}))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("model", "n_mels"), [(BLOCKS, 40), (ODD, 9)], ids=["blocks", "odd"])
def test_every_stage_equals_the_law(model: ModelConfig, n_mels: int, target: str, tmp_path: Path) -> None:
    bundle = random_bundle(4, FrontendConfig(n_mels=n_mels, f_min_hz=100.0), model)
    run(bundle, target, tmp_path, golden_pcm()[:9000])


@pytest.mark.parametrize("target", ["mps2-an386", "mps3-an547"])
@pytest.mark.parametrize("window", [64, 128, 256, 512, 1024])
def test_the_front_end_at_its_extremes(window: int, target: str, tmp_path: Path) -> None:
    frontend = FrontendConfig(window_samples=window, hop_samples=window // 2, n_mels=8, f_min_hz=300.0, compression="log", floor=1)
    bundle = random_bundle(3, frontend, ModelConfig(("a",), (), (PDMUConfig(4, 1, 4),)))
    run(bundle, target, tmp_path, *(pcm[:2048] for pcm in signals().values()))


@pytest.mark.parametrize("target", TARGETS)
def test_saturated_values_and_sums_at_the_edge_of_int32(target: str, tmp_path: Path) -> None:
    """Weights of one sign and full-scale inputs: accumulators just below the bound that lets a map be taken in blocks."""
    bundle = random_bundle(6, FrontendConfig(n_mels=40), BLOCKS)
    loud = {}
    for name in ("pdmu0__wx", "conv2__weight", "pdmu1__wm"):
        weight = bundle.tensors[name.replace("__", ".")]
        loud[name] = np.where(np.arange(weight.size).reshape(weight.shape) % 3 == 0, -127, 127).astype(np.int8)
    mult, shift = np.full(24, (1 << 31) - 1, np.int32), np.full(24, 33, np.int8)
    run(with_tensors(bundle, **loud, conv2__mult=mult, conv2__shift=shift), target, tmp_path, golden_pcm()[:6000])


@pytest.mark.parametrize("target", ["c-O2", "mps2-an386-wide", "mps3-an547"])
def test_maps_that_cannot_be_taken_in_blocks(target: str, tmp_path: Path) -> None:
    bundle = random_bundle(7, FrontendConfig(n_mels=40), BLOCKS)
    shift = bundle.tensors["conv2.shift"]
    coarse = with_tensors(
        bundle, conv2__mult=(bundle.tensors["conv2.mult"] >> 8).astype(np.int32), conv2__shift=(shift - 8).astype(np.int8)
    )
    assert (coarse.tensors["conv2.shift"] <= 32).any(), "the test needs a shift that leaves bits of the low word"
    assert "conv2_weight_quads" not in model_source(coarse) and "conv2_weight_quads" in model_source(bundle)
    run(coarse, target, tmp_path, golden_pcm()[:6000])


@pytest.mark.parametrize(
    ("weights", "bias", "shift", "blocks"),
    [
        (127, 0, 33, True),
        (127, 0, 32, False),  # the low word of the product counts
        (127, (1 << 31) - 512 * 127 * 32768, 33, False),  # the sum may reach 2^31
        (127, (1 << 31) - 512 * 127 * 32768 - 1, 33, True),
    ],
)
def test_blocks_are_chosen_where_the_weights_prove_them(weights: int, bias: int, shift: int, blocks: bool) -> None:
    tensors = {
        "x.w": np.full((4, 512), weights, np.int8),
        "x.b": np.full(4, bias, np.int64),
        "x.m": np.full(4, 1 << 30),
        "x.s": np.full(4, shift),
    }
    bundle = replace(random_bundle(0), tensors=tensors)
    parts: list[str] = []
    assert ("x_w_quads" in dense(bundle, "x", ("w", "b", "m", "s"), parts, Layout.ROWS)) is blocks


def test_blocks_hold_the_weights_in_the_order_that_pdmu_h_says() -> None:
    weight = np.arange(8 * 16).reshape(8, 16) - 64
    tensors = {"x.w": weight.astype(np.int8), "x.m": np.full(8, 1 << 30), "x.s": np.arange(33, 41)}
    parts: list[str] = []
    dense(replace(random_bundle(0), tensors=tensors), "x", ("w", None, "m", "s"), parts, Layout.ROWS)
    values = np.array([int(v) for v in re.findall(r"-?\d+", parts[0].split("{")[1])])  # each PDMU_FOUR in the order of its arguments
    for r in range(8):
        for c in range(16):
            assert values.reshape(2, 2, 4, 8)[r // 4, c // 8, r % 4, c % 8] == weight[r, c]
    quads = np.array([int(v) for v in parts[1].split("{")[1].split("}")[0].replace("\n", " ").split(",")]).reshape(2, 3, 4)
    assert (quads[:, 0] == 0).all() and (quads[:, 1] == 1 << 30).all() and quads[:, 2].reshape(-1).tolist() == list(range(8))


@pytest.mark.parametrize("window", [64, 128, 256, 512, 1024])
def test_twiddles_have_the_symmetries_that_the_c_front_end_counts_on(window: int) -> None:
    t = frontend_tables(FrontendConfig(window_samples=window, hop_samples=window // 2, n_mels=4, f_min_hz=600.0))
    m = window // 2
    k, q = np.arange(1, m // 2 + 1), np.arange(1, m // 4)
    assert np.array_equal(t.split_re_q31[m - k], -t.split_re_q31[k]) and np.array_equal(t.split_im_q31[m - k], t.split_im_q31[k])
    assert np.array_equal(t.twiddle_re_q31[q + m // 4], t.twiddle_im_q31[q])
    assert np.array_equal(t.twiddle_im_q31[q + m // 4], -t.twiddle_re_q31[q])
