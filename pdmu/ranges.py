"""Proof, from a network's actual weights, that no sum of the integer law leaves int64 (MODEL.md section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pdmu.config import ModelConfig
from pdmu.errors import UserError

INPUT_LIMIT = 1 << 15  # magnitude of an int16 activation
Wide = NDArray[np.object_]  # Python integers: a proof must not overflow itself


def check_ranges(config: ModelConfig, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise `UserError`, naming the row, unless every requantised sum stays below 2^63 whatever the input.

    Parameters
    ----------
    config : ModelConfig
    tensors : mapping
        Of the names, types and shapes that belong to `config`.
    """

    def wide(name: str) -> Wide:
        return np.asarray(tensors[name]).astype(np.int64).astype(object)

    def row_bound(weight: str, bias: str = "") -> Wide:
        """Largest magnitude of ``w · x + b`` over every int16 input, per row."""
        w = np.abs(np.asarray(tensors[weight]).astype(np.int64))
        sums = w.reshape(len(w), -1).sum(axis=1).astype(object) * INPUT_LIMIT
        return sums + np.abs(wide(bias)) if bias else sums

    def check(name: str, bound: Wide, shift: str) -> None:
        for row, (value, s) in enumerate(zip(bound, wide(shift), strict=True)):
            if value + (1 << (s - 1)) >= 1 << 63:
                bits = value.bit_length() + 1
                raise UserError(f"{name}, row {row}: a sum may need {bits} bits of 64; quantise again with fewer inputs")

    for name in [f"conv{i}" for i in range(len(config.conv))] + ["head"]:
        check(name, row_bound(f"{name}.weight", f"{name}.bias") * np.abs(wide(f"{name}.mult")), f"{name}.shift")
    for i, layer in enumerate(config.layers):
        p = f"pdmu{i}."
        rows = [("wu", "bu", "mu", "su"), ("wm", "", "mp", "sp")] + ([("wg", "bg", "mg", "sg")] if layer.gate == "softmax" else [])
        for weight, bias, multiplier, shift in rows:
            check(p + weight, row_bound(p + weight, p + bias if bias else "") * np.abs(wide(p + multiplier)), p + shift)
        taps = 0 if layer.gate == "off" else layer.taps
        delayed = np.abs(wide(p + "mt")) * (INPUT_LIMIT * (1 + taps))
        residual = np.abs(wide(p + "mr")) * INPUT_LIMIT if layer.residual else 0
        check(p + "wx", delayed + row_bound(p + "wx", p + "bx") * np.abs(wide(p + "mx")) + residual, p + "sh")
