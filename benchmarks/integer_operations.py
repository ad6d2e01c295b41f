"""What one step of a bundle costs, counted from a run of the integer law: `benchmarks.operations` with the spikes that it really fired."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.operations import Counts, Rates, operations
from pdmu.bundle import Bundle, law_stages
from pdmu.config import ModelConfig


def integer_rates(model: ModelConfig, stages: Mapping[str, NDArray[np.integer]]) -> Rates:
    """Return the mean spikes a step of every row of neurons.

    Parameters
    ----------
    model : ModelConfig
    stages : mapping
        As `pdmu.bundle.law_stages` gives them: of a spiking layer the outputs ``pdmu0`` ``[T, H]``, and where spikes are inside the writes
        ``pdmu0.u`` ``[T, q]`` and the reads ``pdmu0.r`` ``[T, q·d]``.
    """

    def rate(name: str, fires: bool) -> float | None:
        return float((stages[name] != 0).mean()) if fires else None

    names = [(f"pdmu{i}", layer) for i, layer in enumerate(model.layers)]
    rows = [(rate(p, c.spiking), rate(f"{p}.u", c.spikes_inside), rate(f"{p}.r", c.spikes_inside)) for p, c in names]
    return Rates(None, tuple(rows))


def bundle_operations(bundle: Bundle, pcm: NDArray[np.int16]) -> Counts:
    """Count one model step of a bundle's network, the mean over a signal.

    Parameters
    ----------
    bundle : Bundle
    pcm : ndarray of int16
        At least one model step of it.

    Returns
    -------
    Counts
        Without the front end. A PDMU layer over spikes is counted by its spikes, though the C runtime multiplies there.
    """
    rates = integer_rates(bundle.model, law_stages(bundle, pcm))
    return operations(bundle.model, bundle.frontend.n_mels, rates)[0]
