"""Quantisation of one recurrent layer: PDMU, LMU, EPDMU and the spiking DMU (MODEL.md 2.3 and 2.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deploy.scales import F64, Tensors, activation_scale, bias_counts, int8_rows, multipliers, scale32
from pdmu.errors import UserError
from pdmu.fixedpoint import I16_MAX
from pdmu.int_layer import THRESHOLD
from pdmu.nn.layer import PDMULayer
from pdmu.nn.scan import memory_chunked
from pdmu.tables import LOGIT_FRAC_BITS, lmu_matrices, round_half_up
from pdmu.tensors import MAX_DECAY_Q15
from spiking.sdmu import LIF, SpikingDMULayer

LOGIT_SCALE = 2.0**-LOGIT_FRAC_BITS
MAX_FACTOR = 2.0**29  # of a layer's terms into its output's counts: beyond it no multiplier is left


def see_layer(name: str, layer: PDMULayer, x: Tensor, see: Callable[[str, Tensor], None]) -> Tensor:
    """Run a layer over a whole recording, show `see` every value that is quantised, and return the layer's output."""
    c = layer.config
    state: Any = layer.init_state(len(x), x)
    u = layer.write(x)
    if isinstance(layer, SpikingDMULayer) and layer.write_neurons is not None:
        u, _ = layer.write_neurons(u, state.neurons[1])
    m = memory_chunked(c.order, c.theta, u, state.memory)
    see(name + ".m", u)
    see(name + ".m", m)
    gain = torch.as_tensor(norm_affine(layer.norm)[0], dtype=x.dtype)
    value, unit = (m, 1.0) if layer.delays_memory else (layer.from_memory(m.flatten(2)), gain)
    line = ".m" if layer.delays_memory else ".p"
    see(name + line, value * unit)
    if layer.routed:  # what is under way adds up on the line
        see(name + line, (layer.deliver(state.delay, value, layer.gate(x, u, m))[1] - value) * unit)
    h, _ = layer(x, state)
    see(name, h)
    return h


def norm_affine(norm: Any) -> tuple[F64, F64]:
    """Batch normalisation in evaluation mode as (gain, shift)."""
    mean, var, weight, bias = (v.detach().double().numpy() for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    gain = weight / np.sqrt(var + norm.eps)
    return gain, bias - mean * gain


def folded_layer(layer: PDMULayer) -> dict[str, F64]:
    """Return the layer's matrices with its normalisation folded in: ``wu bu wm wx bx`` and ``wg bg`` with a learned gate."""

    def array(t: Tensor) -> F64:
        return np.asarray(t.detach().double().numpy())

    gain, shift = norm_affine(layer.norm)
    out = {
        "wu": array(layer.to_memory.weight), "bu": array(layer.to_memory.bias), "wm": gain[:, None] * array(layer.from_memory.weight),
        "wx": gain[:, None] * array(layer.from_input.weight), "bx": gain * array(layer.from_input.bias) + shift,
    }  # fmt: skip
    if layer.to_gate is not None:
        out |= {"wg": array(layer.to_gate.weight), "bg": array(layer.to_gate.bias)}
    return out


def quantize_layer(tensors: Tensors, prefix: str, layer: PDMULayer, in_scale: float, ranges: dict[str, float]) -> float:
    """Add a layer's tensors, and return the real value of one count of its output.

    Parameters
    ----------
    tensors : dict
        Gets the new ones, their names after `prefix`.
    prefix : str
        ``"pdmu0."``.
    layer : PDMULayer
    in_scale : float
        Real value of one count of the input; 1 of spikes.
    ranges : dict
        Of `deploy.quantize.calibrate`.

    Raises
    ------
    UserError
        A threshold is not positive, or so small that potentials have no room.
    """
    c, w, name = layer.config, folded_layer(layer), prefix[:-1]
    t: Tensors = memory_tensors(c.order, c.theta)
    m_scale, p_scale, scale = (activation_scale(ranges.get(name + part, 0.0)) for part in (".m", ".p", ""))
    outputs = np.full(c.hidden, scale)  # real value of one count of what the last sum gives
    u_scale = np.full(c.channels, m_scale)
    if isinstance(layer, SpikingDMULayer):
        scale = 1.0
        outputs = _neurons(t, "", layer.output_neurons, name)
    if isinstance(layer, SpikingDMULayer) and layer.write_neurons is not None and layer.read_neurons is not None:
        t["us"] = np.array([min(I16_MAX, int(1 / m_scale))], np.int16)
        m_scale = 1 / float(t["us"][0])  # a spike is a whole number of counts of m
        u_scale = _neurons(t, "_u", layer.write_neurons, name)
        t["mz"], t["sz"] = multipliers(m_scale / _neurons(t, "_r", layer.read_neurons, name))
    t |= {key: scale32(value) for key, value in (("m_scale", m_scale), ("scale", scale))}
    sx = _matrix(t, "x", w["wx"], in_scale, w["bx"])
    sm = _matrix(t, "m", w["wm"], 1.0 if c.spikes_inside else m_scale)
    _requantised(t, "u", w["wu"], w["bu"], in_scale, u_scale)
    if c.spikes_inside:
        read = sm
    else:
        t["p_scale"], read = scale32(p_scale), np.full(c.hidden, p_scale)
        t["mp"], t["sp"] = multipliers(sm * m_scale / p_scale)
    t |= _output_multipliers(read / outputs, sx * in_scale / outputs, in_scale / outputs * c.residual, name)
    if c.spiking:
        del t["mr"]
    if "wg" in w:
        _requantised(t, "g", w["wg"], w["bg"], in_scale, LOGIT_SCALE)
    tensors.update({prefix + key: value for key, value in t.items()})
    return float(scale32(scale)[0])


def _matrix(t: Tensors, key: str, weight: F64, in_scale: float, bias: F64 | None = None) -> F64:
    """Add ``w{key}``, its scales and, where it has one, its bias; return the scales."""
    rows, scale = int8_rows(weight, np.zeros(len(weight)) if bias is None else bias, in_scale)
    t |= {f"w{key}": rows, f"w{key}_scale": scale.astype(np.float32)}
    if bias is not None:
        t[f"b{key}"] = bias_counts(bias, scale * in_scale)
    return scale


def _requantised(t: Tensors, key: str, weight: F64, bias: F64, in_scale: float, out_scale: F64 | float) -> None:
    scale = _matrix(t, key, weight, in_scale, bias)
    t[f"m{key}"], t[f"s{key}"] = multipliers(scale * in_scale / out_scale)


def _neurons(t: Tensors, suffix: str, neurons: LIF, name: str) -> F64:
    """Add a row of neurons, and return the real value of one count of each one's potential."""
    threshold, beta = (v.detach().double().numpy() for v in (neurons.threshold, neurons.beta))
    if threshold.min() <= 0:
        raise UserError(f"cannot quantise: {name} has a threshold of {threshold.min():g}; train again with learn_threshold = false")
    t[f"beta{suffix}"] = round_half_up(np.clip(beta, 0, 1) * MAX_DECAY_Q15).astype(np.int32)
    scale = (threshold / THRESHOLD).astype(np.float32)
    t[f"v{suffix}_scale"] = scale
    return np.asarray(scale.astype(np.float64))


def memory_tensors(order: int, theta: float) -> Tensors:
    """Ā and B̄ as int16 with the finest common power-of-two scale that holds them."""
    a, b = lmu_matrices(order, theta)
    ka = int(np.clip(np.floor(np.log2(I16_MAX / max(np.abs(a).max(), np.abs(b).max()))), 1, 15))
    as_int = [round_half_up(v * 2.0**ka).astype(np.int16) for v in (a, b)]
    return {"aq": as_int[0], "bq": as_int[1], "ka": np.array([ka], np.int8)}


def _output_multipliers(t_factors: F64, x_factors: F64, r_factors: F64, name: str) -> Tensors:
    """One shift a row for the layer's three output terms: multipliers of t and x[h] below 2^31, of the wide accumulator below 2^30."""
    largest = np.maximum(np.maximum(t_factors, r_factors), 2 * x_factors)
    if largest.max() >= MAX_FACTOR:
        raise UserError(f"cannot quantise: {name} has outputs, or a threshold, too small for its weights; the training diverged")
    shift = np.clip(30 - np.ceil(np.log2(largest)), 1, 62).astype(np.int64)
    rows = {"mt": t_factors, "mx": x_factors, "mr": r_factors}
    out: Tensors = {key: round_half_up(v * 2.0**shift).astype(np.int32) for key, v in rows.items()}
    return out | {"sh": shift.astype(np.int8)}
