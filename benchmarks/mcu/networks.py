"""Networks that are measured beside the shipped ones: what they cost does not depend on their weights, which are as they begin."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from deploy.quantize import quantize
from pdmu.bundle import Bundle, write_bundle
from pdmu.config import FAMILIES, DetectorConfig, FrontendConfig, ModelConfig, PDMUConfig
from pdmu.frontend import compress, mel_energies
from pdmu.golden import golden_pcm
from pdmu.nn.model import PDMUNet

LABELS = tuple(f"class {i}" for i in range(12))


def reference_cell() -> ModelConfig:
    """The size that other runtimes were measured with: 40 inputs, order 32, hidden 64, 8 taps, 12 classes; three channels make its MACs."""
    return ModelConfig(LABELS, layers=(PDMUConfig(hidden=64, channels=3, order=32, theta=32.0, taps=8),))


def of_family(bundle: Bundle, family: str) -> ModelConfig:
    """Return a bundle's network with the layers of another family."""
    layers = tuple(replace(layer, **FAMILIES[family]) for layer in bundle.model.layers)
    return replace(bundle.model, layers=layers)


def untrained(model: ModelConfig, frontend: FrontendConfig, detector: DetectorConfig, name: str) -> Bundle:
    """Return a bundle of a network as it begins, calibrated on the golden signal."""
    torch.manual_seed(1)
    net = PDMUNet(model, frontend).eval()
    features = compress(frontend, mel_energies(frontend, golden_pcm()))
    bundle = quantize(net, [features], detector, {"name": name, "version": "0", "licence": "none: untrained"})
    with tempfile.TemporaryDirectory(prefix="pdmu-mcu-") as folder:
        return write_bundle(Path(folder) / "untrained.pdmu", bundle)
