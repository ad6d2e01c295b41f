"""Post-training quantisation: fold normalisation, calibrate by min-max over real audio, round once (MODEL.md 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.quantize_layer import LOGIT_SCALE, norm_affine, quantize_layer, see_layer
from deploy.scales import F64, activation_scale, affine, scale32
from pdmu.bundle import Bundle, with_golden
from pdmu.config import DetectorConfig
from pdmu.errors import UserError
from pdmu.nn.model import CausalConv, PDMUNet
from pdmu.tables import FEATURE_FRAC_BITS

FEATURE_SCALE = 2.0**-FEATURE_FRAC_BITS


def quantize(net: PDMUNet, calibration: Iterable[NDArray[np.floating[Any]]], detector: DetectorConfig, info: dict[str, Any]) -> Bundle:
    """Quantise a trained network into a bundle with golden answers.

    Parameters
    ----------
    net : PDMUNet
        Evaluation weights; not modified.
    calibration : iterable of ndarray
        Features ``[frames, n_mels]`` of real recordings, in units of one (as `pdmu.frontend.compress` gives them). Their min-max sets every
        activation scale, so they should hold the loudest and strangest sounds at hand.
    detector : DetectorConfig
    info : dict
        Name, version, licence, provenance, metrics …

    Raises
    ------
    UserError
        If there is no calibration audio, or the network has weights that are not finite.
    """
    net.config.check_contract("cannot quantise")
    if isinstance(net.frontend, int):
        raise UserError("cannot quantise: this network reads sequences that no front end makes, so no audio bundle can hold it")
    for name, value in net.state_dict().items():
        if not torch.isfinite(value).all():
            raise UserError(f"cannot quantise: '{name}' holds values that are not finite; the training diverged")
    ranges = calibrate(net, calibration)
    tensors: dict[str, NDArray[np.generic]] = {"in.scale": scale32(FEATURE_SCALE)}
    scale = FEATURE_SCALE
    for i, conv in enumerate(net.convs):
        scale = _quantize_conv(tensors, f"conv{i}.", conv, scale, ranges[f"conv{i}"])  # type: ignore[arg-type]
    for i, layer in enumerate(net.layers):
        scale = quantize_layer(tensors, f"pdmu{i}.", layer, scale, ranges)  # type: ignore[arg-type]
    head = {"weight": net.head.weight, "bias": net.head.bias}
    affine(tensors, "head.", {k: v.detach().double().numpy() for k, v in head.items()}, scale, LOGIT_SCALE)
    return with_golden(Bundle(net.frontend, net.config, detector, info, tensors, {}))


@torch.no_grad()
def calibrate(net: PDMUNet, features: Iterable[NDArray[np.floating[Any]]]) -> dict[str, float]:
    """Return the largest magnitude of every quantised activation, by name (``conv0``, ``pdmu0.m``, ``pdmu0.p``, ``pdmu0``)."""
    net = net.eval()
    ranges: dict[str, float] = {}

    def see(name: str, value: Tensor) -> None:
        ranges[name] = max(ranges.get(name, 0.0), float(value.abs().max()) if value.numel() else 0.0)

    seen = 0
    for clip in features:
        s = net.config.frames_per_step
        x = torch.as_tensor(np.asarray(clip, np.float32))[None, None, : len(clip) // s * s]
        if x.shape[2] == 0:
            continue
        seen += 1
        for i, conv in enumerate(net.convs):
            x, _ = conv(x, conv.init_state(1, x))  # type: ignore[operator]
            see(f"conv{i}", x)
        y = x.permute(0, 2, 3, 1).flatten(2)
        for i, layer in enumerate(net.layers):
            y = see_layer(f"pdmu{i}", layer, y, see)  # type: ignore[arg-type]
    if not seen:
        raise UserError("cannot quantise: no calibration audio as long as one model step was given")
    return ranges


def folded_conv(conv: CausalConv) -> dict[str, F64]:
    """Return ``weight`` ``[C_out, K_t, K_f, C_in]`` and ``bias`` with the normalisation folded in."""
    gain, shift = norm_affine(conv.norm)
    weight = conv.conv.weight.detach().double().numpy().transpose(0, 2, 3, 1)
    return {"weight": gain[:, None, None, None] * weight, "bias": shift}


def _quantize_conv(tensors: dict[str, NDArray[np.generic]], prefix: str, conv: CausalConv, in_scale: float, peak: float) -> float:
    scale = activation_scale(peak)
    affine(tensors, prefix, folded_conv(conv), in_scale, scale)
    tensors[prefix + "scale"] = scale32(scale)
    return float(scale32(scale)[0])
