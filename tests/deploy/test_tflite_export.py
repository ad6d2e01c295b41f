"""TFLite graphs of bundles: their interface, their numbers against the integer law, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tflite

from deploy.conformance_graphs import SCORE_BOUND_Q15, check_graph
from deploy.tflite_export import BLOCK_STEPS, GRAPHS, MARKER, GraphFile, build_graph, export_tflite
from deploy.tflite_layer import block_matrix
from deploy.tflite_run import GraphRunner, interpreter_module
from pdmu.bundle import Bundle, int_model
from pdmu.errors import UserError
from pdmu.int_model import model_init, model_step, model_trace
from tests.conftest import REPO
from tests.deploy.networks import DECIDING, NETWORKS, golden_features, make_bundle

GRAPH_IDS = [g.name("").strip(".").removesuffix(".tflite") for g in GRAPHS]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: make_bundle(config, folder / f"{i}.pdmu") for i, (name, config) in enumerate((NETWORKS | DECIDING).items())}


def law_scores(bundle: Bundle, features: np.ndarray) -> np.ndarray:
    network = int_model(bundle)
    return model_step(network, model_init(network), features)[1]


@pytest.mark.parametrize("graph", GRAPHS, ids=GRAPH_IDS)
@pytest.mark.parametrize("name", NETWORKS | DECIDING)
def test_graph_is_within_the_declared_bounds(bundles: dict[str, Bundle], name: str, graph: GraphFile) -> None:
    bundle = bundles[name]
    target = graph.name("").strip(".").removesuffix(".tflite")
    findings = check_graph(bundle, target, build_graph(bundle, graph.precision, graph.steps), "golden", golden_features(bundle.frontend))
    assert [f for f in findings if not f.holds] == []
    assert {f.stage for f in findings} >= {"scores", "pdmu0.memory"}


@pytest.mark.parametrize("graph", GRAPHS, ids=GRAPH_IDS)
def test_tensor_names_shapes_and_types(bundles: dict[str, Bundle], graph: GraphFile) -> None:
    bundle = bundles["residual stack"]
    interpreter = interpreter_module().Interpreter(model_content=build_graph(bundle, graph.precision, graph.steps))
    inputs = {d["name"]: d for d in interpreter.get_input_details()}
    outputs = {d["name"]: d for d in interpreter.get_output_details()}
    states = {f"pdmu{i}.{part}" for i in (0, 1) for part in ("memory", "delayed", "gates")} | {"conv0", "conv1", "conv2"}
    assert set(inputs) == {"features"} | {f"state/{s}" for s in states}
    assert set(outputs) == {"scores"} | {f"next/{s}" for s in states}
    for s in states:
        before, after = inputs[f"state/{s}"], outputs[f"next/{s}"]
        assert before["shape"].tolist() == after["shape"].tolist()
        assert (before["dtype"], before["quantization"]) == (after["dtype"], after["quantization"])
    dtype = np.int16 if graph.precision == "int16x8" else np.float32
    assert {d["dtype"] for d in (*inputs.values(), *outputs.values())} == {dtype}
    assert inputs["features"]["shape"].tolist() == [2 * graph.steps, 40]
    assert outputs["scores"]["shape"].tolist() == [graph.steps, 3]
    if graph.precision == "int16x8":
        assert inputs["features"]["quantization"] == (1 / 512, 0)
        assert outputs["scores"]["quantization"] == (1 / 32768, 0)


@pytest.mark.parametrize("graph", GRAPHS, ids=GRAPH_IDS)
def test_neurons_and_routes_have_states_of_their_own(bundles: dict[str, Bundle], graph: GraphFile) -> None:
    interpreter = interpreter_module().Interpreter(model_content=build_graph(bundles["spiking inside"], graph.precision, graph.steps))
    inputs = {d["name"]: d for d in interpreter.get_input_details()}
    outputs = {d["name"]: d for d in interpreter.get_output_details()}
    shapes = {"pdmu0.memory": [8, 8], "pdmu0.delayed": [16, 64], "pdmu0.gates": [16, 8], "pdmu0.v": [1, 32], "pdmu0.v_u": [1, 8],
              "pdmu0.v_r": [1, 64], "pdmu1.memory": [6, 6], "pdmu1.arriving": [12, 36], "pdmu1.v": [1, 24], "pdmu1.v_u": [1, 6],
              "pdmu1.v_r": [1, 36], "conv0": [1, 1, 40, 1]}  # fmt: skip
    assert set(inputs) == {"features"} | {f"state/{s}" for s in shapes}
    for name, shape in shapes.items():
        before, after = inputs[f"state/{name}"], outputs[f"next/{name}"]
        assert before["shape"].tolist() == after["shape"].tolist() == shape
        real = graph.precision == "float32" or name.partition(".")[2].startswith("v")
        assert before["dtype"] == after["dtype"] == (np.float32 if real else np.int16)


@pytest.mark.parametrize("precision", SCORE_BOUND_Q15)
@pytest.mark.parametrize("name", ["epdmu", "spiking", "spiking inside"])
def test_a_stream_of_decisions_changes_between_block_and_single_graphs(bundles: dict[str, Bundle], name: str, precision: str) -> None:
    """A step of the single graph and of the block's is the same arithmetic but for the memory, so few decisions differ."""
    features = golden_features(bundles[name].frontend)[:128]
    block, single = (GraphRunner(build_graph(bundles[name], precision, steps)) for steps in (BLOCK_STEPS, 1))  # type: ignore[arg-type]
    expected = np.concatenate([single.run(features[:64]), single.run(features[64:])])
    single.reset()
    first = single.run(features[:32])
    block.set_state(single.state())
    found = np.concatenate([first, block.run(features[32:96])])
    single.set_state(block.state())
    found = np.concatenate([found, single.run(features[96:])])
    off = np.abs(found.astype(int) - expected).max(axis=1)
    assert np.median(off) <= 16 and (off > SCORE_BOUND_Q15[precision]).mean() < 0.25


@pytest.mark.parametrize("precision", SCORE_BOUND_Q15)
def test_a_stream_changes_between_block_and_single_graphs(bundles: dict[str, Bundle], precision: str) -> None:
    bundle = bundles["residual stack"]
    features = golden_features(bundle.frontend)
    block, single = (GraphRunner(build_graph(bundle, precision, steps)) for steps in (BLOCK_STEPS, 1))  # type: ignore[arg-type]
    scores, at = [], 0
    for runner, other, blocks in ((single, block, 5), (block, single, 2), (single, block, 7), (block, single, 1)):
        frames = blocks * runner.frames
        scores.append(runner.run(features[at : at + frames]))
        at += frames
        other.set_state(runner.state())
    expected = law_scores(bundle, features[:at])
    assert np.abs(np.concatenate(scores).astype(int) - expected).max() <= SCORE_BOUND_Q15[precision]


@pytest.mark.parametrize("graph", GRAPHS, ids=GRAPH_IDS)
def test_sounds_beyond_the_calibrated_range_saturate_alike(tmp_path: Path, graph: GraphFile) -> None:
    bundle = make_bundle(NETWORKS["uniform and off"], tmp_path / "quiet.pdmu", loudness=0.25)
    features = golden_features(bundle.frontend)
    network = int_model(bundle)
    _, expected, trace = model_trace(network, model_init(network), features)
    assert max(int(trace[k].max()) for k in ("conv0", "pdmu0", "pdmu1")) == 32767
    found = GraphRunner(build_graph(bundle, graph.precision, graph.steps)).run(features)
    assert np.abs(found.astype(int) - expected[: len(found)]).max() <= SCORE_BOUND_Q15[graph.precision]


def test_first_step_of_the_single_graph_has_the_laws_memory(bundles: dict[str, Bundle]) -> None:
    """One step uses the law's own integer Ā and B̄: only u's 31-bit factor is rounded elsewhere, by a count at most."""
    bundle = bundles["sigmoid on raw features"]
    features = golden_features(bundle.frontend)[20:21]
    runner = GraphRunner(build_graph(bundle, "int16x8", 1))
    runner.run(features)
    network = int_model(bundle)
    expected = model_step(network, model_init(network), features)[0].layers[0].memory.T
    assert np.abs(expected).max() > 1000
    assert np.abs(runner.state()["pdmu0.memory"].astype(int) - expected).max() <= 1


def test_block_matrix_is_the_recursion() -> None:
    rng = np.random.default_rng(0)
    d, steps = 5, 7
    a, b = rng.normal(size=(d, d)) / d, rng.normal(size=d)
    m, u = rng.normal(size=(d, 2)), rng.normal(size=(steps, 2))
    expected, now = [], m
    for k in range(steps):
        now = a @ now + np.outer(b, u[k])
        expected.append(now)
    assert np.allclose(block_matrix(a, b, steps) @ np.concatenate([m, u]), np.concatenate(expected), rtol=1e-12, atol=1e-12)


def test_files_name_their_bundle(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    bundle = bundles["depthwise and no history"]
    paths = export_tflite(bundle, tmp_path, "marsh")
    assert [p.name for p in paths] == [
        "marsh.int16x8.tflite", "marsh.int16x8.block.tflite", "marsh.float32.tflite", "marsh.float32.block.tflite",
    ]  # fmt: skip
    assert sorted(tmp_path.iterdir()) == sorted(paths), "no temporary file stays behind"
    for path in paths:
        raw = path.read_bytes()
        assert raw.count((MARKER + bundle.sha256).encode()) == 1
        model = tflite.Model.GetRootAs(raw, 0)
        entries = {model.Metadata(i).Name(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
        document = json.loads(model.Buffers(entries[b"pdmu"]).DataAsNumpy().tobytes())
        assert document["contract"] == bundle.contract
        assert document["model"]["labels"] == ["a", "b"]
        assert document["frontend"]["hop_samples"] == 256


def test_unknown_gate_is_refused(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["depthwise and no history"]
    layer = dataclasses.replace(bundle.model.layers[0], gate="sigmoid")
    other = dataclasses.replace(bundle, model=dataclasses.replace(bundle.model, layers=(layer,)))
    with pytest.raises(UserError, match='layer 0 is outside the integer law: its gate is "sigmoid"'):
        build_graph(other, "int16x8", 1)


def test_a_bundle_that_was_never_written_is_refused(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(UserError, match="no SHA-256"):
        build_graph(dataclasses.replace(bundles["uniform and off"], sha256=""), "float32", 1)


def test_a_folder_that_takes_no_file(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_tflite(bundles["uniform and off"], tmp_path / "taken", "x")


@pytest.mark.parametrize("graph", GRAPHS, ids=GRAPH_IDS)
def test_tflite_runtime_gives_the_same_within_bounds(bundles: dict[str, Bundle], tmp_path: Path, graph: GraphFile) -> None:
    python = os.environ.get("PDMU_TFLITE_RUNTIME_PYTHON")
    if not python:
        pytest.skip("PDMU_TFLITE_RUNTIME_PYTHON does not name a Python with tflite-runtime 2.14 and numpy<2")
    for name, bundle in bundles.items():
        features = golden_features(bundle.frontend)
        np.save(tmp_path / "features.npy", features)
        (tmp_path / "graph.tflite").write_bytes(build_graph(bundle, graph.precision, graph.steps))
        command = [python, "-m", "deploy.tflite_run", *(str(tmp_path / f) for f in ("graph.tflite", "features.npy", "scores.npy"))]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = np.load(tmp_path / "scores.npy")
        assert np.abs(found.astype(int) - law_scores(bundle, features)[: len(found)]).max() <= SCORE_BOUND_Q15[graph.precision], name
