"""Spiking networks as NIR graphs (Pedersen et al. 2024): ``python -m spiking.nir_export RUN --dt 0.016 --out model.nir``.

NIR describes neurons in continuous time; a graph written here is meant for **forward Euler with the step dt that it carries**, one input a
step. Values on edges add up, and an edge that closes a cycle carries the step before: the state that forward Euler starts from.

| ours | as NIR | forward Euler gives |
|---|---|---|
| W_u, W_x, W_m, head | Affine, Linear | |
| ``m[k] = Ā m[k-1] + B̄ u[k]`` | LI with τ = dt, fed by Linear B̄ and by Linear Ā from itself | exactly this |
| normalisation | Affine with a diagonal weight | |
| gate "off" | nothing | |
| gate "uniform" | a Delay of i·τ·dt for each tap, and one Scale of 1/n | exactly this |
| LIF, reset to zero | LIF with τ = dt/(1-β), R = 1/(1-β) | the same spikes: v is reset at once, not a step later, and is zero either way |
| LIF, reset by subtraction | LI, Threshold V, and Scale -V back to the LI | exactly this; a NIR LIF is reset to a value, and at once |

A learnt gate multiplies two signals and ``write = "relu"`` rectifies one: NIR has no primitive for either. They stand in the graph as
subgraphs with two ports, which NIR's own type check refuses by their names; :mod:`spiking.nir_import` reads them. A graph without such
subgraphs is made of primitives alone and runs in any simulator that has them all (`snntorch.import_nir` has no LI, Delay or Threshold).

Arrays keep the type of the network (float32 or float64), time constants are float64, times are in seconds. Metadata hold what is not in the
primitives: the format, dt, the model's configuration, and the numbers that a fold lost (β, the normalisation's statistics).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdmu.config import FrontendConfig, to_dict
from pdmu.errors import UserError
from pdmu.files import write_bytes
from pdmu.nn.model import PDMUNet
from pdmu.tables import lmu_matrices
from spiking.sdmu import LIF, SpikingDMULayer

FORMAT = "pdmu.nir/1"
EXTENSION = "needs_spiking_nir_import"  # ends the names of subgraphs that stand for what NIR lacks, so that a refusal says who reads them
LONGEST_STEPS = 2.0**60  # time constant of a neuron that keeps everything: 1 - 2^-60 is 1 in float64
Array = NDArray[Any]


class _Graph(NamedTuple):
    """A graph under construction."""

    nodes: dict[str, nir.NIRNode]
    edges: list[tuple[str, str]]
    dt_s: float

    def add(self, name: str, node: nir.NIRNode, *sources: str) -> str:
        self.nodes[name] = node
        self.edges.extend((source, name) for source in sources)
        return name


def step_seconds(frontend: FrontendConfig | int, frames_per_step: int = 1) -> float | None:
    """Return the time between model steps where a front end sets it, seconds."""
    if isinstance(frontend, int):
        return None
    return frontend.hop_samples * frames_per_step / frontend.sample_rate_hz


def to_nir(net: PDMUNet, dt_s: float | None = None) -> nir.NIRGraph:
    """Return a spiking network as a NIR graph.

    Parameters
    ----------
    net : PDMUNet
        Of spiking layers, without convolutions; evaluation mode is what is written.
    dt_s : float, optional
        Time between steps, seconds. A front end knows it; a network over sequences needs it given.

    Returns
    -------
    NIRGraph
        Features ``[n_inputs]`` in, logits ``[n_labels]`` of every step out.

    Raises
    ------
    UserError
        The network is not spiking, not causal, has convolutions, or `dt_s` is missing or not the front end's.
    """
    dt_s = _check(net, dt_s)
    graph = _Graph({}, [], dt_s)
    n_inputs = net.frontend if isinstance(net.frontend, int) else net.frontend.n_mels
    x = graph.add("input", nir.Input(input_type={"input": np.array([n_inputs])}))
    for i, layer in enumerate(net.layers):
        x = _layer(graph, f"layer{i}", cast(SpikingDMULayer, layer), x)
    x = graph.add("head", _affine(net.head), x)
    graph.add("output", nir.Output(output_type={"output": np.array([len(net.config.labels)])}), x)
    metadata = {
        "format": FORMAT,
        "dt": dt_s,
        "dtype": str(net.head.weight.dtype).removeprefix("torch."),
        "model": json.dumps(to_dict(net.config)),
        "frontend": json.dumps(net.frontend if isinstance(net.frontend, int) else to_dict(net.frontend)),
    }
    foreign = any(isinstance(node, nir.NIRGraph) for node in graph.nodes.values())
    return nir.NIRGraph(graph.nodes, graph.edges, metadata=metadata, type_check=not foreign)


def _check(net: PDMUNet, dt_s: float | None) -> float:
    """Return the time step of a network that can be written."""
    net.config.check_streams("cannot write NIR")
    for i, layer in enumerate(net.config.layers):
        if layer.cell != "spiking":
            raise UserError(
                f"cannot write NIR: layer {i} is a {layer.cell} layer and NIR describes spiking networks; train a spiking model of the "
                "family instead (--set model.family=sdmu, or sdmu-full)"
            )
        if not isinstance(net.layers[i], SpikingDMULayer) or not isinstance(cast(Any, net.layers[i]).output_neurons, LIF):
            raise UserError(f"cannot write NIR: the neurons of layer {i} are another library's; take them back first (from_snntorch)")
    if net.head.weight.dtype not in (torch.float32, torch.float64):
        raise UserError(f"cannot write NIR: weights of type {net.head.weight.dtype}; bring them to float32 first: net.float()")
    if net.convs:
        raise UserError("cannot write NIR: it has no convolution over time and features; train without model.conv")
    known = step_seconds(net.frontend, net.config.frames_per_step)
    dt_s = known if dt_s is None else dt_s
    if dt_s is None:
        raise UserError("cannot write NIR: the network runs over sequences, not a front end; give the time between steps, seconds (--dt)")
    if not (np.isfinite(dt_s) and dt_s > 0):
        raise UserError(f"cannot write NIR: a time step of {dt_s} s; give a positive number of seconds")
    if known is not None and not np.isclose(dt_s, known, rtol=1e-6):
        raise UserError(f"cannot write NIR: a time step of {dt_s} s, but the front end makes a step every {known} s; leave it out")
    return float(dt_s)


def _layer(graph: _Graph, at: str, layer: SpikingDMULayer, x: str) -> str:
    """Add a layer that reads node `x`; return the node of its spikes."""
    c, size = layer.config, layer.config.channels * layer.config.order
    like = layer.from_memory.weight
    u = graph.add(f"{at}_to_memory", _affine(layer.to_memory), x)
    if c.write == "relu":
        u = _extension(graph, f"{at}_relu", "pdmu.relu", u, (u,), c.channels)
    if layer.write_neurons is not None:
        u = _neurons(graph, f"{at}_write", layer.write_neurons, u)
    a_bar, b_bar = (torch.as_tensor(v).to(like) for v in lmu_matrices(c.order, c.theta))
    eye = torch.eye(c.channels).to(like)
    into = graph.add(f"{at}_memory_input", nir.Linear(_array(torch.kron(eye, b_bar[:, None]))), u)
    one = np.ones(size)
    memory = graph.add(f"{at}_memory", nir.LI(tau=one * graph.dt_s, r=one, v_leak=one * 0), into)
    recall = graph.add(f"{at}_memory_recall", nir.Linear(_array(torch.kron(eye, a_bar))), memory)
    graph.edges.append((recall, memory))

    from_memory = nir.Linear(_array(layer.from_memory.weight))
    seen = {"x": (x,), "xu": (x, u), "xm": (x, memory)}[c.gate_input]
    if layer.delays_memory:
        arriving = _deliver(graph, at, layer, memory, size, seen)
        if layer.read_neurons is not None:
            read = _neurons(graph, f"{at}_read", layer.read_neurons, *arriving)
            arriving = [read]
        currents = [graph.add(f"{at}_from_memory", from_memory, *arriving)]
    else:
        p = graph.add(f"{at}_from_memory", from_memory, memory)
        currents = _deliver(graph, at, layer, p, c.hidden, seen)
    direct = graph.add(f"{at}_from_input", _affine(layer.from_input), x)
    norm = graph.add(f"{at}_norm", _norm(layer.norm), *currents, direct)
    return _neurons(graph, f"{at}_output", layer.output_neurons, norm)


def _deliver(graph: _Graph, at: str, layer: SpikingDMULayer, value: str, size: int, seen: Sequence[str]) -> list[str]:
    """Add the delay gate on node `value` ``[size]``; return the nodes whose sum is what arrives."""
    c = layer.config
    if c.gate == "off":
        return [value]
    if layer.to_gate is not None:
        return [value, _extension(graph, f"{at}_gate", "pdmu.delay_gate", value, seen, size, _affine(layer.to_gate))]
    delayed = []
    for tap in range(c.first_tap, c.first_tap + c.taps):
        delay = nir.Delay(np.full(size, tap * c.dilation * graph.dt_s))
        delayed.append(graph.add(f"{at}_delay{tap}", delay, value) if tap else value)
    share = np.full(size, 1 / c.taps, _array(layer.from_memory.weight).dtype)
    return [value, graph.add(f"{at}_mix", nir.Scale(share), *delayed)]


def _extension(
    graph: _Graph, name: str, op: str, value: str, seen: Sequence[str], size: int, logits: nir.Affine | None = None
) -> str:
    """Add a subgraph for an operation on node `value` ``[size]`` that NIR lacks, with what else it sees and makes of it.

    With two ports NIR's type check refuses an edge to it; a reader who checks nothing and runs it gets NaN, never a plausible number.
    """
    width = size if logits is None else logits.weight.shape[1]
    nodes: dict[str, nir.NIRNode] = {
        "value": nir.Input(input_type={"input": np.array([size])}),
        "seen": nir.Input(input_type={"input": np.array([width])}),
        "absent_value": nir.Scale(np.full(size, np.nan)),
        "absent_gate": nir.Linear(np.full((size, width if logits is None else logits.weight.shape[0]), np.nan)),
        "delivered": nir.Output(output_type={"output": np.array([size])}),
    }
    edges = [("value", "absent_value"), ("absent_value", "delivered"), ("absent_gate", "delivered")]
    if logits is not None:
        nodes["logits"] = logits
    edges += [("seen", "absent_gate")] if logits is None else [("seen", "logits"), ("logits", "absent_gate")]
    metadata = {"op": op, "format": FORMAT, "value": value, "seen": " ".join(seen)}
    subgraph = nir.NIRGraph(nodes, edges, metadata=metadata)
    return graph.add(f"{name}_{EXTENSION}", subgraph, *dict.fromkeys((value, *seen)))


def time_constant(beta: Array, dt_s: float) -> tuple[Array, Array]:
    """Return τ (s) and R of neurons with the decays `beta` a step: forward Euler then gives ``v[k] = β v[k-1] + I[k]``.

    ``v + (dt/τ)(R I - v)`` with ``dt/τ = 1-β`` and ``R = 1/(1-β)``. A decay of 1 has no finite time constant; 2^60 steps stand for it.
    """
    steps = 1 / np.maximum(1 - np.clip(beta.astype(np.float64), 0, 1), 1 / LONGEST_STEPS)
    return steps * dt_s, steps


def _neurons(graph: _Graph, name: str, neurons: LIF, *sources: str) -> str:
    """Add a row of neurons; return the node of its spikes."""
    beta, threshold = _array(neurons.beta), _array(neurons.threshold)
    tau, r = time_constant(beta, graph.dt_s)
    zero, kept = np.zeros_like(tau), {"beta": beta}
    if neurons.config.reset == "zero":
        return graph.add(name, nir.LIF(tau=tau, r=r, v_leak=zero, v_threshold=threshold, v_reset=zero, metadata=kept), *sources)
    membrane = graph.add(f"{name}_membrane", nir.LI(tau=tau, r=r, v_leak=zero, metadata=kept), *sources)
    spikes = graph.add(name, nir.Threshold(threshold), membrane)
    graph.edges.append((graph.add(f"{name}_reset", nir.Scale(-threshold), spikes), membrane))
    return spikes


def norm_affine(weight: Array, bias: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """Return scale and shift of a batch normalisation in evaluation, float64."""
    scale = weight.astype(np.float64) / np.sqrt(var.astype(np.float64) + eps)
    return scale, bias.astype(np.float64) - mean.astype(np.float64) * scale


def _norm(norm: nn.BatchNorm1d) -> nir.Affine:
    kept = {
        "weight": _array(norm.weight),
        "bias": _array(norm.bias),
        "mean": _array(cast(Tensor, norm.running_mean)),
        "var": _array(cast(Tensor, norm.running_var)),
    }
    scale, shift = norm_affine(**kept, eps=norm.eps)
    batches = _array(cast(Tensor, norm.num_batches_tracked).reshape(1))
    dtype = kept["weight"].dtype
    return nir.Affine(np.diag(scale).astype(dtype), shift.astype(dtype), metadata={**kept, "batches": batches})


def _affine(linear: nn.Linear) -> nir.Affine:
    return nir.Affine(_array(linear.weight), _array(linear.bias))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy().copy()


def save(graph: nir.NIRGraph, path: Path) -> None:
    """Write a graph to a ``.nir`` file, whole or not at all.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    data = io.BytesIO()
    nir.write(data, graph)
    write_bytes(path, data.getvalue())


def _load_run(run: Path) -> PDMUNet:
    from pdmu.nn.sequence_run import load_network  # brings all of training, which no one who writes a graph from a program needs

    return load_network(run)


def main(argv: Sequence[str] | None = None, load: Callable[[Path], PDMUNet] = _load_run) -> int:
    """Run the command line; `load` gives the network of a finished run. Return 0 done, 1 failed; argparse exits with 2 on wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m spiking.nir_export", description="Write the spiking network of a finished run as NIR.")
    parser.add_argument("run", type=Path, help="folder of a finished pdmu-train run")
    parser.add_argument("--dt", type=float, metavar="SECONDS", help="time between steps; a run over recordings knows it")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="for instance model.nir")
    args = parser.parse_args(argv)
    try:
        graph = to_nir(load(args.run), args.dt)
        save(graph, args.out)
    except UserError as error:
        print(f"nir_export: {error}", file=sys.stderr)
        return 1
    foreign = [name for name, node in graph.nodes.items() if isinstance(node, nir.NIRGraph)]
    print(f"{args.out}: {len(graph.nodes)} nodes, dt {graph.metadata['dt']:g} s")
    if foreign:
        print(f"{', '.join(foreign)}: NIR has no such operation; only spiking.nir_import reads this file", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
