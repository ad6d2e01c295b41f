"""Pieces of generated C: strings, arrays, initialisers, and the linear maps that everything is made of."""

from __future__ import annotations

import math
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
    stored = np.asarray(bundle.tensors[f"{prefix}.{keys[0]}"])
    names = {}
    for field, ctype, key in zip(("weight", "bias", "mult", "shift"), ("int8_t", "int32_t", "int32_t", "uint8_t"), keys, strict=True):
        names[field] = f"{prefix}_{key}" if key else "NULL"
        if key:
            values = weight if field == "weight" and weight is not None else bundle.tensors[f"{prefix}.{key}"]
            parts.append(array(ctype, names[field], values))
    return f"{{{len(stored)}, {math.prod(stored.shape[1:])}, {', '.join(names.values())}}}"


def columns(bundle: Bundle, name: str) -> NDArray[np.generic]:
    """A matrix with the weights of an input side by side, as a runtime that adds those of spiking inputs wants them."""
    return np.ascontiguousarray(np.asarray(bundle.tensors[name]).T)
