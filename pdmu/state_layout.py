"""How the C runtime names its stages and lays out a model's state, so that both can be compared with the law's, piece by piece.

`state_members` is the one definition of ``pdmu_model_state``; the exporter writes ``model_data.h`` from it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdmu.bundle import Bundle, int_model
from pdmu.frontend import FrontendState, frontend_init, frontend_step
from pdmu.int_model import I16, IntModel, ModelState, conv_step, model_init, model_trace

# By number of pdmu_stage; {} is the convolution's or layer's.
STAGES = ("smoother", "features", "conv{}", "pdmu{}.u", "pdmu{}.m", "pdmu{}.p", "pdmu{}.g", "pdmu{}", "logits", "scores",
          "pdmu{}.v", "pdmu{}.v_u", "pdmu{}.v_r", "pdmu{}.r")  # fmt: skip
ALIGNMENT = 8  # of the struct, whose widest members come first


def stage_name(stage: int, index: int) -> str:
    """Return the name that `law_trace` gives a stage of the C runtime; raises IndexError where there is none.

    >>> stage_name(4, 1)
    'pdmu1.m'
    """
    return STAGES[stage].format(index)


def stage_values(stage: int, raw: bytes) -> NDArray[np.integer]:
    """Return a stage's little-endian bytes as the integers they are, flat: int64 smoother, int32 potentials, int16 everything else."""
    part = STAGES[stage].removeprefix("pdmu{}.")
    return np.frombuffer(raw, "<i8" if part == "smoother" else "<i4" if part in ("v", "v_u", "v_r") else "<i2")


class Member(NamedTuple):
    """An array of the state struct."""

    name: str
    dtype: str  # int64, int32 or int16
    size: int


def state_members(bundle: Bundle) -> list[Member]:
    """Return the members of ``pdmu_model_state`` in order."""
    model, fe = bundle.model, bundle.frontend
    members = [
        Member("smoother", "int64", fe.n_mels),
        Member("counters", "int32", 2 + len(model.conv) + len(model.layers)),
        Member("history", "int16", fe.window_samples),
    ]
    for i, (conv, (bins, channels)) in enumerate(zip(model.conv, model.conv_shapes(fe.n_mels), strict=False)):
        members.append(Member(f"conv{i}", "int16", conv.kernel_time * bins * channels))
    for i, layer in enumerate(model.layers):
        size = layer.channels * layer.order
        members.append(Member(f"pdmu{i}_m", "int16", size))
        if layer.gate != "off":
            members.append(Member(f"pdmu{i}_p", "int16", layer.delay_steps * layer.line_width))
        if layer.gate == "softmax":
            members.append(Member(f"pdmu{i}_g", "int16", layer.delay_steps * layer.taps))
        if layer.spiking:
            members.append(Member(f"pdmu{i}_v", "int32", layer.hidden))
        if layer.spikes_inside:
            members += [Member(f"pdmu{i}_v_u", "int32", layer.channels), Member(f"pdmu{i}_v_r", "int32", size)]
    return sorted(members, key=lambda m: -np.dtype(m.dtype).itemsize)  # no padding between them


def state_bytes(bundle: Bundle) -> int:
    """Return the size of the state struct."""
    size = sum(m.size * np.dtype(m.dtype).itemsize for m in state_members(bundle))
    return -(-size // ALIGNMENT) * ALIGNMENT


def split_state(bundle: Bundle, raw: bytes) -> dict[str, NDArray[np.integer]]:
    """Return the members of a state struct's little-endian bytes.

    Raises
    ------
    ValueError
        There are too few or too many bytes.
    """
    if len(raw) != state_bytes(bundle):
        raise ValueError(f"{len(raw)} bytes of state, the bundle's have {state_bytes(bundle)}")
    out, at = {}, 0
    for m in state_members(bundle):
        dtype = np.dtype(m.dtype).newbyteorder("<")
        out[m.name] = np.frombuffer(raw, dtype, m.size, at)
        at += m.size * dtype.itemsize
    return out


class LawTrace(NamedTuple):
    """What the law computes over a stream from a fresh state."""

    stages: dict[str, NDArray[np.integer]]  # [calls, …]: int64 for ``smoother``, int32 for potentials, int16 for the others
    state: dict[str, NDArray[np.integer]]  # what is left, as far as the members of the struct mean anything; flat


def law_trace(bundle: Bundle, pcm: NDArray[np.int16]) -> LawTrace:
    """Run the law over PCM int16 [n] and return every call of every stage, and the state at the end as C has it."""
    front, frames, smoother = frontend_init(bundle.frontend), [], []
    for begin in range(0, len(pcm), bundle.frontend.hop_samples):
        front, features = frontend_step(bundle.frontend, front, pcm[begin : begin + bundle.frontend.hop_samples])
        frames.append(features)
        smoother += [front.smoother] * len(features)
    features = np.concatenate([np.zeros((0, bundle.frontend.n_mels), np.int16), *frames])
    network = int_model(bundle)
    state, scores, trace = model_trace(network, model_init(network), features)
    stages: dict[str, NDArray[np.integer]] = {"features": features, **trace}
    if bundle.frontend.compression == "pcen":
        stages = {"smoother": np.array(smoother, np.int64).reshape(-1, bundle.frontend.n_mels)} | stages
    held, begun = _begun_step(network, state)
    stages |= {name: np.concatenate([stages[name], more]) if name in stages else more for name, more in begun.items()}
    return LawTrace(stages, _final_state(bundle, front, state, held, len(scores), len(pcm)))


def _begun_step(network: IntModel, state: ModelState) -> tuple[list[I16], dict[str, I16]]:
    """Run the frames that do not fill a model step as far as C does, which takes each at once.

    Returns
    -------
    held : list of ndarray
        Per convolution, the frames its buffer holds ``[frames, bins, C_in]``.
    begun : dict
        What the convolutions gave, by stage.
    """
    x, held, begun = state.pending[:, :, None], [], {}
    for i, conv in enumerate(network.config.conv):
        used = len(x) // conv.stride_time * conv.stride_time
        kept = state.conv[i]
        rest, y = x[used:], x[:0]
        if used:
            kept, y = conv_step(network, i, conv, kept, x[:used])
            begun[f"conv{i}"] = y
        held.append(np.concatenate([kept, rest]) if len(rest) else kept)
        x = y
    return held, begun


def _final_state(bundle: Bundle, front: FrontendState, state: ModelState, held: list[I16], steps: int,
                 samples: int) -> dict[str, NDArray[np.integer]]:  # fmt: skip
    layers = bundle.model.layers
    positions = [steps % layer.delay_steps if layer.gate != "off" else 0 for layer in layers]
    counters = [len(front.history), samples % bundle.samples_per_step, *map(len, held), *positions]
    out: dict[str, NDArray[np.integer]] = {"smoother": front.smoother, "counters": np.array(counters, np.int32), "history": front.history}
    out |= {f"conv{i}": rows.reshape(-1) for i, rows in enumerate(held)}
    for i, (layer, after, position) in enumerate(zip(layers, state.layers, positions, strict=True)):
        arrays = after.arrays()
        out[f"pdmu{i}_m"] = after.memory.reshape(-1)
        if layer.gate != "off":  # a ring: the oldest, or what arrives next, stands where the next step will
            ring = arrays["arriving" if layer.routed else "delayed"]
            out[f"pdmu{i}_p"] = np.roll(ring, position, axis=0).reshape(-1)
        if layer.gate == "softmax":
            out[f"pdmu{i}_g"] = np.roll(arrays["gates"], position, axis=0).reshape(-1)
        out |= {f"pdmu{i}_{name}": arrays[name] for name in ("v", "v_u", "v_r") if name in arrays}
    return {m.name: out[m.name] for m in state_members(bundle)}
