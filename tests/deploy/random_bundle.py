"""Bundles of random weights with multipliers that keep activations alive: every layer kind without training anything."""

from __future__ import annotations

import numpy as np

from pdmu.bundle import Bundle, with_golden
from pdmu.config import ConvConfig, DetectorConfig, FrontendConfig, LIFConfig, ModelConfig, PDMUConfig
from pdmu.fixedpoint import quantize_multiplier
from pdmu.tables import lmu_matrices
from pdmu.tensors import tensor_shapes

GATES = ("softmax", "uniform", "off", "top1", "straight_through")

CELLS = {
    "pdmu": {},
    "spiking": {"cell": "spiking"},
    "spiking inside": {"cell": "spiking", "spikes": "all"},
    "spiking inside, reset to zero": {"cell": "spiking", "spikes": "all", "lif": LIFConfig(reset="zero")},
}
FORMS = [(gate, cell) for gate in GATES for cell in CELLS]


def form_bundle(gate: str, cell: str) -> Bundle:
    """Return a bundle of three layers: two of one form, of which the second reads what the first gives, and a PDMU layer on top."""
    kinds = ({"gate": gate, **CELLS[cell]}, {"gate": gate, **CELLS[cell]}, {"residual": True})
    layers = tuple(PDMUConfig(9, 4, 5, 9.0, 5, 2, **kind) for kind in kinds)  # type: ignore[arg-type]
    conv = (ConvConfig(3, 3, 3, 2, 2),)
    return random_bundle(7, FrontendConfig(n_mels=12), ModelConfig(("a", "b"), conv, layers if cell == "spiking" else layers[:2]))


def random_config(rng: np.random.Generator) -> tuple[FrontendConfig, ModelConfig]:
    """Return a random front end and network: depthwise and plain convolutions, strides, every gate, residuals, spikes, odd sizes."""
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
        layers.append(random_layer(rng, width))
        width = layers[-1].hidden
    labels = ('w"eird\\?', "naïve*/", "c", "d", "e1")[: int(rng.integers(1, 6))]
    head = "softmax" if rng.random() < 0.5 else "sigmoid"
    return frontend, ModelConfig(labels, tuple(conv), tuple(layers), head)  # type: ignore[arg-type]


def random_layer(rng: np.random.Generator, width: int) -> PDMUConfig:
    """Return a layer of any kind over `width` inputs."""
    spiking = bool(rng.random() < 0.5)
    residual = not spiking and bool(rng.random() < 0.4)
    hidden = width if residual else int(rng.integers(3, 40))
    sizes = {"channels": int(rng.integers(1, 12)), "order": int(rng.integers(1, 9)), "theta": float(rng.uniform(2, 40))}
    line = {"taps": int(rng.integers(1, 9)), "dilation": int(rng.integers(1, 4)), "gate": str(rng.choice(GATES))}
    reset, spikes = str(rng.choice(["subtract", "zero"])), str(rng.choice(["hidden", "all"]))
    neurons = {"cell": "spiking", "spikes": spikes, "lif": LIFConfig(reset=reset)} if spiking else {}  # type: ignore[arg-type]
    return PDMUConfig(hidden, residual=residual, **sizes, **line, **neurons)  # type: ignore[arg-type]


def random_bundle(seed: int, frontend: FrontendConfig | None = None, model: ModelConfig | None = None) -> Bundle:
    """Return a bundle with golden answers and a made-up SHA-256; the configuration is random too unless given."""
    rng = np.random.default_rng(seed)
    if frontend is None or model is None:
        frontend, model = random_config(rng)
    tensors: dict[str, np.ndarray] = {}
    for name, (dtype, shape) in tensor_shapes(model, frontend.n_mels).items():
        tensors[name] = _random_tensor(rng, name, dtype, shape)
    spikes = False  # whether the inputs are
    for i in range(len(model.conv)):
        _scale_rows(rng, tensors, f"conv{i}.", ("weight", "bias", "mult", "shift"), spikes)
    for i, layer in enumerate(model.layers):
        _scale_layer(rng, tensors, f"pdmu{i}.", layer, spikes)
        spikes = layer.spiking
    _scale_rows(rng, tensors, "head.", ("weight", "bias", "mult", "shift"), spikes)
    detector = DetectorConfig(tuple(int(v) for v in rng.integers(1, 32768, len(model.labels))))
    return with_golden(Bundle(frontend, model, detector, {"name": f"random */ {seed}", "version": "0"}, tensors, {}, f"{seed:064x}"))


def _random_tensor(rng: np.random.Generator, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == "int8":
        return rng.integers(-127, 128, shape).astype(np.int8)
    if name.split(".")[1].startswith("beta"):
        return rng.integers(16_000, 32_769, shape).astype(np.int32)
    return np.ones(shape, dtype)


def _factor(rng: np.random.Generator, fan_in: int, spikes: bool, potential: bool, rows: int) -> np.ndarray:
    """Real factors that take sums of int8 weights over activations, or spikes, to the middle of an activation's range, or a potential's."""
    return np.asarray((2**16 if potential else 2**13) / (73 * (0.6 if spikes else 2**12) * fan_in**0.5) * rng.uniform(0.4, 2, rows))


def _scale_rows(
    rng: np.random.Generator, tensors: dict[str, np.ndarray], p: str, keys: tuple[str, ...], spikes: bool, potential: bool = False
) -> None:
    weight, bias, mult, shift = keys
    rows, fan_in = len(tensors[p + weight]), tensors[p + weight][0].size
    pairs = [quantize_multiplier(v) for v in _factor(rng, fan_in, spikes, potential, rows)]
    tensors[p + mult][:], tensors[p + shift][:] = zip(*pairs, strict=True)
    if bias:
        tensors[p + bias][:] = rng.integers(-200, 200, rows) * (1 if spikes else 1000)


def _scale_layer(rng: np.random.Generator, tensors: dict[str, np.ndarray], p: str, layer: PDMUConfig, spikes: bool) -> None:
    """Fill in a layer's matrices of the memory, and multipliers at which everything moves through its range."""
    _scale_rows(rng, tensors, p, ("wu", "bu", "mu", "su"), spikes, layer.spikes_inside)
    if layer.gate_is_learned:
        _scale_rows(rng, tensors, p, ("wg", "bg", "mg", "sg"), spikes)
    if not layer.spikes_inside:
        _scale_rows(rng, tensors, p, ("wm", "", "mp", "sp"), False)
    a_bar, b_bar = lmu_matrices(layer.order, layer.theta)
    ka = int(np.floor(np.log2(32767 / max(np.abs(a_bar).max(), np.abs(b_bar).max()))))
    tensors[p + "aq"], tensors[p + "bq"] = (np.round(v * 2.0**ka).astype(np.int16) for v in (a_bar, b_bar))
    tensors[p + "ka"][:] = ka
    inputs, reads, hidden, shift = tensors[p + "wx"].shape[1], layer.channels * layer.order, layer.hidden, 18
    tensors[p + "sh"][:] = shift
    read = _factor(rng, reads, True, True, hidden) if layer.spikes_inside else rng.uniform(0.2, 0.9, hidden) * (8 if layer.spiking else 1)
    tensors[p + "mt"][:] = read * 2**shift
    tensors[p + "mx"][:] = _factor(rng, inputs, spikes, layer.spiking, hidden) * 2**shift
    tensors[p + "bx"][:] = rng.integers(-200, 200, hidden) * (1 if spikes else 1000)
    if not layer.spiking:
        tensors[p + "mr"][:] = rng.uniform(0.2, 0.9, hidden) * 2**shift * layer.residual
    if layer.spikes_inside:
        tensors[p + "us"][:] = rng.integers(2000, 20_000)
        tensors[p + "mz"][:], tensors[p + "sz"][:] = rng.uniform(4, 30, reads) * 2**shift, shift
