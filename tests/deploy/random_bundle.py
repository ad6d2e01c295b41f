"""Bundles of random weights with multipliers that keep activations alive: every layer kind without training anything."""

from __future__ import annotations

import numpy as np

from pdmu.bundle import Bundle, with_golden
from pdmu.config import ConvConfig, DetectorConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.fixedpoint import quantize_multiplier
from pdmu.int_model import tensor_shapes
from pdmu.tables import lmu_matrices


def random_config(rng: np.random.Generator) -> tuple[FrontendConfig, ModelConfig]:
    """Return a random front end and network: depthwise and plain convolutions, strides, every gate, residuals, odd sizes."""
    window = int(rng.choice([256, 512]))
    frontend = FrontendConfig(
        window_samples=window,
        hop_samples=int(rng.choice([window // 2, window // 4, window - 37, 100])),
        n_mels=int(rng.integers(5, 17)),
        f_min_hz=100.0,
        compression="pcen" if rng.random() < 0.6 else "log",
        floor=int(rng.choice([1, 4096, 1 << 20])),
        pcen_smooth_shift=int(rng.integers(1, 8)),
        pcen_alpha=float(rng.uniform(0, 1)),
    )
    conv, channels = [], 1
    for _ in range(int(rng.integers(0, 4))):
        depthwise = bool(rng.random() < 0.4)
        channels = channels if depthwise else int(rng.integers(1, 10))
        stride = int(rng.integers(1, 4))
        kernel = stride + int(rng.integers(0, 4))
        conv.append(ConvConfig(channels, kernel, int(rng.integers(1, 6)), stride, int(rng.integers(1, 4)), depthwise))
    layers, width = [], ModelConfig(("a",), tuple(conv), (PDMUConfig(1),)).layer_inputs(frontend.n_mels)[0]
    for _ in range(int(rng.integers(1, 4))):
        residual = bool(rng.random() < 0.4)
        hidden = width if residual else int(rng.integers(3, 40))
        gate = rng.choice(["softmax", "uniform", "off"])
        order, theta = int(rng.integers(1, 9)), float(rng.uniform(2, 40))
        sizes = {"channels": int(rng.integers(1, 12)), "taps": int(rng.integers(1, 9)), "dilation": int(rng.integers(1, 4))}
        layers.append(PDMUConfig(hidden, order=order, theta=theta, gate=str(gate), residual=residual, **sizes))  # type: ignore[arg-type]
        width = hidden
    labels = ('w"eird\\?', "naïve*/", "c", "d", "e1")[: int(rng.integers(1, 6))]
    head = "softmax" if rng.random() < 0.5 else "sigmoid"
    return frontend, ModelConfig(labels, tuple(conv), tuple(layers), head)  # type: ignore[arg-type]


def random_bundle(seed: int, frontend: FrontendConfig | None = None, model: ModelConfig | None = None) -> Bundle:
    """Return a bundle with golden answers and a made-up SHA-256; the configuration is random too unless given."""
    rng = np.random.default_rng(seed)
    if frontend is None or model is None:
        frontend, model = random_config(rng)
    tensors: dict[str, np.ndarray] = {}
    for name, (dtype, shape) in tensor_shapes(model, frontend.n_mels).items():
        tensors[name] = _random_tensor(rng, name, dtype, shape)
    for prefix, weight, mult, shift in _affine_keys(model):
        fan_in = tensors[prefix + weight][0].size
        rows = [quantize_multiplier(rng.uniform(0.5, 2) / (40 * fan_in**0.5)) for _ in range(len(tensors[prefix + weight]))]
        tensors[prefix + mult][:], tensors[prefix + shift][:] = zip(*rows, strict=True)
    for i, layer in enumerate(model.layers):
        _memory_and_mix(rng, tensors, f"pdmu{i}.", layer)
    detector = DetectorConfig(tuple(int(v) for v in rng.integers(1, 32768, len(model.labels))))
    return with_golden(Bundle(frontend, model, detector, {"name": f"random */ {seed}", "version": "0"}, tensors, {}, f"{seed:064x}"))


def _random_tensor(rng: np.random.Generator, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == "int8":
        return rng.integers(-127, 128, shape).astype(np.int8)
    if name.split(".")[1] in ("bias", "bu", "bg", "bx"):
        return rng.integers(-200_000, 200_000, shape).astype(np.int32)
    return np.ones(shape, dtype)


def _affine_keys(model: ModelConfig) -> list[tuple[str, str, str, str]]:
    keys = [(f"conv{i}.", "weight", "mult", "shift") for i in range(len(model.conv))] + [("head.", "weight", "mult", "shift")]
    for i, layer in enumerate(model.layers):
        keys += [(f"pdmu{i}.", "wu", "mu", "su"), (f"pdmu{i}.", "wm", "mp", "sp")]
        keys += [(f"pdmu{i}.", "wg", "mg", "sg")] if layer.gate == "softmax" else []
    return keys


def _memory_and_mix(rng: np.random.Generator, tensors: dict[str, np.ndarray], prefix: str, layer: PDMUConfig) -> None:
    a_bar, b_bar = lmu_matrices(layer.order, layer.theta)
    ka = int(np.floor(np.log2(32767 / max(np.abs(a_bar).max(), np.abs(b_bar).max()))))
    tensors[prefix + "aq"], tensors[prefix + "bq"] = (np.round(v * 2.0**ka).astype(np.int16) for v in (a_bar, b_bar))
    tensors[prefix + "ka"][:] = ka
    shift = 30
    tensors[prefix + "sh"][:] = shift
    tensors[prefix + "mt"][:] = rng.uniform(0.2, 0.9, layer.hidden) * 2**shift
    tensors[prefix + "mx"][:] = rng.uniform(0.5, 1, layer.hidden) * 2**shift / (40 * tensors[prefix + "wx"].shape[1] ** 0.5)
    tensors[prefix + "mr"][:] = rng.uniform(0.2, 0.9, layer.hidden) * 2**shift * layer.residual
