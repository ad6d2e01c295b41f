"""Proof, from a network's actual weights, that no sum of the integer law leaves int64 (MODEL.md section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pdmu.config import ModelConfig, PDMUConfig
from pdmu.errors import UserError

INPUT_LIMIT = 1 << 15  # magnitude of an int16 activation; of a spike it is one
Wide = NDArray[np.object_]  # Python integers: a proof must not overflow itself


def check_ranges(config: ModelConfig, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise `UserError`, naming the row, unless requantised sums stay below 2^63 whatever the input, and those over spikes below 2^31.

    Parameters
    ----------
    config : ModelConfig
    tensors : mapping
        Of the names, types and shapes that belong to `config`.
    """
    proof = _Proof(tensors)
    for i in range(len(config.conv)):
        proof.affine(f"conv{i}.", ("weight", "bias", "mult", "shift"), INPUT_LIMIT)
    limit = INPUT_LIMIT
    for i, layer in enumerate(config.layers):
        _check_layer(proof, f"pdmu{i}.", layer, limit)
        limit = 1 if layer.spiking else INPUT_LIMIT
    proof.affine("head.", ("weight", "bias", "mult", "shift"), limit)


def _check_layer(proof: _Proof, p: str, layer: PDMUConfig, limit: int) -> None:
    proof.affine(p, ("wu", "bu", "mu", "su"), limit)
    if layer.gate_is_learned:
        proof.affine(p, ("wg", "bg", "mg", "sg"), limit)
    arriving = 0 if layer.gate == "off" else 1 if layer.routed else layer.taps  # in units of the largest value; a routing line saturates
    total = INPUT_LIMIT * (1 + arriving)
    if layer.spikes_inside:
        proof.check(p + "mz", np.abs(proof.wide(p + "mz")) * total, p + "sz")
        read = proof.sums(p + "wm", "", 1)
    else:
        proof.affine(p, ("wm", "", "mp", "sp"), INPUT_LIMIT)
        read = np.full(layer.hidden, total, object)
    mixed = np.abs(proof.wide(p + "mt")) * read + proof.sums(p + "wx", p + "bx", limit) * np.abs(proof.wide(p + "mx"))
    residual = np.abs(proof.wide(p + "mr")) * limit if layer.residual else 0
    proof.check(p + "wx", mixed + residual, p + "sh")


class _Proof:
    """The tensors as Python integers, and bounds of sums over them."""

    def __init__(self, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        self.tensors = tensors

    def wide(self, name: str) -> Wide:
        return np.asarray(self.tensors[name]).astype(np.int64).astype(object)

    def sums(self, weight: str, bias: str, limit: int) -> Wide:
        """Largest magnitude of ``w · x + b`` over every input of magnitudes up to `limit`, per row."""
        w = np.abs(np.asarray(self.tensors[weight]).astype(np.int64))
        sums = np.asarray(w.reshape(len(w), -1).sum(axis=1).astype(object) * limit + (np.abs(self.wide(bias)) if bias else 0))
        if limit == 1 and max(sums) >= 1 << 31:
            raise UserError(f"{weight}, row {int(np.argmax(sums))}: a sum of spikes' weights may need more than 32 bits; quantise again")
        return sums

    def affine(self, prefix: str, keys: tuple[str, str, str, str], limit: int) -> None:
        """Check a requantised linear map, given its weight, bias (or nothing), multiplier and shift."""
        weight, bias, mult, shift = keys
        bound = self.sums(prefix + weight, prefix + bias if bias else "", limit) * np.abs(self.wide(prefix + mult))
        self.check(prefix.rstrip(".") if weight == "weight" else prefix + weight, bound, prefix + shift)

    def check(self, name: str, bound: Wide, shift: str) -> None:
        for row, (value, s) in enumerate(zip(bound, self.wide(shift), strict=True)):
            if value + (1 << (s - 1)) >= 1 << 63:
                bits = value.bit_length() + 1
                raise UserError(f"{name}, row {row}: a sum may need {bits} bits of 64; quantise again with fewer inputs")
