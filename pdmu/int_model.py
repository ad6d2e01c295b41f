"""The integer model: the law every runtime conforms to (MODEL.md 2.2 and 2.3).

State is an explicit NamedTuple of constant size. `model_step` takes any number of frames; its result does not depend on how they are cut.
Products are taken in float64 by BLAS where every partial sum is below 2^53 and so exact, and in int64 elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdmu.config import ConvConfig, ModelConfig
from pdmu.fixedpoint import exact_matmul, requant, sigmoid_q15, softmax_q15
from pdmu.int_layer import I16, LayerState, Stages, Weights, layer_init, layer_step
from pdmu.tables import exp_table, sigmoid_table
from pdmu.tensors import Tensors


@dataclass(frozen=True)
class IntModel:
    """A quantised network: its configuration and its tensors (names and layouts in ``pdmu/bundle.py``)."""

    config: ModelConfig
    n_mels: int
    tensors: Tensors

    def __getitem__(self, name: str) -> NDArray[np.int64]:
        return np.asarray(self.tensors[name]).astype(np.int64)

    def layer(self, index: int) -> Weights:
        """Return what gives the tensors of a recurrent layer by their short names."""
        return lambda key: self[f"pdmu{index}.{key}"]


class ModelState(NamedTuple):
    """State of the whole network between calls."""

    pending: I16  # [< S, n_mels] frames that do not yet fill a model step
    conv: tuple[I16, ...]  # per convolution [K_t - s_t, bins, C_in]
    layers: tuple[LayerState, ...]

    def arrays(self) -> dict[str, NDArray[np.signedinteger]]:
        """Every array but the pending frames, by its name: ``conv0``, ``pdmu0.memory``, ``pdmu0.delayed`` …"""
        conv = {f"conv{i}": kept for i, kept in enumerate(self.conv)}
        return conv | {f"pdmu{i}.{name}": v for i, layer in enumerate(self.layers) for name, v in layer.arrays().items()}


def model_init(model: IntModel) -> ModelState:
    """Return the state before the first frame: all zero."""
    c, shapes = model.config, model.config.conv_shapes(model.n_mels)
    conv = tuple(np.zeros((k.kernel_time - k.stride_time, *shapes[i]), np.int16) for i, k in enumerate(c.conv))
    return ModelState(np.zeros((0, model.n_mels), np.int16), conv, tuple(layer_init(layer) for layer in c.layers))


def model_step(model: IntModel, state: ModelState, features: I16) -> tuple[ModelState, I16]:
    """Run the network over any number of frames.

    Parameters
    ----------
    model : IntModel
    state : ModelState
    features : ndarray of int16
        ``[frames, n_mels]`` Q9; frames may be 0.

    Returns
    -------
    state : ModelState
    scores : ndarray of int16
        ``[steps, n_labels]`` Q15.
    """
    state, scores, _ = model_trace(model, state, features)
    return state, scores


def model_trace(model: IntModel, state: ModelState, features: I16) -> tuple[ModelState, I16, Stages]:
    """Do what `model_step` does and return every stage's output too, by name, for conformance tests."""
    c = model.config
    frames = np.concatenate([state.pending, features])
    steps = len(frames) // c.frames_per_step
    used, pending = frames[: steps * c.frames_per_step], frames[steps * c.frames_per_step :]
    if steps == 0:
        return state._replace(pending=pending.copy()), np.zeros((0, len(c.labels)), np.int16), {}
    trace = Stages()
    x, conv_state, layer_state = used[:, :, None], [], []
    for i, conv in enumerate(c.conv):
        kept, x = conv_step(model, i, conv, state.conv[i], x)
        conv_state.append(kept)
        trace[f"conv{i}"] = x
    y = x.reshape(steps, -1)
    for i, layer in enumerate(c.layers):
        after, y, inner = layer_step(layer, model.layer(i), state.layers[i], y)
        layer_state.append(after)
        trace |= {f"pdmu{i}.{k}": v for k, v in inner.items()} | {f"pdmu{i}": y}
    acc = exact_matmul(y, model["head.weight"]) + model["head.bias"]
    logits = requant(acc, model["head.mult"], model["head.shift"])
    scores = softmax_q15(logits, exp_table()) if c.head == "softmax" else sigmoid_q15(logits, sigmoid_table())
    trace |= {"logits": logits, "scores": scores}
    return ModelState(pending.copy(), tuple(conv_state), tuple(layer_state)), scores, trace


def conv_step(model: IntModel, index: int, conv: ConvConfig, kept: I16, x: I16) -> tuple[I16, I16]:
    """One causal convolution over a block.

    Parameters
    ----------
    kept : ndarray of int16
        ``[K_t - s_t, bins, C_in]`` frames before the block.
    x : ndarray of int16
        ``[frames, bins, C_in]``, frames a multiple of the time stride.

    Returns
    -------
    kept, y : ndarray of int16
        The frames the next block needs, and ``[frames / s_t, bins_out, C_out]``.
    """
    name = f"conv{index}."
    full = np.concatenate([kept, x])
    bins_out = -(-x.shape[1] // conv.stride_mel)
    before = (conv.kernel_mel - 1) // 2
    after = (bins_out - 1) * conv.stride_mel + conv.kernel_mel - before - x.shape[1]
    padded = np.pad(full, ((0, 0), (before, max(0, after)), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (conv.kernel_time, conv.kernel_mel), axis=(0, 1))
    windows = windows[:: conv.stride_time, :: conv.stride_mel][:, :bins_out]  # [T', bins', C_in, K_t, K_f]
    weight = model[name + "weight"]
    if conv.depthwise:
        acc = np.einsum("tbcij,cij->tbc", windows.astype(np.float64), weight[..., 0].astype(np.float64)).astype(np.int64)
    else:
        flat = windows.transpose(0, 1, 3, 4, 2).reshape(*windows.shape[:2], -1)
        acc = exact_matmul(flat, weight.reshape(len(weight), -1))
    y = requant(acc + model[name + "bias"], model[name + "mult"], model[name + "shift"], low=0)
    return full[len(full) - (conv.kernel_time - conv.stride_time) :].copy(), y
