"""Compression of mel energies in torch: the float front end's second half, differentiable and batched."""

from __future__ import annotations

import torch

from pdmu.config import FrontendConfig
from pdmu.tables import FEATURE_FRAC_BITS, PCEN_G_MAX, PCEN_G_MIN

BLOCK = 64  # frames smoothed by one matrix product; longer blocks cost more arithmetic, shorter ones more calls


def smooth(energies: torch.Tensor, start: float, shift: int) -> torch.Tensor:
    """First-order smoother M ← M + (E - M)·2^-shift over time, from M = `start`.

    Parameters
    ----------
    energies : Tensor [B, T, n_mels]
    start : float
    shift : int

    Returns
    -------
    Tensor [B, T, n_mels]
        M after each frame.
    """
    a = 1.0 - 2.0**-shift
    steps = torch.arange(BLOCK, dtype=torch.float64)
    lag = steps[:, None] - steps
    weights = torch.where(lag >= 0, a ** lag.clamp(min=0) * 2.0**-shift, 0.0).to(energies)
    carry = (a ** (steps + 1)).to(energies)[:, None]
    state = energies.new_full((energies.shape[0], 1, energies.shape[2]), start)
    blocks = []
    for block in energies.split(BLOCK, dim=1):
        n = block.shape[1]
        smoothed = weights[:n, :n] @ block + carry[:n] * state
        state = smoothed[:, -1:]
        blocks.append(smoothed)
    return torch.cat(blocks, 1) if blocks else energies


def compress_torch(cfg: FrontendConfig, energies: torch.Tensor) -> torch.Tensor:
    """Compress mel energies as :func:`pdmu.frontend.compress`, from a fresh state for each sequence.

    Parameters
    ----------
    cfg : FrontendConfig
    energies : Tensor [B, T, n_mels]
        PCM units squared.

    Returns
    -------
    Tensor [B, T, n_mels]
        Features in units of one, where the integer law has Q9.
    """
    if cfg.compression == "log":
        return torch.log2((energies + cfg.floor) / cfg.floor)
    smoothed = smooth(energies, float(cfg.floor), cfg.pcen_smooth_shift)
    gain = torch.log2(energies + 1) - cfg.pcen_alpha * torch.log2(smoothed + cfg.floor)
    gain = gain.clamp(PCEN_G_MIN, PCEN_G_MAX)
    features = (torch.exp2(gain) + cfg.pcen_delta) ** cfg.pcen_r - cfg.pcen_delta**cfg.pcen_r
    return features.clamp(max=32767 / 2**FEATURE_FRAC_BITS)
