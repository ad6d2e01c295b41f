"""One comparison of a runtime with the integer law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Finding:
    """One stage of one target on one signal."""

    signal: str
    target: str
    stage: str
    largest: float  # largest difference, counts, or the share that differs; infinite where shapes or digests differ
    bound: float
    unit: str = ""  # "%" of a share
    where: str = ""  # the first difference, where the target is compared integer by integer

    @property
    def holds(self) -> bool:
        """Whether the difference is within the bound."""
        return self.largest <= self.bound


def largest_difference(found: NDArray[Any], expected: NDArray[np.integer]) -> float:
    """Return the largest difference, infinite between arrays of different sizes."""
    if found.size != expected.size:
        return float("inf")
    return float(np.abs(found.reshape(-1).astype(np.float64) - expected.reshape(-1)).max(initial=0))
