"""The .tflite graphs beside the integer law: what bounds they owe it, and the comparison.

A graph shows no inner stage, but its state does: the kept frames of each convolution, the memories, the delay lines, the gates and the
neurons' potentials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.finding import Finding, largest_difference
from deploy.tflite_run import GraphRunner
from pdmu.bundle import Bundle, int_model
from pdmu.config import ModelConfig
from pdmu.int_layer import THRESHOLD
from pdmu.int_model import ModelState, model_init, model_trace

# Largest difference of a score from the law's, counts of 1/32768, over golden and real audio. Where it comes from: the law rounds the
# memory to int16 at each step, a block once and float32 never; the law adds a layer's terms in 64 bits, an int16x8 graph in int16 at the
# coarser scales of its sums (a few counts of p); the runtimes' int16 softmax and sigmoid tables are a few counts off the law's; and a
# count of a Q11 logit is up to four of the score. Each bound is over twice the largest difference seen: on the shipped models over
# development recordings (int16x8 90, float32 114), and on networks whose head and gates were given exaggerated gains, on sounds they
# were not calibrated for (115 and 15).
SCORE_BOUND_Q15: Mapping[str, int] = {"int16x8": 320, "float32": 256}
# Largest difference of a state tensor, counts of its int16 scale: the same causes before the head (seen: 21 and 22). Gates are a softmax as
# scores are: a count of their Q11 logits is up to four of theirs, and trained logits are large (seen: 45 and 81).
STATE_BOUND: Mapping[str, int] = {"int16x8": 64, "float32": 64}
GATE_BOUND_Q15: Mapping[str, int] = {"int16x8": 192, "float32": 192}
# Share, %, of values that may lie further apart than that where layers decide, and of the law's spikes that may fall otherwise, in graphs
# of one step and of a block from the law's state: a decision changes everything after it in its block. Seen on networks of random weights
# 1.1 and 25, on the shipped spiking model 1.5 and 18. A share of few blocks says nothing: a short signal is heard over and over.
APART_BOUND = (5.0, 40.0)
LEAST_BLOCKS = 12


def check_graph(bundle: Bundle, target: str, image: bytes, signal: str, features: NDArray[np.int16]) -> list[Finding]:
    """Compare a graph's scores and state with the law over the whole blocks of `features`.

    Where layers decide (spikes, routes) a decision within a rounding of its threshold falls otherwise, and what follows is another
    sequence. So every block then begins from the law's own state, and the share of values that differ by more than the bounds is bounded.
    """
    runner = GraphRunner(image)
    features = features[: len(features) // runner.frames * runner.frames]
    if bundle.model.decides:
        return _check_decisions(bundle, target, runner, signal, features)
    network = int_model(bundle)
    state, expected, _ = model_trace(network, model_init(network), features)
    precision = target.partition(".")[0]
    scores = Finding(signal, target, "scores", largest_difference(runner.run(features), expected), SCORE_BOUND_Q15[precision])
    inner = [
        Finding(signal, target, name, float(off.max(initial=0)), _state_bound(name, precision))
        for name, off in _state_differences(bundle, runner, state).items()
    ]
    return [*inner, scores]


def _check_decisions(bundle: Bundle, target: str, runner: GraphRunner, signal: str, features: NDArray[np.int16]) -> list[Finding]:
    network, precision = int_model(bundle), target.partition(".")[0]
    state = model_init(network)
    if len(features):
        features = np.tile(features, (-(-LEAST_BLOCKS * runner.frames // len(features)), 1))
    apart, of = Counter[str](), Counter[str]()  # values that differ, and of how many: of neurons, of the law's spikes
    undecided = dict.fromkeys(_before_decisions(bundle.model, state), 0.0)  # largest differences of what no decision reaches
    for begin in range(0, len(features), runner.frames):
        block = features[begin : begin + runner.frames]
        runner.set_state(_graph_state(bundle, runner, state))
        found = runner.run(block)
        state, expected, _ = model_trace(network, state, block)
        off = np.abs(found.astype(np.int64) - expected).max(axis=1)
        apart["scores"] += int((off > SCORE_BOUND_Q15[precision]).sum())
        of["scores"] += len(off)
        law = state.arrays()
        for name, differences in _state_differences(bundle, runner, state).items():
            if name in undecided:
                undecided[name] = max(undecided[name], float(differences.max(initial=0)))
                continue
            apart[name] += int((differences > _state_bound(name, precision)).sum())
            of[name] += int((law[name] > THRESHOLD).sum()) if _is_potential(name) else differences.size
    out = [Finding(signal, target, name, largest, _state_bound(name, precision)) for name, largest in undecided.items()]
    for name, total in of.items():
        bound = max(APART_BOUND[runner.steps > 1], 100 / max(2, total))  # of a few spikes one may fall otherwise
        out.append(Finding(signal, target, name, 100 * apart[name] / max(1, total), bound, "%"))
    return out


def _state_bound(name: str, precision: str) -> int:
    return (GATE_BOUND_Q15 if name.endswith(".gates") else STATE_BOUND)[precision]


def _before_decisions(model: ModelConfig, state: ModelState) -> list[str]:
    """Return the parts of the state that no decision reaches, empty ones left out."""
    reached: set[str] = set()
    decided = False
    for i, layer in enumerate(model.layers):
        own = ("memory", "delayed", "gates") if decided or layer.spikes_inside else ()
        reached |= {f"pdmu{i}.{part}" for part in (*own, "arriving", "v", "v_u", "v_r")}
        decided = decided or layer.spiking or layer.routed
    uniform = {f"pdmu{i}.gates" for i, layer in enumerate(model.layers) if layer.gate == "uniform"}  # constants in a graph
    return [name for name, values in state.arrays().items() if values.size and name not in reached | uniform]


def _state_differences(bundle: Bundle, runner: GraphRunner, state: ModelState) -> dict[str, NDArray[np.float64]]:
    """Return how far a graph's state is from the law's, counts; of potentials, infinite where one has spiked and the other has not."""
    law, out = law_state(bundle, state), {}
    for name, found in runner.state().items():
        expected, unit = law[name]
        counts = (found if found.dtype == np.int16 else found / unit).reshape(expected.shape)
        out[name] = np.abs(counts - expected.astype(np.float64))
        if _is_potential(name):
            out[name] = np.where((counts > THRESHOLD) == (expected > THRESHOLD), 0.0, np.inf)
    return out


def _graph_state(bundle: Bundle, runner: GraphRunner, state: ModelState) -> dict[str, NDArray[Any]]:
    """Return the law's state in a graph's own units and shapes."""
    law, out = law_state(bundle, state), {}
    for name, held in runner.state().items():
        counts, unit = law[name]
        values = counts if held.dtype == np.int16 else counts * unit
        out[name] = values.reshape(held.shape).astype(held.dtype)
    return out


def law_state(bundle: Bundle, state: ModelState) -> dict[str, tuple[NDArray[np.signedinteger], NDArray[np.float64]]]:
    """Return the law's state under the graphs' names and in their order, each with the real value of one count."""
    out = {}
    for name, values in state.arrays().items():
        unit = np.array([2.0**-15]) if name.endswith(".gates") else bundle.tensors[_scale_name(bundle, name)].astype(np.float64)
        layer, _, part = name.partition(".")
        config = bundle.model.layers[int(layer.removeprefix("pdmu"))] if part else None
        if part == "memory":
            values = values.T
        elif config is not None and config.spikes_inside and part in ("delayed", "arriving", "v_r"):  # graphs keep the memory order-major
            shape = (-1, config.channels, config.order)
            values = values.reshape(shape).swapaxes(1, 2).reshape(values.shape)
            unit = unit.reshape(shape).swapaxes(1, 2).reshape(-1) if part == "v_r" else unit
        out[name] = (values, unit)
    return out


def _is_potential(name: str) -> bool:
    return name.partition(".")[2] in ("v", "v_u", "v_r")


def _scale_name(bundle: Bundle, state: str) -> str:
    """Return the tensor that holds the real value of one count of a state."""
    if state.startswith("conv"):  # the frames kept are those that the convolution reads
        index = int(state.removeprefix("conv"))
        return f"conv{index - 1}.scale" if index else "in.scale"
    layer, _, part = state.partition(".")
    if _is_potential(state):
        return f"{state}_scale"
    of_memory = part == "memory" or bundle.model.layers[int(layer.removeprefix("pdmu"))].spikes_inside
    return f"{layer}.{'m' if of_memory else 'p'}_scale"
