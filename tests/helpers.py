"""Things several tests need: a bundle that hears loudness, and sounds for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdmu.bundle import Bundle, with_golden, write_bundle
from pdmu.config import ConvConfig, DetectorConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.fixedpoint import quantize_multiplier
from pdmu.tables import lmu_matrices
from pdmu.tensors import tensor_shapes

N_MELS = 16
LOUD_LOG2 = 10.0  # mean log2 energy above the floor at which the first label's logit is zero; noise of -30 dBFS has about 18


def tiny_bundle(path: Path, labels: tuple[str, ...] = ("cough", "other"), **detector: object) -> Bundle:
    """Write a bundle whose first label's score rises with the loudness of broad-band sound, and return it.

    It has one convolution (two frames a step: 32 ms) and one PDMU layer whose memory is computed and not used. Every further label's
    logit is constant. `detector` overrides `DetectorConfig` fields.
    """
    frontend = FrontendConfig(n_mels=N_MELS, compression="log")
    layer = PDMUConfig(hidden=2, channels=2, order=3, theta=8.0, taps=2, dilation=1)
    model = ModelConfig(labels, (ConvConfig(1, kernel_time=2, kernel_mel=1, stride_time=2),), (layer,))
    t: dict[str, NDArray[np.generic]] = {n: np.ones(shape, dtype) for n, (dtype, shape) in tensor_shapes(model, N_MELS).items()}
    t["conv0.weight"] = np.full((1, 2, 1, 1), 64, np.int8)
    _affine(t, "conv0.", 0, 1 / 128)
    a_bar, b_bar = lmu_matrices(layer.order, layer.theta)
    t["pdmu0.aq"], t["pdmu0.bq"] = (np.round(v * 2.0**14).astype(np.int16) for v in (a_bar, b_bar))
    t["pdmu0.ka"] = np.array([14], np.int8)
    t["pdmu0.wx"] = np.full((2, N_MELS), 64, np.int8)
    for name, value in {
        "bx": 0,
        "bu": 0,
        "bg": 0,
        "wm": 0,
        "mt": 1 << 30,
        "mr": 0,
        "mx": 1 << 20,
        "mu": 1 << 30,
        "mp": 1 << 30,
        "mg": 1 << 30,
    }.items():
        t[f"pdmu0.{name}"] = np.full_like(t[f"pdmu0.{name}"], value)
    for name, shift in {"sh": 30, "su": 36, "sp": 36, "sg": 36}.items():
        t[f"pdmu0.{name}"] = np.full_like(t[f"pdmu0.{name}"], shift)
    # One count is 1/512 everywhere; a weight's scale is its multiplier's factor then, times 1/4 where the output is a Q11 logit.
    scales = {"conv0.wscale": 1 / 128, "pdmu0.wx_scale": 1 / 1024, "pdmu0.wu_scale": 1 / 64, "pdmu0.wm_scale": 1 / 64,
              "pdmu0.wg_scale": 1 / 256, "head.wscale": 1 / 64}  # fmt: skip
    for name in [n for n in t if n.endswith("scale")]:
        t[name] = np.full_like(t[name], scales.get(name, 1 / 512))
    t["head.weight"] = np.zeros((len(labels), 2), np.int8)
    t["head.weight"][0] = 64
    _affine(t, "head.", 0, 8 / 128)
    t["head.bias"][0] = -128 * 512 * int(LOUD_LOG2)
    settings = {"threshold_q15": (16384,) * len(labels), "reject_labels": tuple(x for x in labels if x == "other")} | detector
    info = {"name": "tiny", "version": "1.2.3", "task": "cough", "licence": "CC0-1.0", "aliases": {"coughing": "cough"}}
    bundle = Bundle(frontend, model, DetectorConfig(**settings), info, t, {})  # type: ignore[arg-type]
    return write_bundle(path, with_golden(bundle))


def _affine(t: dict[str, NDArray[np.generic]], prefix: str, bias: int, factor: float) -> None:
    m, s = quantize_multiplier(factor)
    for name, value in {"bias": bias, "mult": m, "shift": s}.items():
        t[prefix + name] = np.full_like(t[prefix + name], value)


def scene(bursts_s: list[tuple[float, float]], length_s: float, rate_hz: int = 16000, seed: int = 1) -> NDArray[np.int16]:
    """Return quiet noise, int16 [n], with bursts of loud noise from … to … seconds."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(round(length_s * rate_hz)) * 3
    for begin, end in bursts_s:
        i, j = round(begin * rate_hz), round(end * rate_hz)
        x[i:j] += rng.standard_normal(j - i) * 3000
    return np.clip(np.rint(x), -32768, 32767).astype(np.int16)
