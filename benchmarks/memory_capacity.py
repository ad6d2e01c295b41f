"""How much of its past input each family's layer holds:  python -m benchmarks.memory_capacity [--out FILE]

The memory capacity of Jaeger (2001, GMD report 152): of a layer that hears white noise u, uniform on [-1, 1] and one value a step,

    MC = Σ_{τ=1..K} R²_τ,     R²_τ = max(0, 1 - Σ_k (u[k-τ] - y_τ[k])² / Σ_k (u[k-τ] - ū)²)

with y_τ[k] a linear readout of the layer's outputs at step k, one per delay τ, fitted by ridge regression (outputs centred and scaled to
unit variance, penalty `RIDGE` times the number of steps) on the first part of the series and scored on the rest, after a wash-out. For the
best linear readout R² is Jaeger's squared correlation; on held-out steps it is the stricter of the two. Delay 0 does not count: the layer
hears u[k] itself. MC is at most the number of outputs.

Layers are untrained, their normalisation statistics measured on the noise; with ``--train-steps`` also trained, together with a dense
head, to give back u[k-1] … u[k-K] by their mean squared error. Hidden widths are matched in parameters to the PDMU layer, as in
`benchmarks.rows`: a gated recurrent layer of equal size has fewer outputs, and so a lower bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common import RESULTS, report
from benchmarks.rows import match_widths, parameter_count, spread, with_widths
from pdmu.config import FAMILIES, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.nn.model import PDMUNet

RIDGE = 1e-6
WASH_OUT, FIT_STEPS, SCORE_STEPS = 500, 4000, 4000
TRAIN_BATCH, TRAIN_STEPS = 8, 600  # sequences of a batch and their length, where a layer is trained
TRAIN_LR = 3e-3


def capacity_curve(outputs: NDArray[Any], u: NDArray[Any], delays: Sequence[int], wash_out: int, fit_steps: int) -> NDArray[np.float64]:
    """Return R² of the best linear readout of each delay.

    Parameters
    ----------
    outputs : array
        ``[T, H]`` outputs of the layer.
    u : array
        ``[T]`` its input.
    delays : sequence of int
        Not negative, at most `wash_out`.
    wash_out : int
        Steps not used, from the beginning.
    fit_steps : int
        Steps that readouts are fitted on; the rest scores them.
    """
    if max(delays) > wash_out:
        raise ValueError(f"wash_out ({wash_out}) must reach back to the longest delay ({max(delays)})")
    x = np.asarray(outputs, np.float64)[wash_out:]
    y = np.stack([np.asarray(u, np.float64)[wash_out - delay : len(u) - delay] for delay in delays], 1)
    mean, deviation = x[:fit_steps].mean(0), x[:fit_steps].std(0)
    alive = deviation > 1e-9 * max(1e-30, float(deviation.max()))  # a silent output reads nothing
    x = (x[:, alive] - mean[alive]) / deviation[alive]
    offset = y[:fit_steps].mean(0)
    fit, score = x[:fit_steps], x[fit_steps:]
    weights = np.linalg.solve(fit.T @ fit + RIDGE * fit_steps * np.eye(fit.shape[1]), fit.T @ (y[:fit_steps] - offset))
    held = y[fit_steps:]
    error = ((held - offset - score @ weights) ** 2).sum(0)
    return np.maximum(0.0, 1 - error / ((held - held.mean(0)) ** 2).sum(0))


def white_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return noise uniform on [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def calibrate(layer: nn.Module, x: Tensor) -> None:
    """Set the statistics of batch normalisation to those of the noise, and put the layer into evaluation mode."""
    norms = [m for m in layer.modules() if isinstance(m, nn.BatchNorm1d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    with torch.no_grad():
        layer.train()(x, cast(Any, layer).init_state(len(x), x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    layer.eval()


def train(layer: nn.Module, outputs: int, delays: int, updates: int, seed: int) -> None:
    """Train a layer, with a dense head that is then dropped, to give back its input of 1 … `delays` steps before."""
    head = nn.Linear(outputs, delays)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=TRAIN_LR)
    layer.train()
    for update in range(updates):
        if callable(anneal := getattr(layer, "anneal", None)):
            anneal(update / max(1, updates - 1))
        x = white_noise((TRAIN_BATCH, TRAIN_STEPS, 1), seed * 1_000_003 + update)
        past = x[..., 0].unfold(1, delays, 1).flip(2)  # [B, T - K + 1, K], newest first
        y, _ = cast(Any, layer)(x, cast(Any, layer).init_state(len(x), x))
        loss = (head(y[:, delays:]) - past[:, :-1]).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimiser.step()


def measure(model: ModelConfig, delays: int, train_steps: int, seed: int) -> NDArray[np.float64]:
    """Return R² per delay 1 … `delays` of the model's only layer, made anew from a seed."""
    torch.manual_seed(seed)
    layer = PDMUNet(model, 1).layers[0]
    wash_out = max(WASH_OUT, delays)
    u = white_noise((wash_out + FIT_STEPS + SCORE_STEPS,), seed + 10_000)
    if train_steps:
        train(layer, model.layers[0].outputs, delays, train_steps, seed)
    calibrate(layer, white_noise((4, FIT_STEPS, 1), seed + 20_000))
    with torch.no_grad():
        outputs, _ = cast(Any, layer)(u[None, :, None], cast(Any, layer).init_state(1, u))
    return capacity_curve(outputs[0].numpy(), u.numpy(), range(1, delays + 1), wash_out, FIT_STEPS)


def family_model(family: str, options: argparse.Namespace) -> ModelConfig:
    """Return a model of one layer of a family, matched in parameters to the PDMU layer."""

    def model(name: str) -> ModelConfig:
        sizes = {"hidden": options.hidden, "channels": 1, "order": options.order, "theta": options.theta}
        delay = {"taps": options.taps, "dilation": options.dilation}
        return ModelConfig(("y",), layers=(PDMUConfig(**(sizes | delay | cast(Any, FAMILIES[name]))),))

    given = model(family)
    return with_widths(given, match_widths(given, 1, parameter_count(model("pdmu"), 1)))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory_capacity", description="Measure the memory capacity of each family's layer."
    )
    causal = [name for name, changes in FAMILIES.items() if not changes.get("bidirectional")]
    parser.add_argument(
        "--families", nargs="+", default=causal, choices=causal, metavar="NAME", help=f"of {', '.join(causal)} (default: all)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    parser.add_argument("--delays", type=int, default=300, metavar="K", help="longest delay, steps (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=64, help="of the PDMU layer that the others are matched to (default: %(default)s)")
    parser.add_argument("--order", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--theta", type=float, default=100.0, help="memory window, steps (default: %(default)s)")
    parser.add_argument("--taps", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--dilation", type=int, default=16, help="steps between taps (default: %(default)s)")
    parser.add_argument("--train-steps", type=int, default=0, metavar="N", help="also measure after N updates (default: untrained alone)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory_capacity.json", help="JSON file (default: benchmarks/results/…)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = build_parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    families: dict[str, Any] = {}
    for family in options.families:
        try:
            model = family_model(family, options)
        except UserError as error:
            print(f"error: {family}: {error}", file=sys.stderr)
            return 1
        entry: dict[str, Any] = {"hidden": model.layers[0].hidden, "parameters": parameter_count(model, 1)}
        for name, updates in (("untrained", 0), ("trained", options.train_steps)):
            if name == "trained" and not updates:
                continue
            curves = np.stack([measure(model, options.delays, updates, seed) for seed in options.seeds])
            totals = [round(float(c.sum()), 3) for c in curves]
            entry[name] = {"total": spread(totals), "seeds": totals, "curve": [round(float(v), 4) for v in curves.mean(0)]}
            print(f"{family} {name}: {totals}", file=sys.stderr, flush=True)
        families[family] = entry
    settings = {name: getattr(options, name) for name in ("delays", "hidden", "order", "theta", "taps", "dilation", "train_steps", "seeds")}
    fitted = {"ridge": RIDGE, "fit_steps": FIT_STEPS, "score_steps": SCORE_STEPS}
    report("memory_capacity", {"settings": settings | fitted, "families": families}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
