"""The generated C of a network's recurrent layers: their descriptors, and the sizes of scratch."""

from __future__ import annotations

from typing import Any

import numpy as np

from deploy.c_text import Keys, Layout, array, dense, members
from pdmu.bundle import Bundle
from pdmu.config import PDMUConfig

NO_MAP = "{0, 0, NULL, NULL, NULL, NULL, NULL}"


def scratch_sizes(bundle: Bundle) -> dict[str, int]:
    """Return the lengths of the scratch's members; zero of one that the network does not need."""
    model, shapes = bundle.model, bundle.model.conv_shapes(bundle.frontend.n_mels)
    activations = [bins * channels for bins, channels in shapes[1:]] + [layer.hidden for layer in model.layers]
    patches = [patch_width(c.kernel_time * c.kernel_mel * ch) for c, (_, ch) in zip(model.conv, shapes, strict=False) if not c.depthwise]
    inside = [p.channels * p.order for p in model.layers if p.spikes_inside]
    patches += [max(_fours(p.channels) + p.order, p.hidden + _fours(p.taps)) for p in model.layers] + inside
    sums = [rows for p in model.layers if p.spiking for rows in (p.channels, p.hidden, p.taps)]
    sums += [len(model.labels)] if model.layers[-1].spiking else []
    return {
        "vector": max(activations),
        "patch": max(patches),
        "acc": max([p.hidden for p in model.layers] + inside),
        "sums": max(sums, default=0),
    }


def patch_width(inputs: int) -> int:
    """Return the inputs of a convolution's output with the zeros after them that fill eights."""
    return -(-inputs // 8) * 8


def _fours(rows: int) -> int:
    return -(-rows // 4) * 4


def _over_spikes(bundle: Bundle) -> list[bool]:
    """Whether the inputs of each layer, and last of the head, are spikes."""
    return [False] + [layer.spiking for layer in bundle.model.layers]


def layer_descriptor(bundle: Bundle, index: int, inputs: int, parts: list[str]) -> str:
    """Append a layer's arrays to `parts` and return its descriptor."""
    p, name = bundle.model.layers[index], f"pdmu{index}"
    events = p.spiking and _over_spikes(bundle)[index]
    inside = p.spikes_inside

    padded = Layout.COLUMNS if events else Layout.PADDED

    def linear(keys: Keys, layout: Layout) -> str:
        return dense(bundle, name, keys, parts, layout)

    return "    {\n" + members({
        "inputs": inputs,
        "hidden": p.hidden,
        "channels": p.channels,
        "order": p.order,
        "taps": p.taps,
        "dilation": p.dilation,
        "events": int(events),
        "spiking": _spiking(bundle, index, p, parts) if p.spiking else "NULL",
        "gate": f"PDMU_GATE_{p.gate.upper()}",
        "uniform_q15": min(32767, ((1 << 15) + p.taps // 2) // p.taps),
        "u": linear(("wu", "bu", "mu", "su"), Layout.PLAIN if inside and not events else padded),
        "a": _tensor(bundle, name, "int16_t", "aq", parts),
        "b": _tensor(bundle, name, "int16_t", "bq", parts),
        "ka": int(np.asarray(bundle.tensors[f"{name}.ka"])[0]),
        "p": linear(("wm", None, None, None), Layout.COLUMNS) if inside else linear(("wm", None, "mp", "sp"), Layout.ROWS),
        "g": linear(("wg", "bg", "mg", "sg"), padded) if p.gate_is_learned else NO_MAP,
        "x": linear(("wx", "bx", "mx", "sh"), Layout.COLUMNS if events else Layout.ROWS),
        "mult_t": _tensor(bundle, name, "int32_t", "mt", parts),
        "mult_r": _tensor(bundle, name, "int32_t", "mr", parts) if p.residual else "NULL",
        "state_m": _offset(f"{name}_m"),
        "state_p": _offset(f"{name}_p") if p.gate != "off" else "0",
        "state_g": _offset(f"{name}_g") if p.gate == "softmax" else "0",
    }, "        ") + "\n    }"  # fmt: skip


def _spiking(bundle: Bundle, index: int, p: PDMUConfig, parts: list[str]) -> str:
    """Append the description of a spiking layer's neurons and return its address."""
    name, inside = f"pdmu{index}", p.spikes_inside

    def neurons(suffix: str) -> str:
        return f"{{{_tensor(bundle, name, 'uint16_t', f'beta{suffix}', parts)}, {_offset(f'{name}_v{suffix}')}}}"

    values: dict[str, Any] = {"reset_zero": int(p.lif.reset == "zero"), "inside": int(inside), "outputs": neurons("")}
    if inside:
        values |= {
            "write_counts": int(np.asarray(bundle.tensors[f"{name}.us"])[0]),
            "writes": neurons("_u"),
            "reads": neurons("_r"),
            "read_mult": _tensor(bundle, name, "int32_t", "mz", parts),
            "read_shift": _tensor(bundle, name, "uint8_t", "sz", parts),
        }
    parts.append(f"static const pdmu_spiking {name}_spiking = {{\n{members(values)}\n}};\n")
    return f"&{name}_spiking"


def _tensor(bundle: Bundle, prefix: str, ctype: str, key: str, parts: list[str]) -> str:
    """Append a tensor as an array and return its name."""
    parts.append(array(ctype, f"{prefix}_{key}", bundle.tensors[f"{prefix}.{key}"]))
    return f"{prefix}_{key}"


def _offset(member: str) -> str:
    return f"offsetof(pdmu_model_state, {member})"
