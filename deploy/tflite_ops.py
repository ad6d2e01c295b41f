"""The operators a network needs, each written once for both precisions of a .tflite graph.

float32 graphs hold the bundle's weights dequantised; int16x8 graphs hold them as they are, with int16 activations of zero point 0. Where
the law saturates, int16 saturates by itself and float32 is clamped to the same real range, so that sounds beyond the calibrated range give
the same scores. Operator versions are the oldest that take the types: tflite-runtime 2.14 accepts the files as well as LiteRT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tflite
from numpy.typing import NDArray

from deploy.tflite_writer import Op, TFLiteWriter
from pdmu.config import ConvConfig
from pdmu.fixedpoint import I16_MAX

Precision = Literal["float32", "int16x8"]
Array = NDArray[np.generic]
Q15 = 2.0**-15
NONE, RELU = tflite.ActivationFunctionType.NONE, tflite.ActivationFunctionType.RELU
VALID = tflite.Padding.VALID


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its index, shape, and the real value of one count."""

    index: int
    shape: tuple[int, ...]
    scale: float
    real: bool = False  # float32 in graphs of both precisions; `scale` is 1
    refined: int = 1  # counts here of one count of the law's

    @property
    def reach(self) -> float:
        """Largest real magnitude the int16 tensor can hold."""
        return self.scale * (I16_MAX + 1)


@dataclass(frozen=True)
class Weights:
    """An int8 matrix or kernel with one scale per output channel, and its bias in accumulator units.

    Attributes
    ----------
    values : ndarray of int8
        ``[C, ...]``; depthwise kernels ``[1, K_t, K_f, C]``.
    scale : ndarray of float32
        ``[C]``.
    bias : ndarray of int
        ``[C]``, real value ``bias · scale · input scale``.
    axis : int
        Where the output channels are.
    """

    values: Array
    scale: Array
    bias: Array
    axis: int = 0

    def largest(self) -> NDArray[np.int64]:
        """Bound of the accumulator's magnitude over every possible int16 input, ``[C]``."""
        others = tuple(i for i in range(self.values.ndim) if i != self.axis)
        return np.asarray(np.abs(self.values.astype(np.int64)).sum(axis=others) * (I16_MAX + 1) + np.abs(self.bias.astype(np.int64)))

    def real(self) -> NDArray[np.float32]:
        """The dequantised weights."""
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return (self.values.astype(np.float32) * self.scale.astype(np.float32).reshape(shape)).astype(np.float32)


class Graph:
    """A graph under construction: inputs, states and operators in execution order.

    Parameters
    ----------
    precision : {"float32", "int16x8"}
    """

    def __init__(self, precision: Precision) -> None:
        self.integer = precision == "int16x8"
        self._dtype = "int16" if self.integer else "float32"
        self._writer = TFLiteWriter()
        self._inputs: list[int] = []
        self._outputs: list[int] = []

    def input(self, name: str, shape: Sequence[int], scale: float) -> Value:
        """Declare a graph input, a state among them."""
        value = self._value(name, shape, scale)
        self._inputs.append(value.index)
        return value

    def output(self, value: Value) -> None:
        """Make a value a graph output, under the name it was created with."""
        self._outputs.append(value.index)

    def to_bytes(self, metadata: Mapping[str, bytes], description: str) -> bytes:
        """Serialise the finished graph."""
        return self._writer.to_bytes(self._inputs, self._outputs, metadata, description)

    def matrix(self, name: str, real: NDArray[np.float64], scale: float) -> Value:
        """Add a constant activation; int16 counts of `scale` in integer graphs."""
        if not self.integer:
            return Value(self._writer.constant(name, real.astype(np.float32)), real.shape, scale)
        counts = np.clip(np.floor(real / scale + 0.5), -I16_MAX - 1, I16_MAX).astype(np.int16)
        return Value(self._writer.constant(name, counts, scale), real.shape, scale)

    def affine(self, name: str, x: Value, weights: Weights, scale: float, saturate: bool = True) -> Value:
        """``x Wᵀ + b`` of ``[K, N]``, one output scale; without `saturate` the law's value is wider than int16."""
        y = self._wide(name, (x.shape[0], len(weights.values)), scale, saturate)
        inputs, bias_type = self._weights(name, x, weights)
        self._op(Op.FULLY_CONNECTED, inputs, y, (1, 7), activation=NONE, quantized_bias_type=bias_type)
        return self._clamped(name, y) if saturate else y

    def conv(self, name: str, x: Value, weights: Weights, conv: ConvConfig, scale: float) -> Value:
        """Convolution without padding over ``[1, time, mel, C]``, then ReLU."""
        _, rows, columns, _ = x.shape
        shape = (1, (rows - conv.kernel_time) // conv.stride_time + 1, (columns - conv.kernel_mel) // conv.stride_mel + 1, conv.channels)
        y = self._wide(name, shape, scale, saturate=True)
        inputs, bias_type = self._weights(name, x, weights, wide=conv.depthwise)
        steps = {"stride_h": conv.stride_time, "stride_w": conv.stride_mel, "dilation_h": 1, "dilation_w": 1}
        if conv.depthwise:
            self._op(Op.DEPTHWISE_CONV_2D, inputs, y, (1, 5), padding=VALID, depth_multiplier=1, activation=RELU, **steps)
        else:
            self._op(Op.CONV_2D, inputs, y, (1, 4), padding=VALID, activation=RELU, quantized_bias_type=bias_type, **steps)
        return self._clamped(name, y, positive=True)

    def pad_mel(self, name: str, x: Value, before: int, after: int) -> Value:
        """Zeros on both sides of the mel axis of ``[1, time, mel, C]``; `x` itself when there are none."""
        if before == after == 0:
            return x
        amounts = self._writer.constant(name + "/amounts", np.array([[0, 0], [0, 0], [before, after], [0, 0]], np.int32))
        y = self._value(name, (*x.shape[:2], x.shape[2] + before + after, x.shape[3]), x.scale)
        self._op(Op.PAD, [x.index, amounts], y, (1, 3))
        return y

    def concat(self, name: str, parts: Sequence[Value], axis: int = 0) -> Value:
        """Join values of one scale along `axis`."""
        shape = list(parts[0].shape)
        shape[axis] = sum(p.shape[axis] for p in parts)
        y = self._like(parts[0], name, shape)
        self._op(Op.CONCATENATION, [p.index for p in parts], y, (1, 1 if y.real else 3), axis=axis)
        return y

    def last(self, name: str, x: Value, count: int, axis: int = 0) -> Value:
        """The last `count` entries along `axis`."""
        return self.part(name, x, x.shape[axis] - count, count, axis)

    def part(self, name: str, x: Value, first: int, count: int, axis: int = 0) -> Value:
        """`count` entries along `axis` from `first` on."""
        begin, size = [0] * len(x.shape), list(x.shape)
        begin[axis], size[axis] = first, count
        bounds = [self._writer.constant(f"{name}/{k}", np.array(v, np.int32)) for k, v in (("begin", begin), ("size", size))]
        y = self._like(x, name, size)
        self._op(Op.SLICE, [x.index, *bounds], y, (1, 1 if x.real else 4))
        return y

    def reshape(self, name: str, x: Value, shape: Sequence[int]) -> Value:
        """The same values in another shape."""
        y = self._value(name, shape, x.scale)
        self._op(Op.RESHAPE, [x.index, self._writer.constant(name + "/shape", np.array(shape, np.int32))], y, (1, 1))
        return y

    def gather(self, name: str, x: Value, rows: NDArray[np.int64]) -> Value:
        """``x[rows]`` along the first axis."""
        y = self._value(name, (*rows.shape, *x.shape[1:]), x.scale)
        self._op(Op.GATHER, [x.index, self._writer.constant(name + "/rows", rows.astype(np.int32))], y, (1, 4), axis=0)
        return y

    def matmul(self, name: str, a: Value, b: Value, scale: float, saturate: bool = True) -> Value:
        """``a b``, batched over leading axes; int16 by int16 with a 64-bit accumulator in integer graphs."""
        y = self._wide(name, (*a.shape[:-1], b.shape[-1]), scale, saturate)
        self._op(Op.BATCH_MATMUL, [a.index, b.index], y, (1, 3))
        return self._clamped(name, y) if saturate else y

    def add(self, name: str, a: Value, b: Value, scale: float, final: bool = False) -> Value:
        """``a + b`` at a scale of its own, which need be no power of two; the `final` sum passes a ReLU and saturates."""
        y = self._wide(name, a.shape, scale, saturate=final)
        self._op(Op.ADD, [a.index, b.index], y, (1, 3), activation=RELU if final else NONE, pot_scale_int16=False)
        return self._clamped(name, y, positive=True) if final else y

    def saturating_add(self, name: str, a: Value, b: Value) -> Value:
        """``a + b`` of values of one scale, at that scale."""
        y = self._wide(name, a.shape, a.scale, saturate=True)
        self._op(Op.ADD, [a.index, b.index], y, (1, 3), activation=NONE, pot_scale_int16=False)
        return self._clamped(name, y)

    def squash(self, name: str, x: Value, kind: Literal["softmax", "sigmoid"]) -> Value:
        """Softmax over the last axis, or a sigmoid of each; Q15."""
        y = self._value(name, x.shape, Q15)
        if kind == "softmax":
            self._op(Op.SOFTMAX, [x.index], y, (1, 3), beta=1.0)
        else:
            self._op(Op.LOGISTIC, [x.index], y, (1, 3))
        return y

    def real_input(self, name: str, shape: Sequence[int]) -> Value:
        """Declare an input that is float32 in graphs of both precisions."""
        value = self._real(name, shape)
        self._inputs.append(value.index)
        return value

    def real_constant(self, name: str, values: NDArray[np.float64]) -> Value:
        """Add a float32 constant."""
        return Value(self._writer.constant(name, values.astype(np.float32)), values.shape, 1.0, real=True)

    def to_real(self, name: str, x: Value) -> Value:
        """The real values of `x`, float32."""
        if not self.integer:
            return Value(x.index, x.shape, 1.0, real=True)
        y = self._real(name, x.shape)
        self._op(Op.DEQUANTIZE, [x.index], y, (1, 3))
        return y

    def from_real(self, name: str, x: Value, scale: float) -> Value:
        """Real values as the graph's own activations, at a scale that holds them."""
        if not self.integer:
            return Value(x.index, x.shape, scale)
        y = self._value(name, x.shape, scale)
        self._op(Op.QUANTIZE, [x.index], y, (1, 3))
        return y

    def combine(self, code: int, name: str, a: Value, b: Value) -> Value:
        """``a + b``, ``a - b`` or ``a b`` of real values, element by element (``Op.ADD``, ``Op.SUB``, ``Op.MUL``); `b` may be one row."""
        y = self._real(name, a.shape)
        self._op(code, [a.index, b.index], y, (1, 1), activation=NONE)
        return y

    def above(self, name: str, a: Value, b: Value) -> tuple[Value, Value]:
        """Where ``a > b`` of real values: as truth values, and as zeros and ones."""
        truth = Value(self._writer.tensor(name + "/truth", a.shape, "bool"), a.shape, 1.0)
        self._op(Op.GREATER, [a.index, b.index], truth, (1, 1))
        y = self._real(name, a.shape)
        self._op(Op.CAST, [truth.index], y, (1, 1))
        return truth, y

    def select(self, name: str, truth: Value, a: Value, b: Value) -> Value:
        """`a` where `truth` holds and `b` elsewhere, real values."""
        y = self._real(name, a.shape)
        self._op(Op.SELECT, [truth.index, a.index, b.index], y, (1, 1))
        return y

    def largest(self, name: str, x: Value) -> Value:
        """The largest of each row of ``[K, N]`` real values, ``[K, 1]``."""
        y = self._real(name, (x.shape[0], 1))
        axis = self._writer.constant(name + "/axis", np.array([1], np.int32))
        self._op(Op.REDUCE_MAX, [x.index, axis], y, (1, 1), keep_dims=True)
        return y

    def one_hot_of_largest(self, name: str, x: Value, factor: int, offset: NDArray[np.int64], depth: int) -> Value:
        """Real ``[depth, K]`` whose column k has its one in row ``factor · argmax(x[k]) + offset[k]``; of equals the first counts."""
        rows = x.shape[0]

        def whole(part: str, values: NDArray[np.int64]) -> int:
            return self._writer.constant(f"{name}/{part}", values.astype(np.int32))

        def indices(part: str) -> Value:
            return Value(self._writer.tensor(f"{name}/{part}", (rows,), "int32"), (rows,), 1.0)

        choice, scaled, row, y = indices("choice"), indices("scaled"), indices("row"), self._real(name, (depth, rows))
        kind = tflite.TensorType.INT32
        self._op(Op.ARG_MAX, [x.index, whole("axis", np.array(1))], choice, (1, 1), output_type=kind)
        self._op(Op.MUL, [choice.index, whole("factor", np.full(rows, factor))], scaled, (1, 1), activation=NONE)
        self._op(Op.ADD, [scaled.index, whole("offset", offset)], row, (1, 1), activation=NONE)
        on, off = (self.real_constant(f"{name}/{k}", np.array(v)).index for k, v in (("on", 1.0), ("off", 0.0)))
        self._op(Op.ONE_HOT, [row.index, whole("depth", np.array(depth)), on, off], y, (1, 1), axis=0)
        return y

    def _real(self, name: str, shape: Sequence[int]) -> Value:
        return Value(self._writer.tensor(name, shape, "float32"), tuple(shape), 1.0, real=True)

    def _like(self, x: Value, name: str, shape: Sequence[int]) -> Value:
        return self._real(name, shape) if x.real else self._value(name, shape, x.scale)

    def _value(self, name: str, shape: Sequence[int], scale: float) -> Value:
        return Value(self._writer.tensor(name, shape, self._dtype, scale if self.integer else ()), tuple(shape), scale)

    def _wide(self, name: str, shape: Sequence[int], scale: float, saturate: bool) -> Value:
        """A value that `_clamped` will saturate, if it must, into the one called `name`."""
        return self._value(name + "/wide" if saturate and not self.integer else name, shape, scale)

    def _clamped(self, name: str, x: Value, positive: bool = False) -> Value:
        """Clamp a float32 value to what int16 counts of its scale can hold; `positive` values have only an upper limit to pass."""
        if self.integer:
            return x
        limits = [(Op.MINIMUM, I16_MAX)] + ([] if positive else [(Op.MAXIMUM, -I16_MAX - 1)])
        for i, (code, count) in enumerate(limits):
            limit = self._writer.constant(f"{name}/limit{i}", np.array([count * x.scale], np.float32))
            y = self._value(name if i == len(limits) - 1 else name + "/upper", x.shape, x.scale)
            self._op(code, [x.index, limit], y, (1, 1))
            x = y
        return x

    def _weights(self, name: str, x: Value, w: Weights, wide: bool = False) -> tuple[list[int], int]:
        """Add weights and bias; return the operator's inputs and the bias type.

        A 32-bit bias selects the runtimes' fast kernels (some twenty times faster), which also accumulate in 32 bits: it is used only where
        no input can overflow them.
        """
        bias_scale = w.scale.astype(np.float64) * x.scale
        if not self.integer:
            bias = self._writer.constant(name + "/bias", (w.bias.astype(np.float64) * bias_scale).astype(np.float32))
            return [x.index, self._writer.constant(name + "/weights", w.real()), bias], tflite.TensorType.FLOAT32
        narrow = not wide and int(w.largest().max()) < 1 << 31
        bias = self._writer.constant(name + "/bias", w.bias.astype(np.int32 if narrow else np.int64), bias_scale)
        weights = self._writer.constant(name + "/weights", w.values, w.scale, w.axis)
        return [x.index, weights, bias], tflite.TensorType.INT32 if narrow else tflite.TensorType.INT64

    def _op(self, code: int, inputs: Sequence[int], y: Value, versions: tuple[int, int], **options: int | float | bool) -> None:
        self._writer.operator(code, inputs, [y.index], versions[self.integer], **options)
