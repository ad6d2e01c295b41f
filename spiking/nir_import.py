"""NIR graphs that :mod:`spiking.nir_export` wrote, as networks again: the same weights, the same spikes.

The primitives are what counts: weights, time constants and thresholds are read from the nodes, so a graph that was trained or edited
elsewhere comes back as it is. What a fold lost (β to the last bit, the statistics behind a normalisation) is taken from the metadata only
where it still gives the node's own numbers. Memory matrices, delays and edges follow from the configuration and are checked against it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdmu.config import FrontendConfig, ModelConfig, PDMUConfig, from_dict
from pdmu.errors import UserError
from pdmu.nn.model import PDMUNet
from pdmu.tables import lmu_matrices
from spiking.nir_export import EXTENSION, FORMAT, norm_affine, to_nir

Array = NDArray[Any]
Weights = dict[str, Tensor]


def load(path: Path) -> nir.NIRGraph:
    """Read a ``.nir`` file, also one with subgraphs that NIR's own check refuses.

    Raises
    ------
    UserError
        The file is missing, or no NIR graph.
    """
    try:
        return nir.read(path, type_check=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # nir asserts, indexes and compares as it goes; h5py raises OSError
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a NIR graph ({reason}); write it again: python -m spiking.nir_export") from None


def from_nir(graph: nir.NIRGraph, dt_s: float | None = None) -> PDMUNet:
    """Return the network of a graph that `to_nir` made.

    Parameters
    ----------
    graph : NIRGraph
    dt_s : float, optional
        The time step that the network is to run at, seconds; the graph's when absent.

    Returns
    -------
    PDMUNet
        In evaluation mode, of the type (float32 or float64) that was written.

    Raises
    ------
    UserError
        The graph is not of this format, runs at another time step, or holds something the configuration in it does not.

    Notes
    -----
    There is no conversion between time steps: a network's memory window, delays and decays are counted in steps, and at another step the
    same weights are another network. Bring the input to the graph's step, or train at the other.
    """
    about = graph.metadata
    if about.get("format") != FORMAT:
        found = f'of format "{about["format"]}"' if "format" in about else "not written by spiking.nir_export"
        raise UserError(f"cannot read this NIR graph: it is {found}; {FORMAT} is read")
    missing = {"dt", "dtype", "model", "frontend"} - about.keys()
    if missing:
        raise UserError(f"cannot read this NIR graph: its metadata lack {', '.join(sorted(missing))}; write it again")
    if about["dtype"] not in ("float32", "float64"):
        raise UserError(f"cannot read this NIR graph: its weights are said to be {about['dtype']}; float32 and float64 are read")
    dt = float(about["dt"])
    if dt_s is not None and not np.isclose(dt_s, dt, rtol=1e-6):
        raise UserError(
            f"cannot run this NIR graph with a step of {dt_s} s: it was written for {dt} s, and its window, delays and decays are counted "
            f"in such steps; give it input every {dt} s, or train a network at {dt_s} s"
        )
    model = from_dict(ModelConfig, _json(about, "model"), "NIR metadata model")
    source = _json(about, "frontend")
    frontend = source if isinstance(source, int) else from_dict(FrontendConfig, source, "NIR metadata frontend")
    net = PDMUNet(model, frontend).to(getattr(torch, about["dtype"])).eval()
    reader = _Reader(graph, dt)
    weights: Weights = reader.affine("head", "head.")
    for i, layer in enumerate(model.layers):
        weights |= _layer(reader, f"layer{i}", f"layers.{i}.", layer)
    own = net.state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            wanted = tuple(own[name].shape) if name in own else "none"
            raise UserError(f"NIR graph: {name} is {tuple(value.shape)} and its configuration asks for {wanted}; write the graph again")
    net.load_state_dict(weights)  # casts to the network's type
    wired = set(graph.edges) ^ set(to_nir(net, dt).edges)
    if wired:
        raise UserError(f"NIR graph: edges were added or taken away ({', '.join(f'{a} -> {b}' for a, b in sorted(wired))}); write it again")
    return net


def _json(about: dict[str, Any], key: str) -> Any:
    try:
        return json.loads(about[key])
    except (TypeError, ValueError):
        raise UserError(f"cannot read this NIR graph: its metadata '{key}' are damaged; write it again") from None


class _Reader:
    """Takes nodes by name and kind, and says which is missing or holds what a network of ours can't."""

    def __init__(self, graph: nir.NIRGraph, dt_s: float) -> None:
        self.nodes, self.dt_s = graph.nodes, dt_s

    def node(self, name: str, kind: type[Any]) -> Any:
        found = self.nodes.get(name)
        if not isinstance(found, kind):
            what = "is missing" if found is None else f"is a {type(found).__name__}"
            raise UserError(f"NIR graph: node '{name}' {what}, the configuration asks for a {kind.__name__}; write the graph again")
        return found

    def expect(self, name: str, found: Array, wanted: Array | float, what: str, remedy: str = "write the graph again") -> None:
        if np.shape(found) != np.shape(wanted) and np.ndim(wanted) or not np.allclose(found, wanted, rtol=1e-5, atol=1e-8):
            raise UserError(f"NIR graph: node '{name}': {what}; {remedy}")

    def affine(self, name: str, prefix: str) -> Weights:
        node = self.node(name, nir.Affine)
        return {f"{prefix}weight": torch.as_tensor(node.weight), f"{prefix}bias": torch.as_tensor(node.bias)}

    def neurons(self, name: str, prefix: str, reset: str) -> Weights:
        """Decays and thresholds of a row."""
        if reset == "zero":
            node = self.node(name, nir.LIF)
            self.expect(name, node.v_reset, 0.0, "it is reset to another value than zero, which our neurons are not")
            threshold = node.v_threshold
        else:
            node, threshold = self.node(f"{name}_membrane", nir.LI), self.node(name, nir.Threshold).threshold
            back = self.node(f"{name}_reset", nir.Scale).scale
            self.expect(name, back, -threshold, "what a spike subtracts is not its threshold", "give both the same value")
        self.expect(name, node.v_leak, 0.0, "it leaks to another value than zero, which our neurons do not")
        part = self.dt_s / node.tau
        self.expect(name, node.r * part, 1.0, "its input is scaled, R is not tau/dt", "scale the weights before it instead")
        beta, kept = 1 - part, node.metadata.get("beta")
        if kept is not None and np.shape(kept) == beta.shape:
            beta = np.where(np.isclose(np.clip(kept, 0, 1), beta, rtol=0, atol=1e-12), kept, beta)
        return {f"{prefix}beta": torch.as_tensor(beta), f"{prefix}threshold": torch.as_tensor(threshold)}

    def norm(self, name: str, prefix: str, eps: float) -> Weights:
        """Batch normalisation of a diagonal affine map."""
        node = self.node(name, nir.Affine)
        scale, shift = np.diag(node.weight), node.bias
        self.expect(name, node.weight, np.diag(scale), "its weight is not diagonal", "put the rest into the weights before it")
        does = {"weight": scale, "bias": shift, "mean": np.zeros_like(shift), "var": np.full_like(shift, 1 - eps)}  # just this map
        kept = {k: node.metadata.get(k) for k in does}
        if all(v is not None and np.shape(v) == shift.shape for v in kept.values()):
            folded = [a.astype(shift.dtype) for a in norm_affine(**kept, eps=eps)]
            same = (folded[0] == scale) & (folded[1] == shift)
            does = {k: np.where(same, kept[k], v) for k, v in does.items()}
        batches = node.metadata.get("batches", np.zeros(1, np.int64))
        names = {"weight": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        tensors = {f"{prefix}{names[k]}": torch.as_tensor(np.array(v)) for k, v in does.items()}
        return tensors | {f"{prefix}num_batches_tracked": torch.as_tensor(np.array(batches)).reshape(())}


def _layer(reader: _Reader, at: str, prefix: str, c: PDMUConfig) -> Weights:
    """Return the weights of one layer."""
    weights = reader.affine(f"{at}_to_memory", f"{prefix}to_memory.")
    weights |= reader.affine(f"{at}_from_input", f"{prefix}from_input.")
    weights[f"{prefix}from_memory.weight"] = torch.as_tensor(reader.node(f"{at}_from_memory", nir.Linear).weight)
    weights |= reader.norm(f"{at}_norm", f"{prefix}norm.", eps=1e-5)
    rows = ("output", "write", "read") if c.spikes == "all" else ("output",)
    for row in rows:
        weights |= reader.neurons(f"{at}_{row}", f"{prefix}{row}_neurons.", c.lif.reset)
    _check_memory(reader, at, c)
    if c.write == "relu":
        _extension(reader, f"{at}_relu", "pdmu.relu")
    if c.gate == "uniform":
        _check_delays(reader, at, c)
    elif c.gate != "off":
        gate = _extension(reader, f"{at}_gate", "pdmu.delay_gate")
        weights |= _Reader(gate, reader.dt_s).affine("logits", f"{prefix}to_gate.")
    return weights


def _check_memory(reader: _Reader, at: str, c: PDMUConfig) -> None:
    """Refuse a memory that is not the Legendre memory of the configuration, or that another time step than the graph's drives."""
    a_bar, b_bar = lmu_matrices(c.order, c.theta)
    eye, changed = np.eye(c.channels), "it is not the Legendre memory of the configuration's order and theta"
    reader.expect(f"{at}_memory_input", reader.node(f"{at}_memory_input", nir.Linear).weight, np.kron(eye, b_bar[:, None]), changed)
    reader.expect(f"{at}_memory_recall", reader.node(f"{at}_memory_recall", nir.Linear).weight, np.kron(eye, a_bar), changed)
    memory = reader.node(f"{at}_memory", nir.LI)
    reader.expect(f"{at}_memory", memory.tau / reader.dt_s, 1.0, f"its tau is not the graph's time step, {reader.dt_s} s")
    reader.expect(f"{at}_memory", memory.r, 1.0, "its input is scaled, R is not 1")
    reader.expect(f"{at}_memory", memory.v_leak, 0.0, "it leaks to another value than zero")


def _check_delays(reader: _Reader, at: str, c: PDMUConfig) -> None:
    """Refuse a uniform gate whose delays or weight are not the configuration's."""
    for tap in range(max(1, c.first_tap), c.first_tap + c.taps):
        name, wanted = f"{at}_delay{tap}", float(tap * c.dilation)
        delay = reader.node(name, nir.Delay).delay
        reader.expect(name, delay / reader.dt_s, wanted, f"its delay is not {wanted:g} steps of {reader.dt_s} s")
    reader.expect(f"{at}_mix", reader.node(f"{at}_mix", nir.Scale).scale, 1 / c.taps, "its weights are not those of a uniform gate")


def _extension(reader: _Reader, name: str, op: str) -> nir.NIRGraph:
    name = f"{name}_{EXTENSION}"
    node: nir.NIRGraph = reader.node(name, nir.NIRGraph)
    if (node.metadata.get("op"), node.metadata.get("format")) != (op, FORMAT):
        raise UserError(f"NIR graph: subgraph '{name}' is {node.metadata.get('op')} of {node.metadata.get('format')}, not {op} of {FORMAT}")
    return node
