"""Pieces of generated C: strings, arrays, initialisers, and the linear maps that everything is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
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


def _weights(name: str, values: NDArray[np.int64], fours: bool) -> str:
    """Return an array of weights, in the processor's own order of four if they lie in blocks of eight columns."""
    text = array("PDMU_ALIGNED pdmu_weight", name, values)
    return re.sub(r"(-?\d+), (-?\d+), (-?\d+), (-?\d+)(?=[,\n])", r"PDMU_FOUR(\1, \2, \3, \4)", text) if fours else text


def members(values: Mapping[str, Any], indent: str = "    ") -> str:
    """Designated initialisers of a struct's members."""
    return ",\n".join(f"{indent}.{key} = {value}" for key, value in values.items())


Keys = tuple[str, str | None, str | None, str | None]  # weight, bias, multiplier, shift
SUM_OF_LAYER = "sh"  # the shift that scales a layer's whole sum, not the linear map that the key stands with
Tensor = NDArray[np.int64] | None


class Layout(Enum):
    """How a linear map's weights lie: plain, and in blocks of four rows where the runtime can take them so (`pdmu_dense` of ``pdmu.h``)."""

    ROWS = "[rows][cols], blocks [rows / 4][cols / 8][4][8]"
    PLAIN = "[rows][cols]"
    PADDED = "ROWS, the last one repeated up to a multiple of four: a runtime has room for their outputs"
    COLUMNS = "[cols][rows], as a runtime that adds the weights of spiking inputs wants them"
    TAPS = "[cols][rows], blocks [rows / 4][cols][4]: a row is a depthwise channel, a column a tap of its kernel"


def dense(
    bundle: Bundle, prefix: str, keys: Keys, parts: list[str], layout: Layout = Layout.ROWS, weight: NDArray[np.generic] | None = None
) -> str:
    """Append a linear map's arrays to `parts` and return its descriptor.

    Parameters
    ----------
    bundle : Bundle
    prefix : str
        Of the tensors' names.
    keys : tuple
        The rest of the names of weight, bias, multiplier and shift; None where there is none.
    parts : list of str
    layout : Layout
    weight : ndarray, optional
        ``[rows, cols]``, where it is not the bundle's own.
    """
    stored = np.asarray(bundle.tensors[f"{prefix}.{keys[0]}"])
    matrix = (stored.reshape(len(stored), -1) if weight is None else weight).astype(np.int64)
    tensors = [None if key is None else np.asarray(bundle.tensors[f"{prefix}.{key}"]).astype(np.int64) for key in keys[1:]]
    if layout is Layout.PADDED:
        matrix, tensors = _padded(matrix), [None if values is None else _padded(values) for values in tensors]
    name = f"{prefix}_{keys[0]}"
    bias, mult, shift = tensors
    blocked = _blocks(matrix, layout) if _fits_quads(matrix, bias, mult, shift, scaled=keys[3] != SUM_OF_LAYER) else None
    plain = matrix.T if layout in (Layout.COLUMNS, Layout.TAPS) else matrix
    parts.append(_weights(name, plain if blocked is None else blocked, fours=blocked is not None and layout is not Layout.TAPS))
    names = [name]
    for ctype, key, values in zip(("int32_t", "int32_t", "uint8_t"), keys[1:], tensors, strict=True):
        needed = key is not None and (blocked is None or keys[3] == SUM_OF_LAYER)
        names.append(f"{prefix}_{key}" if needed else "NULL")
        if needed:
            parts.append(array(ctype, names[-1], values))
    names.append("NULL" if blocked is None else f"{name}_quads")
    if blocked is not None:
        parts.append(array("int32_t", names[-1], _quads(len(matrix), bias, mult, shift)))
    return f"{{{len(matrix)}, {matrix.shape[1]}, {', '.join(names)}}}"


def _padded(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.pad(rows, ((0, -len(rows) % 4), *[(0, 0)] * (rows.ndim - 1)), mode="edge")


def _fits_quads(weight: NDArray[np.int64], bias: Tensor, mult: Tensor, shift: Tensor, scaled: bool) -> bool:
    """Whether every sum of a linear map fits int32 and, if it is scaled by itself, the high word of its product is enough."""
    largest = np.abs(weight).sum(axis=1) * 32768 + (0 if bias is None else np.abs(bias))
    return bool(mult is not None and shift is not None and (shift.min() > 32 or not scaled) and largest.max() < 1 << 31)


def _blocks(weight: NDArray[np.int64], layout: Layout) -> NDArray[np.int64] | None:
    rows, cols = weight.shape
    if layout in (Layout.ROWS, Layout.PADDED) and rows % 4 == 0 and cols % 8 == 0:
        return weight.reshape(rows // 4, 4, cols // 8, 8).transpose(0, 2, 1, 3)
    if layout is Layout.TAPS and rows % 4 == 0:
        return weight.reshape(rows // 4, 4, cols).transpose(0, 2, 1)
    return None


def _quads(rows: int, bias: Tensor, mult: Tensor, shift: Tensor) -> NDArray[np.int64]:
    assert mult is not None and shift is not None
    parameters = (np.zeros(rows, np.int64) if bias is None else bias, mult, shift - 33)
    return np.stack([v.reshape(-1, 4) for v in parameters], axis=1)
