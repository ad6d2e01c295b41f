"""Quantised networks to compare runtimes on: every kind of layer, and gains so large that small differences show in the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.quantize import quantize
from pdmu.bundle import Bundle, write_bundle
from pdmu.config import ConvConfig, DetectorConfig, FrontendConfig, ModelConfig, PDMUConfig
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


def golden_features(frontend: FrontendConfig) -> NDArray[np.int16]:
    """Return the features of the golden signal, three times over."""
    pcm = np.tile(golden_pcm(), 3)
    return frontend_step(frontend, frontend_init(frontend), pcm)[1]


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
    torch.manual_seed(seed)
    frontend = FrontendConfig()
    net = PDMUNet(config, frontend).eval()
    with torch.no_grad():
        net.head.weight.mul_(HEAD_GAIN)
        for layer in net.layers:
            if layer.to_gate is not None:
                layer.to_gate.weight.mul_(GATE_GAIN)
    calibration = [golden_features(frontend) * (loudness / 512)]
    detector = DetectorConfig(threshold_q15=(16384,) * len(config.labels))
    return write_bundle(path, quantize(net, calibration, detector, {"name": path.stem, "version": "0"}))
