"""Quantised networks to compare runtimes on: every kind of layer, and gains so large that small differences show in the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.quantize import quantize
from pdmu.bundle import Bundle, write_bundle
from pdmu.config import ConvConfig, DetectorConfig, FrontendConfig, LIFConfig, ModelConfig, PDMUConfig
from pdmu.frontend import frontend_init, frontend_step
from pdmu.golden import golden_pcm
from pdmu.nn.model import PDMUNet

HEAD_GAIN, GATE_GAIN = 6.0, 3.0

NETWORKS = {
    "residual stack": ModelConfig(
        ("a", "b", "c"),
        (ConvConfig(8, 3, 5, 1, 2), ConvConfig(8, 3, 3, 1, 2, depthwise=True), ConvConfig(12, 4, 3, 2, 2)),
        (PDMUConfig(32, 8, 8, 32.0, 8, 2), PDMUConfig(32, 8, 8, 48.0, 8, 3, residual=True)),
    ),
    "uniform and off": ModelConfig(
        ("a", "b", "c"), (ConvConfig(8, 5, 4, 2, 3),), (PDMUConfig(32, 5, 6, 20.0, 5, 1, "uniform"), PDMUConfig(33, 4, 7, 20.0, gate="off"))
    ),
    "sigmoid on raw features": ModelConfig(("a",), (), (PDMUConfig(40, 8, 8, 32.0, 12, 3, residual=True),), head="sigmoid"),
    "depthwise and no history": ModelConfig(
        ("a", "b"),
        (ConvConfig(1, 2, 3, 2, 1, depthwise=True), ConvConfig(6, 1, 1, 1, 3), ConvConfig(6, 1, 2, 1, 1, depthwise=True)),
        (PDMUConfig(24, 3, 5, 16.0, 20, 1),),
    ),
}

FRONT = (ConvConfig(8, 3, 5, 2, 2),)
ZERO = LIFConfig(reset="zero")


def _stack(*layers: PDMUConfig) -> ModelConfig:
    return ModelConfig(("a", "b", "c"), FRONT, layers)


# Networks of hard decisions: a route, or a spike, may differ between runtimes whose values differ by a rounding.
DECIDING = {
    "epdmu": _stack(PDMUConfig(32, 8, 8, 32.0, 8, 2, "top1"), PDMUConfig(32, 8, 8, 48.0, 8, 3, "top1", residual=True)),
    "epdmu straight through": _stack(PDMUConfig(32, 8, 8, 32.0, 8, 2, "straight_through"), PDMUConfig(24, 4, 6, 48.0, gate="off")),
    "spiking": _stack(PDMUConfig(32, 8, 8, 32.0, 8, 2, cell="spiking"), PDMUConfig(24, 8, 8, 32.0, 4, 3, "top1", cell="spiking")),
    "spiking inside": _stack(
        PDMUConfig(32, 8, 8, 32.0, 8, 2, cell="spiking", spikes="all"),
        PDMUConfig(24, 6, 6, 32.0, 4, 3, "straight_through", cell="spiking", spikes="all", lif=ZERO),
    ),
    "reset to zero, then analogue": _stack(
        PDMUConfig(32, 8, 8, 32.0, 5, 2, "uniform", cell="spiking", lif=ZERO), PDMUConfig(32, 8, 8, 48.0, 8, 3, residual=True)
    ),
}


def golden_features(frontend: FrontendConfig) -> NDArray[np.int16]:
    """Return the features of the golden signal, three times over."""
    pcm = np.tile(golden_pcm(), 3)
    return frontend_step(frontend, frontend_init(frontend), pcm)[1]


def make_net(config: ModelConfig, seed: int = 0) -> PDMUNet:
    """Return a network of random weights; its neurons, where it has any, differ in decay and threshold."""
    torch.manual_seed(seed)
    net = PDMUNet(config, FrontendConfig()).eval()
    with torch.no_grad():
        net.head.weight.mul_(HEAD_GAIN)
        for layer in net.layers:
            if layer.to_gate is not None:
                layer.to_gate.weight.mul_(GATE_GAIN)
        for name, values in [*net.named_parameters(), *net.named_buffers()]:
            if name.endswith("beta"):
                values.uniform_(0.6, 0.99)
            if name.endswith("threshold"):
                values.uniform_(0.2, 0.8)
    return net


def make_bundle(config: ModelConfig, path: Path, seed: int = 0, loudness: float = 1.0) -> Bundle:
    """Write a bundle of random weights to `path` and return it.

    Parameters
    ----------
    config : ModelConfig
    path : Path
    seed : int
    loudness : float
        Factor on the features it is calibrated on; below one, the golden signal saturates its activations.
    """
    net = make_net(config, seed)
    frontend = FrontendConfig()
    calibration = [golden_features(frontend) * (loudness / 512)]
    detector = DetectorConfig(threshold_q15=(16384,) * len(config.labels))
    return write_bundle(path, quantize(net, calibration, detector, {"name": path.stem, "version": "0"}))


@torch.no_grad()
def with_weights_of(bundle: Bundle) -> PDMUNet:
    """Return the network in float64 with the bundle's own rounded weights, so that arithmetic alone is left to differ."""
    net, scale = PDMUNet(bundle.model, bundle.frontend).double().eval(), 2.0**-9
    t = {name: torch.as_tensor(np.asarray(v).astype(np.float64)) for name, v in bundle.tensors.items()}
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            norm.running_var.fill_(1 - norm.eps)
    for i, conv in enumerate(net.convs):
        weight = t[f"conv{i}.weight"] * t[f"conv{i}.wscale"].view(-1, 1, 1, 1)
        conv.conv.weight.copy_(weight.permute(0, 3, 1, 2))  # type: ignore[union-attr,operator]
        conv.norm.bias.copy_(t[f"conv{i}.bias"] * t[f"conv{i}.wscale"] * scale)  # type: ignore[union-attr,operator]
        scale = float(t[f"conv{i}.scale"])
    for i, layer in enumerate(net.layers):
        p = f"pdmu{i}."
        for key, part in (("u", layer.to_memory), ("m", layer.from_memory), ("x", layer.from_input), ("g", layer.to_gate)):
            if part is not None:
                part.weight.copy_(t[f"{p}w{key}"] * t[f"{p}w{key}_scale"][:, None])
                if part.bias is not None:
                    part.bias.copy_(t[f"{p}b{key}"] * t[f"{p}w{key}_scale"] * scale)
        for suffix, row in (("", "output"), ("_u", "write"), ("_r", "read")):
            if f"{p}beta{suffix}" in t:
                neurons = getattr(layer, f"{row}_neurons")
                neurons.beta.copy_(t[f"{p}beta{suffix}"] / 2**15)
                neurons.threshold.copy_(t[f"{p}v{suffix}_scale"] * 2**16)
        scale = float(t[p + "scale"])
    net.head.weight.copy_(t["head.weight"] * t["head.wscale"][:, None])
    net.head.bias.copy_(t["head.bias"] * t["head.wscale"] * scale)
    return net


@torch.no_grad()
def layer_outputs(net: PDMUNet, features: NDArray[np.int16]) -> list[NDArray[np.float64]]:
    """Return the outputs ``[T, H]`` of every layer, and last the logits."""
    s = net.config.frames_per_step
    x = torch.as_tensor(features[: len(features) // s * s] / 512.0)[None, None].to(net.head.weight.dtype)
    for conv in net.convs:
        x, _ = conv(x, conv.init_state(1, x))  # type: ignore[operator]
    y, out = x.permute(0, 2, 3, 1).flatten(2), []
    for layer in net.layers:
        y, _ = layer(y, layer.init_state(1, y))  # type: ignore[operator]
        out.append(y[0].numpy())
    return [*out, net.head(y)[0].numpy()]
