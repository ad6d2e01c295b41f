"""Single operators of the .tflite graphs where a wrong choice would show only on rare inputs."""

from __future__ import annotations

import numpy as np
import pytest
import tflite

from deploy.tflite_ops import Graph, Weights
from deploy.tflite_run import interpreter_module
from pdmu.config import ConvConfig


def run(graph: Graph, *values: np.ndarray) -> np.ndarray:
    interpreter = interpreter_module().Interpreter(model_content=graph.to_bytes({}, "test"))
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), values, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def bias_types(graph: Graph) -> set[int]:
    subgraph = tflite.Model.GetRootAs(graph.to_bytes({}, "test"), 0).Subgraphs(0)
    tensors = [subgraph.Tensors(i) for i in range(subgraph.TensorsLength())]
    return {t.Type() for t in tensors if t.Name().endswith(b"/bias")}


@pytest.mark.parametrize(("width", "bias_type"), [(500, tflite.TensorType.INT32), (600, tflite.TensorType.INT64)])
def test_largest_inputs_do_not_overflow_the_accumulator(width: int, bias_type: int) -> None:
    """600 products of 127 and 32767 pass 2^31: such a matrix must not take the kernel that sums in 32 bits."""
    weights = Weights(np.full((3, width), 127, np.int8), np.full(3, 0.01, np.float32), np.zeros(3, np.int32))
    graph = Graph("int16x8")
    x = graph.input("x", (2, width), 1e-3)
    graph.output(graph.affine("y", x, weights, width * 127 * 1e-5))
    assert bias_types(graph) == {bias_type}
    assert np.abs(run(graph, np.full((2, width), 32767, np.int16)).astype(int) - 32767).max() <= 1


@pytest.mark.parametrize("depthwise", [False, True])
def test_convolution_equals_its_sums(depthwise: bool) -> None:
    rng = np.random.default_rng(1)
    conv = ConvConfig(4, 3, 2, 2, 3, depthwise)
    shape = (1, 3, 2, 4) if depthwise else (4, 3, 2, 4)
    values, scale = rng.integers(-127, 128, shape).astype(np.int8), rng.uniform(0.5, 1, 4).astype(np.float32)
    weights = Weights(values, scale, rng.integers(-999, 999, 4), axis=3 if depthwise else 0)
    x = rng.integers(-32768, 32768, (1, 7, 9, 4)).astype(np.int16)
    graph = Graph("int16x8")
    graph.output(graph.conv("y", graph.input("x", x.shape, 0.5), weights, conv, 200.0))
    found = run(graph, x)
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.int64), (3, 2), axis=(0, 1))[::2, ::3]  # [T, F, C, K_t, K_f]
    w = weights.values.astype(np.int64)
    acc = np.einsum("tfcij,ijc->tfc", windows, w[0]) if depthwise else np.einsum("tfcij,oijc->tfo", windows, w)
    expected = np.clip(np.round((acc + weights.bias) * weights.scale * 0.5 / 200.0), 0, 32767)
    assert found.shape == (1, *expected.shape)
    assert np.abs(found[0] - expected).max() <= 1


def test_sums_of_unlike_scales() -> None:
    graph = Graph("int16x8")
    a, b = graph.input("a", (1, 3), 0.007), graph.input("b", (1, 3), 0.0011)
    graph.output(graph.add("y", a, b, 0.009, final=True))
    left, right = np.array([[30000, -30000, 5]], np.int16), np.array([[-20000, 20000, -32768]], np.int16)
    expected = np.maximum(0, np.round((left * 0.007 + right * 0.0011) / 0.009))
    assert np.abs(run(graph, left, right) - expected).max() <= 1


def test_float_values_stop_where_int16_does() -> None:
    graph = Graph("float32")
    x = graph.input("x", (1, 2), 1.0)
    weights = Weights(np.array([[127, 0], [0, 127]], np.int8), np.ones(2, np.float32), np.zeros(2, np.int32))
    graph.output(graph.affine("y", x, weights, 0.5))
    assert run(graph, np.array([[1e6, -1e6]], np.float32)).tolist() == [[32767 * 0.5, -32768 * 0.5]]
