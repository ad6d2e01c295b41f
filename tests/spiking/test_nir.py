"""Spiking networks as NIR: other simulators' forward Euler gives our spikes, and what was written comes back bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nir = pytest.importorskip("nir")

from pdmu.config import ConvConfig, FrontendConfig, LIFConfig, ModelConfig, PDMUConfig  # noqa: E402
from pdmu.errors import UserError  # noqa: E402
from pdmu.nn.model import PDMUNet  # noqa: E402
from spiking.nir_export import main, save, to_nir  # noqa: E402
from spiking.nir_import import from_nir, load  # noqa: E402

DT_S = 0.016
BASE = PDMUConfig(
    hidden=8, channels=3, order=4, theta=10, taps=3, dilation=2, cell="spiking", gate="uniform",
    lif=LIFConfig(beta=0.8, threshold=0.3, reset="zero"),
)  # fmt: skip
SUBTRACT = dataclasses.replace(BASE.lif, reset="subtract")
STANDARD: dict[str, dict[str, Any]] = {
    "uniform, to zero": {},
    "uniform, by subtraction": {"lif": SUBTRACT},
    "off": {"gate": "off"},
    "taps from 0": {"first_tap": 0},
    "all spikes": {"spikes": "all"},
    "all spikes, by subtraction, taps from 0": {"spikes": "all", "lif": SUBTRACT, "first_tap": 0},
    "all spikes, off": {"spikes": "all", "gate": "off"},
}
EXTENDED: dict[str, dict[str, Any]] = {
    "softmax": {"gate": "softmax"},
    "sigmoid of x and m, tanh": {"gate": "sigmoid", "gate_input": "xm", "gate_tanh": True},
    "top1 of x and u": {"gate": "top1", "gate_input": "xu"},
    "straight_through": {"gate": "straight_through"},
    "per channel, all spikes": {"gate": "softmax", "gate_per_channel": True, "spikes": "all", "lif": SUBTRACT},
    "relu write": {"write": "relu"},
}
ALL = {**STANDARD, **EXTENDED}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps of such size are many times slower where a thread waits for a core that others use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _net(dtype: Any = torch.float32, frontend: Any = 6, **changes: Any) -> PDMUNet:
    """Two layers with neurons that all differ, some that forget all and some that keep all, and normalisation that does something."""
    torch.manual_seed(5)
    layer = dataclasses.replace(BASE, **changes)
    net = PDMUNet(ModelConfig(("a", "b", "c"), layers=(layer, layer)), frontend).to(dtype).eval()
    with torch.no_grad():
        for name, value in itertools.chain(net.named_parameters(), net.named_buffers()):
            if name.endswith(("beta", "threshold")):
                value.uniform_(0.1, 1.0)
            elif name.endswith(("norm.weight", "running_var")):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("norm.bias", "running_mean")):
                value.uniform_(-0.3, 0.3)
            if name.endswith("beta"):
                value[:3] = torch.tensor([0.0, 1.0, 1.25])  # the law clamps
    return net


def _input(dtype: Any = torch.float32, steps: int = 80) -> Any:
    return torch.randn(2, steps, 6, generator=torch.Generator().manual_seed(2), dtype=dtype) * 3


def _spikes(net: PDMUNet, x: Any) -> tuple[list[Any], Any]:
    """Spikes ``[B, T, H]`` of each layer's outputs and logits ``[B, T, labels]``, step by step."""
    spikes: list[list[Any]] = [[] for _ in net.layers]
    state, logits = net.init_state(len(x), x), []
    with torch.no_grad():
        for k in range(x.shape[1]):
            y, state = net.step(x[:, k : k + 1], state)
            logits.append(y)
            for i, (layer, after) in enumerate(zip(net.layers, state.layers, strict=True)):
                spikes[i].append(after.neurons[0].v > layer.output_neurons.threshold)  # type: ignore[union-attr]
    return [torch.stack(s, 1) for s in spikes], torch.stack(logits, 1)


def _equal(a: PDMUNet, b: PDMUNet) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(m == n and v.dtype == w.dtype and torch.equal(v, w) for (m, v), (n, w) in pairs)


class Euler:
    """NIR primitives by forward Euler, written from their equations alone: float64, one input a step.

    An edge that closes a cycle, seen from the inputs, carries the value of the step before.
    """

    def __init__(self, graph: Any, dt_s: float) -> None:
        self.graph, self.dt_s = graph, dt_s
        self.order: list[str] = []
        self.late: set[tuple[str, str]] = set()
        done: set[str] = set()

        def visit(name: str, path: tuple[str, ...]) -> None:
            for a, b in graph.edges:
                if a == name and b in (*path, name):
                    self.late.add((a, b))
                elif a == name and b not in done:
                    visit(b, (*path, name))
            done.add(name)
            self.order.insert(0, name)

        for name in graph.inputs:
            visit(name, ())

    def run(self, x: Any) -> dict[str, Any]:
        """Return the outputs ``[T, ...]`` of every node for inputs ``[T, n]``."""
        record: dict[str, list[Any]] = {name: [] for name in self.order}
        v: dict[str, Any] = {name: np.zeros(node.tau.shape) for name, node in self.graph.nodes.items() if hasattr(node, "tau")}
        for now in x:
            for name in self.order:
                total: Any = now if name == "input" else 0.0
                for edge in self.graph.edges:
                    if edge[1] == name:
                        source = record[edge[0]]
                        total = total + (source[-1] if edge not in self.late else source[-1] if source else 0.0)
                record[name].append(self._node(name, self.graph.nodes[name], total, record, v))
        return {name: np.stack(values) for name, values in record.items()}

    def _node(self, name: str, node: Any, total: Any, record: dict[str, Any], v: dict[str, Any]) -> Any:
        kind = type(node).__name__
        if kind in ("Input", "Output"):
            return total
        if kind in ("Affine", "Linear"):
            return node.weight @ total + getattr(node, "bias", 0.0)
        if kind == "Scale":
            return node.scale * total
        if kind == "Threshold":
            return (total > node.threshold).astype(float)
        if kind == "Delay":
            history = record.setdefault(f"{name} in", [])
            history.append(total)
            steps = np.rint(node.delay / self.dt_s).astype(int)
            assert np.allclose(steps * self.dt_s, node.delay)
            return np.array([history[-1 - s][i] if s < len(history) else 0.0 for i, s in enumerate(steps)])
        assert kind in ("LI", "LIF"), kind
        total = np.broadcast_to(total, node.tau.shape)
        v[name] = v[name] + self.dt_s / node.tau * (node.v_leak - v[name] + node.r * total)
        if kind == "LI":
            return v[name]
        fired = v[name] > node.v_threshold
        v[name] = np.where(fired, node.v_reset, v[name])
        return fired.astype(float)


@pytest.mark.parametrize("name", STANDARD)
def test_forward_euler_of_the_primitives_gives_our_spikes(name: str, tmp_path: Path) -> None:
    net = _net(torch.float64, **STANDARD[name])
    x = _input(torch.float64)
    save(to_nir(net, DT_S), tmp_path / "model.nir")
    graph = nir.read(tmp_path / "model.nir")  # NIR's own reader and type check, nothing of ours
    simulator = Euler(graph, float(graph.metadata["dt"]))
    spikes, logits = _spikes(net, x)
    for b in range(len(x)):
        found = simulator.run(x[b].numpy())
        for i, ours in enumerate(spikes):
            assert 0.02 < ours[b].double().mean() < 0.9  # it fires, and not always
            np.testing.assert_array_equal(found[f"layer{i}_output"], ours[b].numpy())
        np.testing.assert_allclose(found["output"], logits[b].numpy(), rtol=1e-9, atol=1e-9)  # linear in equal spikes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_there_and_back_through_a_file_every_bit_is_the_same(name: str, dtype: Any, tmp_path: Path) -> None:
    net, x = _net(dtype, **ALL[name]), _input(dtype, 30)
    save(to_nir(net, DT_S), tmp_path / "model.nir")
    back = from_nir(load(tmp_path / "model.nir"), DT_S)
    assert back.config == net.config and back.frontend == 6 and not back.training
    assert _equal(net, back)
    (spikes, logits), (other, other_logits) = _spikes(net, x), _spikes(back, x)
    assert torch.equal(logits, other_logits) and all(map(torch.equal, spikes, other))
    assert _equal(from_nir(to_nir(back, DT_S)), net)  # and again, without a file


@pytest.mark.parametrize("name", EXTENDED)
def test_what_nir_lacks_is_refused_by_name_and_never_run(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.nir"
    save(to_nir(_net(**EXTENDED[name]), DT_S), path)
    what = "relu" if name == "relu write" else "gate"
    with pytest.raises(ValueError, match=f"type mismatch.*layer[01]_{what}_needs_spiking_nir_import"):
        nir.read(path)
    graph = nir.read(path, type_check=False)
    foreign = [n for n in graph.nodes.values() if isinstance(n, nir.NIRGraph)]
    assert len(foreign) == 2
    for subgraph in foreign:  # what comes out of one that someone takes out and runs is no number
        assert all(np.isnan(n.scale).all() for n in subgraph.nodes.values() if isinstance(n, nir.Scale))
        assert all(np.isnan(n.weight).all() for n in subgraph.nodes.values() if type(n) is nir.Linear)


def _nirtorch(graph: Any) -> Any:
    """Let nirtorch execute a graph: its order and its handling of cycles, with modules that compute what `Euler` does."""
    nirtorch = pytest.importorskip("nirtorch")

    class Node(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self, node: Any) -> None:
            super().__init__()
            self.of, self.run = node, Euler(graph, DT_S)

        def forward(self, x: Any, state: Any = None) -> Any:
            record, v = state or ({}, {"it": np.zeros_like(x[0].numpy())})
            y = self.run._node("it", self.of, x[0].numpy(), record, v)
            return torch.as_tensor(y)[None], (record, v)

    kinds = (nir.Affine, nir.Linear, nir.Scale, nir.Threshold, nir.Delay, nir.LI, nir.LIF)
    return nirtorch.nir_to_torch(graph, {kind: Node for kind in kinds}, dtype=torch.float64)


@pytest.mark.parametrize("name", STANDARD)
def test_nirtorch_executes_the_primitives_to_the_same_logits(name: str) -> None:
    net, x = _net(torch.float64, **STANDARD[name]), _input(torch.float64)
    executor, state, logits = _nirtorch(to_nir(net, DT_S)), None, []
    for now in x[0]:
        y, state = executor(now[None], state)
        logits.append(y[0])
    torch.testing.assert_close(torch.stack(logits), _spikes(net, x[:1])[1][0], rtol=1e-9, atol=1e-9)  # linear in equal spikes


def test_an_executor_that_checks_nothing_refuses_what_nir_lacks() -> None:
    with pytest.raises(RuntimeError):
        _nirtorch(to_nir(_net(gate="softmax"), DT_S))


@pytest.mark.parametrize("readout", ["step", "last", "mean", "leaky"])
def test_the_configuration_travels_with_the_graph(readout: Any) -> None:
    net = _net()
    net = PDMUNet(dataclasses.replace(net.config, readout=readout, readout_decay=0.7), 6).eval()
    assert from_nir(to_nir(net, DT_S)).config == net.config


def test_a_front_end_knows_the_time_step(tmp_path: Path) -> None:
    net = _net(frontend=FrontendConfig(n_mels=6))
    graph = to_nir(net)
    assert graph.metadata["dt"] == 0.016 and to_nir(net, 0.016).metadata["dt"] == 0.016
    assert from_nir(graph).frontend == net.frontend
    with pytest.raises(UserError, match="a time step of 0.01 s, but the front end makes a step every 0.016 s"):
        to_nir(net, 0.01)
    with pytest.raises(UserError, match="give the time between steps"):
        to_nir(_net())
    with pytest.raises(UserError, match="positive number of seconds"):
        to_nir(_net(), 0.0)


def test_another_time_step_is_an_error_that_says_both() -> None:
    with pytest.raises(UserError, match="a step of 0.01 s: it was written for 0.016 s"):
        from_nir(to_nir(_net(), DT_S), 0.01)


def test_the_time_step_changes_no_spike() -> None:
    net, x = _net(torch.float64, lif=SUBTRACT), _input(torch.float64, 40)
    slow, fast = (Euler(to_nir(net, dt), dt).run(x[0].numpy())["layer1_output"] for dt in (DT_S, 1e-4))
    np.testing.assert_array_equal(slow, fast)


@pytest.mark.parametrize("lif", [BASE.lif, SUBTRACT])
def test_what_was_changed_elsewhere_comes_back_changed(lif: LIFConfig) -> None:
    net = _net(torch.float64, lif=lif)
    graph = to_nir(net, DT_S)
    membrane = graph.nodes["layer0_output" if lif.reset == "zero" else "layer0_output_membrane"]
    membrane.tau[4], membrane.r[4] = DT_S / 0.25, 4.0  # a decay of 0.75
    graph.nodes["layer1_from_memory"].weight[:] *= 0.5
    graph.nodes["layer1_norm"].bias[2] += 1.0
    back = from_nir(graph)
    changed = net.state_dict()
    changed["layers.0.output_neurons.beta"][4] = 0.75
    changed["layers.1.from_memory.weight"] *= 0.5
    changed["layers.1.norm.bias"][2] += 1.0
    net.load_state_dict(changed)
    torch.testing.assert_close(back.state_dict()["layers.0.output_neurons.beta"], changed["layers.0.output_neurons.beta"])
    for a, b in zip(_spikes(back, _input(torch.float64)), _spikes(net, _input(torch.float64)), strict=True):
        torch.testing.assert_close(a, b)  # the normalisation is another one that does the same, up to rounding


@pytest.mark.parametrize(
    ("node", "field", "change", "words"),
    [
        ("layer0_output", "r", lambda v: v * 2, "R is not tau/dt"),
        ("layer0_output", "v_reset", lambda v: v - 1, "reset to another value than zero"),
        ("layer0_output", "v_leak", lambda v: v + 1, "leaks to another value"),
        ("layer0_memory", "tau", lambda v: v * 2, "its tau is not the graph's time step"),
        ("layer0_memory_recall", "weight", lambda v: v + 1, "not the Legendre memory"),
        ("layer0_delay2", "delay", lambda v: v * 2, "its delay is not 4 steps"),
        ("layer0_mix", "scale", lambda v: v * 2, "uniform gate"),
        ("layer0_norm", "weight", lambda v: v + 1, "not diagonal"),
    ],
)
def test_what_our_network_cannot_be_is_named(node: str, field: str, change: Any, words: str) -> None:
    graph = to_nir(_net(), DT_S)
    setattr(graph.nodes[node], field, change(getattr(graph.nodes[node], field)))
    with pytest.raises(UserError, match=f"'{node}'.*{words}"):
        from_nir(graph)


def test_graphs_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    plain = nir.NIRGraph.from_list(nir.Linear(np.ones((2, 3))))
    with pytest.raises(UserError, match="not written by spiking.nir_export"):
        from_nir(plain)
    graph = to_nir(_net(), DT_S)
    graph.metadata["format"] = "pdmu.nir/2"
    with pytest.raises(UserError, match='format "pdmu.nir/2"; pdmu.nir/1 is read'):
        from_nir(graph)
    graph = to_nir(_net(), DT_S)
    del graph.metadata["dt"]
    with pytest.raises(UserError, match="lack dt"):
        from_nir(graph)
    graph = to_nir(_net(), DT_S)
    graph.edges.remove(("layer0_delay2", "layer0_mix"))
    with pytest.raises(UserError, match="edges.*layer0_delay2 -> layer0_mix"):
        from_nir(graph)
    graph = to_nir(_net(), DT_S)
    graph.metadata["dtype"] = "int8"
    with pytest.raises(UserError, match="said to be int8"):
        from_nir(graph)
    graph = to_nir(_net(), DT_S)
    del graph.nodes["layer1_from_input"]
    with pytest.raises(UserError, match="'layer1_from_input' is missing"):
        from_nir(graph)
    graph = to_nir(_net(), DT_S)
    graph.metadata["model"] = json.dumps({**json.loads(graph.metadata["model"]), "labels": ["a", "b"]})
    with pytest.raises(UserError, match="head.weight is .3, 8. and its configuration asks for .2, 8."):
        from_nir(graph)
    for content in (None, b"", b"no graph at all"):
        path = tmp_path / "x.nir"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"x.nir: (no such file|not a NIR graph)"):
            load(path)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda: _net(cell="pdmu"), "layer 0 is a pdmu layer.*model.family=sdmu"),
        (lambda: _net(bidirectional=True, cell="spiking"), "bidirectional"),
        (lambda: _net(torch.float16), "weights of type torch.float16.*net.float()"),
        (lambda: PDMUNet(ModelConfig(("a",), conv=(ConvConfig(2),), layers=(BASE,)), 6), "no convolution"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_way_out(net: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        to_nir(net(), DT_S)


def test_neurons_of_snntorch_are_taken_back_first() -> None:
    pytest.importorskip("snntorch")
    from spiking.snn import from_snntorch, to_snntorch

    theirs = to_snntorch(_net())
    with pytest.raises(UserError, match="from_snntorch"):
        to_nir(theirs, DT_S)
    assert _equal(from_nir(to_nir(from_snntorch(theirs), DT_S)), _net())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sub" / "model.nir"
    assert main(["run", "--dt", "0.01", "--out", str(out)], load=lambda run: _net()) == 0
    assert _equal(from_nir(load(out)), _net())
    assert capsys.readouterr().err == ""
    assert main(["run", "--dt", "0.01", "--out", str(out)], load=lambda run: _net(gate="softmax")) == 0
    assert "only spiking.nir_import reads this file" in capsys.readouterr().err
    assert main(["run", "--out", str(out)], load=lambda run: _net()) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(tmp_path / "nothing"), "--out", str(out)]) == 1
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["run"])
    assert stop.value.code == 2
