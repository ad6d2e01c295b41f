"""Post-training quantisation: fold normalisation, calibrate by min-max over real audio, round once (MODEL.md 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdmu.bundle import Bundle, with_golden
from pdmu.config import DetectorConfig
from pdmu.errors import UserError
from pdmu.fixedpoint import I16_MAX, quantize_multiplier
from pdmu.nn.layer import PDMULayer
from pdmu.nn.model import CausalConv, PDMUNet
from pdmu.nn.scan import memory_chunked
from pdmu.tables import FEATURE_FRAC_BITS, LOGIT_FRAC_BITS, lmu_matrices, round_half_up

F64 = NDArray[np.float64]
HEADROOM = 1.25  # activations may pass the calibrated range by this factor before they saturate: a third of a bit of sixteen
FEATURE_SCALE = 2.0**-FEATURE_FRAC_BITS
LOGIT_SCALE = 2.0**-LOGIT_FRAC_BITS


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
    tensors: dict[str, NDArray[np.generic]] = {"in.scale": _scale32(FEATURE_SCALE)}
    scale = FEATURE_SCALE
    for i, conv in enumerate(net.convs):
        scale = _quantize_conv(tensors, f"conv{i}.", conv, scale, ranges[f"conv{i}"])  # type: ignore[arg-type]
    for i, layer in enumerate(net.layers):
        scale = _quantize_layer(tensors, f"pdmu{i}.", layer, scale, ranges)  # type: ignore[arg-type]
    head = {"weight": net.head.weight, "bias": net.head.bias}
    _affine(tensors, "head.", {k: v.detach().double().numpy() for k, v in head.items()}, scale, LOGIT_SCALE)
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
            y = _see_layer(f"pdmu{i}", layer, y, see)  # type: ignore[arg-type]
    if not seen:
        raise UserError("cannot quantise: no calibration audio as long as one model step was given")
    return ranges


def _see_layer(name: str, layer: PDMULayer, x: Tensor, see: Any) -> Tensor:
    c, state = layer.config, layer.init_state(len(x), x)
    u = layer.to_memory(x)
    m = memory_chunked(c.order, c.theta, u, state.memory)
    see(name + ".m", u)
    see(name + ".m", m)
    gain, _ = _norm_affine(layer.norm)
    see(name + ".p", layer.from_memory(m.flatten(2)) * torch.as_tensor(gain, dtype=x.dtype))
    h, _ = layer(x, state)
    see(name, h)
    return h


def _norm_affine(norm: Any) -> tuple[F64, F64]:
    """Batch normalisation in evaluation mode as (gain, shift)."""
    mean, var, weight, bias = (v.detach().double().numpy() for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    gain = weight / np.sqrt(var + norm.eps)
    return gain, bias - mean * gain


def folded_layer(layer: PDMULayer) -> dict[str, F64]:
    """Return the layer's matrices with its normalisation folded in: ``wu bu wm wx bx`` and ``wg bg`` with a learned gate."""

    def array(t: Tensor) -> F64:
        return np.asarray(t.detach().double().numpy())

    gain, shift = _norm_affine(layer.norm)
    out = {
        "wu": array(layer.to_memory.weight), "bu": array(layer.to_memory.bias), "wm": gain[:, None] * array(layer.from_memory.weight),
        "wx": gain[:, None] * array(layer.from_input.weight), "bx": gain * array(layer.from_input.bias) + shift,
    }  # fmt: skip
    if layer.to_gate is not None:
        out |= {"wg": array(layer.to_gate.weight), "bg": array(layer.to_gate.bias)}
    return out


def folded_conv(conv: CausalConv) -> dict[str, F64]:
    """Return ``weight`` ``[C_out, K_t, K_f, C_in]`` and ``bias`` with the normalisation folded in."""
    gain, shift = _norm_affine(conv.norm)
    weight = conv.conv.weight.detach().double().numpy().transpose(0, 2, 3, 1)
    return {"weight": gain[:, None, None, None] * weight, "bias": shift}


def _quantize_conv(tensors: dict[str, NDArray[np.generic]], prefix: str, conv: CausalConv, in_scale: float, peak: float) -> float:
    scale = _activation_scale(peak)
    _affine(tensors, prefix, folded_conv(conv), in_scale, scale)
    tensors[prefix + "scale"] = _scale32(scale)
    return float(_scale32(scale)[0])


def _quantize_layer(
    tensors: dict[str, NDArray[np.generic]], prefix: str, layer: PDMULayer, in_scale: float, ranges: dict[str, float]
) -> float:
    c, w = layer.config, folded_layer(layer)
    name = prefix[:-1]
    m_scale, p_scale, scale = (_activation_scale(ranges[name + part]) for part in (".m", ".p", ""))
    for key, value in (("m_scale", m_scale), ("p_scale", p_scale), ("scale", scale)):
        tensors[prefix + key] = _scale32(value)

    wu, su = _int8_rows(w["wu"], w["bu"], in_scale)
    wm, sm = _int8_rows(w["wm"], np.zeros(c.hidden), m_scale)
    wx, sx = _int8_rows(w["wx"], w["bx"], in_scale)
    tensors |= {prefix + "wu": wu, prefix + "wu_scale": su.astype(np.float32), prefix + "bu": _bias(w["bu"], su * in_scale)}
    tensors[prefix + "mu"], tensors[prefix + "su"] = _multipliers(su * in_scale / m_scale)
    tensors |= {prefix + "wm": wm, prefix + "wm_scale": sm.astype(np.float32)}
    tensors[prefix + "mp"], tensors[prefix + "sp"] = _multipliers(sm * m_scale / p_scale)
    tensors |= {prefix + "wx": wx, prefix + "wx_scale": sx.astype(np.float32), prefix + "bx": _bias(w["bx"], sx * in_scale)}
    tensors |= _output_multipliers(prefix, p_scale / scale, sx * in_scale / scale, in_scale / scale if c.residual else 0.0)
    if "wg" in w:
        wg, sg = _int8_rows(w["wg"], w["bg"], in_scale)
        tensors |= {prefix + "wg": wg, prefix + "wg_scale": sg.astype(np.float32), prefix + "bg": _bias(w["bg"], sg * in_scale)}
        tensors[prefix + "mg"], tensors[prefix + "sg"] = _multipliers(sg * in_scale / LOGIT_SCALE)
    tensors |= memory_tensors(prefix, c.order, c.theta)
    return float(_scale32(scale)[0])


def memory_tensors(prefix: str, order: int, theta: float) -> dict[str, NDArray[np.generic]]:
    """Ā and B̄ as int16 with the finest common power-of-two scale that holds them."""
    a, b = lmu_matrices(order, theta)
    ka = int(np.clip(np.floor(np.log2(I16_MAX / max(np.abs(a).max(), np.abs(b).max()))), 1, 15))
    as_int = [round_half_up(v * 2.0**ka).astype(np.int16) for v in (a, b)]
    return {prefix + "aq": as_int[0], prefix + "bq": as_int[1], prefix + "ka": np.array([ka], np.int8)}


def _output_multipliers(prefix: str, t_factor: float, x_factors: F64, r_factor: float) -> dict[str, NDArray[np.generic]]:
    """One shift a row for the layer's three output terms: multipliers of t and x[h] below 2^31, of the wide accumulator below 2^30."""
    largest = np.maximum(max(t_factor, r_factor), 2 * x_factors)
    shift = np.clip(30 - np.ceil(np.log2(largest)), 1, 62).astype(np.int64)
    unit = 2.0**shift
    rows = {"mt": np.full(len(unit), t_factor), "mx": x_factors, "mr": np.full(len(unit), r_factor)}
    out: dict[str, NDArray[np.generic]] = {prefix + k: round_half_up(v * unit).astype(np.int32) for k, v in rows.items()}
    return out | {prefix + "sh": shift.astype(np.int8)}


def _affine(tensors: dict[str, NDArray[np.generic]], prefix: str, w: dict[str, F64], in_scale: float, out_scale: float) -> None:
    weight, wscale = _int8_rows(w["weight"], w["bias"], in_scale)
    tensors |= {
        prefix + "weight": weight,
        prefix + "wscale": wscale.astype(np.float32),
        prefix + "bias": _bias(w["bias"], wscale * in_scale),
    }
    tensors[prefix + "mult"], tensors[prefix + "shift"] = _multipliers(wscale * in_scale / out_scale)


def _int8_rows(weight: F64, bias: F64, in_scale: float) -> tuple[NDArray[np.int8], F64]:
    """Symmetric int8 per output row; a row's scale also keeps its bias below 2^30 accumulator counts."""
    peak = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scale = np.maximum(np.maximum(peak / 127, np.abs(bias) / in_scale / 2**30), 1e-12).astype(np.float32).astype(np.float64)
    rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(round_half_up(weight / rows), -127, 127).astype(np.int8), scale


def _bias(bias: F64, scale: F64) -> NDArray[np.int32]:
    return round_half_up(bias / scale).astype(np.int32)


def _multipliers(factors: F64) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    pairs = [quantize_multiplier(float(f)) for f in factors]
    return np.array([m for m, _ in pairs], np.int32), np.array([s for _, s in pairs], np.int8)


def _activation_scale(peak: float) -> float:
    """Scale of a symmetric int16 activation whose calibrated peak is `peak`; an activation that never moved gets a scale of its own."""
    return float(np.float32(max(peak, 1e-6) * HEADROOM / I16_MAX))


def _scale32(value: float) -> NDArray[np.float32]:
    return np.array([value], np.float32)
