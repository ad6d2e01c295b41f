"""Pieces of generated C: strings, arrays, initialisers, and the linear maps that everything is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdmu.bundle import Bundle


def c_string(text: str) -> str:
    """A C literal of UTF-8 bytes; octal escapes end after three digits, whatever follows."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode()) + '"'


def array(ctype: str, name: str, values: Any) -> str:
    """A const array of a C type, 20 values a line."""
    flat = [str(int(v)) for v in np.asarray(values).reshape(-1)]
    lines = ["    " + ", ".join(flat[i : i + 20]) for i in range(0, len(flat), 20)]
    return f"static const {ctype} {name}[{len(flat)}] = {{\n" + ",\n".join(lines) + "\n};\n"


def members(values: Mapping[str, Any], indent: str = "    ") -> str:
    """Designated initialisers of a struct's members."""
    return ",\n".join(f"{indent}.{key} = {value}" for key, value in values.items())


Keys = tuple[str, str | None, str | None, str | None]  # weight, bias, multiplier, shift


def dense(bundle: Bundle, prefix: str, keys: Keys, parts: list[str], weight: NDArray[np.generic] | None = None) -> str:
    """Append a linear map's arrays to `parts` and return its descriptor; `weight` overrides the layout in the bundle."""
    rows = len(np.asarray(bundle.tensors[f"{prefix}.{keys[0]}"]))
    weight = np.asarray(bundle.tensors[f"{prefix}.{keys[0]}"] if weight is None else weight)
    names = {}
    types = ("PDMU_ALIGNED pdmu_weight", "int32_t", "int32_t", "uint8_t")
    for field, ctype, key in zip(("weight", "bias", "mult", "shift"), types, keys, strict=True):
        names[field] = f"{prefix}_{key}" if key else "NULL"
        if key:
            parts.append(array(ctype, names[field], weight if field == "weight" else bundle.tensors[f"{prefix}.{key}"]))
    return f"{{{rows}, {weight.size // rows}, {', '.join(names.values())}, {int(_narrow(bundle, prefix, keys))}}}"


def _narrow(bundle: Bundle, prefix: str, keys: Keys) -> bool:
    """Whether every sum of a linear map fits int32 and, where it is scaled by itself, its product's high word is enough."""
    weight, bias, _, shift = (None if key is None else np.asarray(bundle.tensors[f"{prefix}.{key}"]).astype(np.int64) for key in keys)
    assert weight is not None
    largest = np.abs(weight).reshape(len(weight), -1).sum(axis=1) * 32768 + (0 if bias is None else np.abs(bias))
    return bool(shift is not None and (keys[3] == "sh" or shift.min() > 32) and largest.max() < 1 << 31)


def columns(bundle: Bundle, name: str) -> NDArray[np.generic]:
    """A matrix with the weights of an input side by side, as a runtime that adds those of spiking inputs wants them."""
    return np.ascontiguousarray(np.asarray(bundle.tensors[name]).T)
