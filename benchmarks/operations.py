"""What one step of inference costs each family, counted from its configuration:  python -m benchmarks.operations RECIPE --root DIR

Multiply-accumulates of dense values, accumulates that spikes trigger (synaptic operations), reads and writes of the delay line, and an
**estimate** of the arithmetic's energy. Spike rates are measured: with ``--root`` on the validation sequences, through the finished run of
`benchmarks.rows` where there is one and an untrained network elsewhere (the JSON says which); without, on white noise, untrained.

Assumptions of the estimate: 32-bit floats in 45 nm, 3.7 pJ a multiplication and 0.9 pJ an addition (Horowitz, ISSCC 2014), so 4.6 pJ a
multiply-accumulate and 0.9 pJ an accumulate; memory traffic, exponentials, comparisons and control cost nothing; a spiking product is
skipped wherever there is no spike, and zeros of ReLU outputs are not. It ranks models on such hardware; it is no measurement of a device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from benchmarks.common import RESULTS, ROOT, report
from benchmarks.rows import finished, plan, run_folders, with_widths
from pdmu.config import FAMILIES, ModelConfig, PDMUConfig
from pdmu.data.recipe import read_table
from pdmu.data.sequence_recipe import parse_sequence_recipe
from pdmu.data.sequences import SequenceCorpus, load_sequences
from pdmu.errors import UserError
from pdmu.nn.model import PDMUNet
from pdmu.nn.sequence_run import load_sequence_run, scaled
from spiking.sdmu import LIF

MAC_PJ, AC_PJ = 4.6, 0.9  # Horowitz 2014, 45 nm, 32-bit floats
RATE_SEQUENCES = 64  # sequences that spike rates are measured on
NOISE_STEPS = 784


class Rates(NamedTuple):
    """Spikes a step of each neuron, mean; None where values are analogue."""

    inputs: float | None = None  # of the model's inputs
    layers: tuple[tuple[float | None, float | None, float | None], ...] = ()  # per layer: outputs, writes u, reads m̃


@dataclass(frozen=True)
class Counts:
    """Operations of one step; `head` is apart, for most readouts use it once a sequence."""

    macs: float = 0.0
    acs: float = 0.0  # one per spike and target
    delay_reads: float = 0.0  # values read from the delay line
    delay_writes: float = 0.0  # values written into it

    def __add__(self, other: Counts) -> Counts:
        """Sum, field by field."""
        return Counts(
            self.macs + other.macs,
            self.acs + other.acs,
            self.delay_reads + other.delay_reads,
            self.delay_writes + other.delay_writes,
        )

    @property
    def energy_nj(self) -> float:
        """Estimated energy of the arithmetic, nJ."""
        return (self.macs * MAC_PJ + self.acs * AC_PJ) / 1000


def product(inputs: int, outputs: int, rate: float | None) -> Counts:
    """Count a matrix product: multiply-accumulates of analogue inputs, or an accumulate per output for each input spike."""
    return Counts(macs=inputs * outputs) if rate is None else Counts(acs=rate * inputs * outputs)


def layer_operations(c: PDMUConfig, n_inputs: int, rate_in: float | None, rates: tuple[float | None, float | None, float | None]) -> Counts:
    """Count one step of a layer; normalisation is folded into the weights, biases are free.

    Parameters
    ----------
    c : PDMUConfig
    n_inputs : int
        N_x.
    rate_in : float, optional
        Spikes a step of each input; None where they are analogue.
    rates : tuple
        Of the layer's own outputs, writes and reads, as in `Rates`.
    """
    if c.bidirectional:  # both directions; a step of the sequence, for there is no stream
        one_way = PDMUConfig(**{**vars(c), "bidirectional": False})
        each = layer_operations(one_way, n_inputs, rate_in, rates)
        return each + each
    if c.cell in ("lstm", "gru"):
        gates = 4 if c.cell == "lstm" else 3
        # recurrent products, and three element-wise ones: f⊙c, i⊙g, o⊙tanh c; or r⊙h, z⊙h, (1-z)⊙n
        return product(n_inputs, gates * c.hidden, rate_in) + Counts(macs=gates * c.hidden**2 + 3 * c.hidden)
    q, d, hidden = c.channels, c.order, c.hidden
    full = c.spikes_inside
    _, write, read = rates if full else (None, None, None)
    total = product(n_inputs, q, rate_in) + product(n_inputs, hidden, rate_in)  # W_u, W_x
    total += Counts(macs=q * d * d) + product(q, d, write)  # Ā m, B̄ u: the memory stays analogue
    total += product(q * d, hidden, read)  # W_m
    total += _gate_operations(c, n_inputs, rate_in, write) + _delay_operations(c)
    if c.cell == "spiking":  # a multiplication by β and an addition per neuron
        total += Counts(macs=hidden + ((q + q * d) if full else 0))
    return total


def _gate_operations(c: PDMUConfig, n_inputs: int, rate_in: float | None, write: float | None) -> Counts:
    """Count W_g; a uniform gate and none have none."""
    if c.gate in ("uniform", "off"):
        return Counts()
    gates = c.taps * (c.channels if c.gate_per_channel else 1)
    total = product(n_inputs, gates, rate_in)
    if c.gate_input == "xu":
        total += product(c.channels, gates, write)
    if c.gate_input == "xm":
        total += Counts(macs=c.channels * c.order * gates)
    return total


def _delay_operations(c: PDMUConfig) -> Counts:
    """Count the delay line: n reads of a whole value where it gathers, one write and one read where each step is routed to one tap."""
    if c.gate == "off":
        return Counts()
    delays_memory = c.gate_per_channel or c.spikes_inside
    value = c.channels * c.order if delays_memory else c.hidden
    if c.gate == "top1":
        return Counts(macs=value, delay_reads=value, delay_writes=value)
    if c.gate == "straight_through":  # its weight is 1: an addition
        return Counts(acs=value, delay_reads=value, delay_writes=value)
    return Counts(macs=c.taps * value, delay_reads=c.taps * value, delay_writes=value)


def conv_operations(model: ModelConfig, n_inputs: int) -> Counts:
    """Count the convolutions of one model step, which takes S frames."""
    shapes, total, frames = model.conv_shapes(n_inputs), Counts(), model.frames_per_step
    for conv, (_, c_in), (bins, _) in zip(model.conv, shapes, shapes[1:], strict=False):
        frames //= conv.stride_time
        total += Counts(macs=frames * bins * conv.channels * conv.kernel_time * conv.kernel_mel * (1 if conv.depthwise else c_in))
    return total


def operations(model: ModelConfig, n_inputs: int, rates: Rates | None = None) -> tuple[Counts, Counts]:
    """Count one step of inference.

    Parameters
    ----------
    model : ModelConfig
    n_inputs : int
        N_x.
    rates : Rates, optional
        Needed where a layer spikes.

    Returns
    -------
    step : Counts
        Convolutions and layers, and the head where it is read every step.
    head : Counts
        The head, once.
    """
    rates = rates or Rates()
    widths = model.layer_inputs(n_inputs)
    total, rate = conv_operations(model, n_inputs), None if model.conv else rates.inputs
    for i, layer in enumerate(model.layers):
        own = rates.layers[i] if rates.layers else (None, None, None)
        spikes = layer.cell == "spiking"
        if spikes and (own[0] is None or (layer.spikes == "all" and None in own)):
            raise UserError(f"layer {i} spikes: its spike rates are needed to count what they trigger")
        total += layer_operations(layer, widths[i], rate, own)
        rate = own[0] if spikes else None
    # a mean of spikes over time is accumulated spike by spike, and weighs the head's inputs: analogue by then
    head = product(widths[-1], len(model.labels), rate if model.readout in ("step", "last") else None)
    return (total + head if model.readout == "step" else total), head


@torch.no_grad()
def spike_rates(net: PDMUNet, x: Tensor, lengths: Tensor, inputs_spike: bool) -> Rates:
    """Measure the rates of a network's neurons over sequences ``[B, T, N_x]``, padding left out."""
    valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    seen: dict[int, float] = {}
    hooks = []
    for module in net.modules():
        if isinstance(module, LIF):

            def keep(of: torch.nn.Module, _: Any, result: Any) -> None:
                seen[id(of)] = float(result[0][valid].mean())

            hooks.append(module.register_forward_hook(keep))
    try:
        # every step of every layer: a readout of the last step alone would let the top layer skip the others
        net.eval()
        net(x, lengths=lengths, return_state=True)
    finally:
        for hook in hooks:
            hook.remove()
    layers = []
    for config, layer in zip(net.config.layers, net.layers, strict=True):
        ways = [cast(Any, layer).ahead, cast(Any, layer).back] if config.bidirectional else [cast(Any, layer)]
        rows = ("output_neurons", "write_neurons", "read_neurons")
        found = [[seen[id(n)] for way in ways if (n := getattr(way, row, None)) is not None] for row in rows]
        layers.append(tuple(sum(f) / len(f) if f else None for f in found))
    return Rates(float(x[valid].mean()) if inputs_spike else None, tuple(cast(Any, layers)))


def _real_input(corpus: SequenceCorpus) -> tuple[Tensor, Tensor, bool]:
    """Return validation sequences (training ones where there are none), their lengths, and whether they are spikes; never the test set."""
    part = corpus.validation if len(corpus.validation) else corpus.train
    chosen = torch.randperm(len(part), generator=torch.Generator().manual_seed(1))[:RATE_SEQUENCES].numpy()
    batch = scaled(corpus, part, chosen)
    counts = not corpus.shift.any() and bool((corpus.scale == 1).all()) and bool((batch.values == batch.values.round()).all())
    return torch.from_numpy(batch.values), torch.from_numpy(batch.length), counts


def family_entry(options: argparse.Namespace, family: str, corpus: SequenceCorpus | None, seed: int) -> dict[str, Any]:
    """Return one family's counts."""
    below = options.work.resolve() / Path(options.recipe).stem
    changes = tuple(options.set)
    inputs = corpus.inputs if corpus is not None else options.inputs
    row = plan(options.recipe, family, changes, options.match, lambda _: inputs)
    model = with_widths(parse_sequence_recipe(read_table(options.recipe, (f"model.family={family}", *changes))).model, row.hidden)
    run = run_folders(row, seed, below)[0]
    torch.manual_seed(seed)
    trained = corpus is not None and finished(run)
    net = load_sequence_run(run).net if trained else PDMUNet(model, inputs)
    if corpus is None:
        x, lengths, counts = torch.randn(8, NOISE_STEPS, inputs), torch.full((8,), NOISE_STEPS), False
    else:
        x, lengths, counts = _real_input(corpus)
    rates = spike_rates(net, x, lengths, counts)
    step, head = operations(model, inputs, rates)
    neurons = {name: rate for name, rate in zip(("outputs", "writes", "reads"), zip(*rates.layers, strict=True), strict=True)}
    return {
        "parameters": row.parameters,
        "hidden": [*row.hidden],
        "macs": round(step.macs),
        "synaptic_operations": round(step.acs, 1),
        "delay_reads": round(step.delay_reads),
        "delay_writes": round(step.delay_writes),
        "energy_nj_estimate": round(step.energy_nj, 3),
        "head_energy_nj_estimate": round(head.energy_nj, 3),
        "spike_rates": {"inputs": _rounded(rates.inputs)} | {k: [_rounded(r) for r in v] for k, v in neurons.items()},
        "network": f"finished run, seed {seed}" if trained else "untrained",
    }


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 4)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description="Count one step of inference of each family.")
    parser.add_argument("recipe", help="name of a shipped recipe of sequences (psmnist, fsdd …) or a .toml file")
    parser.add_argument("--families", nargs="+", default=[*FAMILIES], choices=[*FAMILIES], metavar="NAME", help="default: all")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="folder of the data set")
    source.add_argument("--inputs", type=int, metavar="N", help="count for white noise of N inputs instead")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "rows", help="folder of benchmarks.rows' runs (default: runs/rows)")
    parser.add_argument("--seed", type=int, default=1, help="which of them (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as for benchmarks.rows")
    parser.add_argument("--no-match", dest="match", action="store_false", help="as for benchmarks.rows")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/operations_RECIPE.json)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = build_parser().parse_args(argv)
    task = Path(options.recipe).stem
    try:
        corpus = None
        if options.root is not None:
            table = read_table(options.recipe, tuple(options.set))
            corpus = load_sequences(parse_sequence_recipe(table).sequence, options.root)
        families = {f: family_entry(options, f, corpus, options.seed) for f in options.families}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    kind = "white noise" if corpus is None else f"{min(RATE_SEQUENCES, len(corpus.validation) or len(corpus.train))} validation sequences"
    assumed = {"mac_pj": MAC_PJ, "ac_pj": AC_PJ, "source": "Horowitz 2014, 45 nm, 32-bit floats; arithmetic alone: an estimate"}
    head = {"task": task, "input": kind, "energy": assumed}
    report("operations", {**head, "families": families}, options.out or RESULTS / f"operations_{task}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
