"""A small writer of .tflite files: tensors, operators, buffers and metadata through the schema package, without TensorFlow.

One subgraph, no variables, no signatures: tensor names are the interface. Every scale, operator version and buffer is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import flatbuffers
import numpy as np
import tflite
from numpy.typing import ArrayLike, NDArray

Op = tflite.BuiltinOperator
Opt = tflite.BuiltinOptions
ALIGNMENT = 16  # the schema's force_align of Buffer.data; runtimes map weights in place
TENSOR_TYPES = {
    "float32": tflite.TensorType.FLOAT32, "int8": tflite.TensorType.INT8, "int16": tflite.TensorType.INT16,
    "int32": tflite.TensorType.INT32, "int64": tflite.TensorType.INT64, "bool": tflite.TensorType.BOOL,
}  # fmt: skip

# How an operator's options table is written: setter by option name. An operator without an entry has an empty options table or none.
Options = Mapping[str, int | float | bool]
_CONV = {
    "padding": "Padding", "stride_w": "StrideW", "stride_h": "StrideH", "dilation_w": "DilationWFactor", "dilation_h": "DilationHFactor",
    "activation": "FusedActivationFunction", "quantized_bias_type": "QuantizedBiasType",
}  # fmt: skip
_OPTIONS: dict[int, tuple[str, dict[str, str]]] = {
    Op.ADD: ("AddOptions", {"activation": "FusedActivationFunction", "pot_scale_int16": "PotScaleInt16"}),
    Op.ARG_MAX: ("ArgMaxOptions", {"output_type": "OutputType"}),
    Op.BATCH_MATMUL: ("BatchMatMulOptions", {}),
    Op.CAST: ("CastOptions", {}),
    Op.CONCATENATION: ("ConcatenationOptions", {"axis": "Axis"}),
    Op.CONV_2D: ("Conv2DOptions", _CONV),
    Op.DEPTHWISE_CONV_2D: ("DepthwiseConv2DOptions", _CONV | {"depth_multiplier": "DepthMultiplier"}),
    Op.DEQUANTIZE: ("DequantizeOptions", {}),
    Op.FULLY_CONNECTED: ("FullyConnectedOptions", {"activation": "FusedActivationFunction", "quantized_bias_type": "QuantizedBiasType"}),
    Op.GATHER: ("GatherOptions", {"axis": "Axis"}),
    Op.GREATER: ("GreaterOptions", {}),
    Op.MAXIMUM: ("MaximumMinimumOptions", {}),
    Op.MINIMUM: ("MaximumMinimumOptions", {}),
    Op.MUL: ("MulOptions", {"activation": "FusedActivationFunction"}),
    Op.ONE_HOT: ("OneHotOptions", {"axis": "Axis"}),
    Op.PAD: ("PadOptions", {}),
    Op.QUANTIZE: ("QuantizeOptions", {}),
    Op.REDUCE_MAX: ("ReducerOptions", {"keep_dims": "KeepDims"}),
    Op.RESHAPE: ("ReshapeOptions", {}),
    Op.SELECT: ("SelectOptions", {}),
    Op.SLICE: ("SliceOptions", {}),
    Op.SOFTMAX: ("SoftmaxOptions", {"beta": "Beta"}),
    Op.SUB: ("SubOptions", {"activation": "FusedActivationFunction"}),
}


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...]  # empty: not quantised; several: one per index of `axis`
    axis: int
    data: bytes | None


@dataclass(frozen=True)
class _Operator:
    code: int
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options


@dataclass
class TFLiteWriter:
    """Collects tensors and operators in execution order and serialises them.

    Examples
    --------
    >>> w = TFLiteWriter()
    >>> x, y = w.tensor("x", (1, 4), "float32"), w.tensor("y", (1, 4), "float32")
    >>> w.operator(Op.SOFTMAX, [x], [y], version=1, beta=1.0)
    >>> w.to_bytes([x], [y])[4:8]
    b'TFL3'
    """

    _tensors: list[_Tensor] = field(default_factory=list)
    _operators: list[_Operator] = field(default_factory=list)

    def tensor(self, name: str, shape: Sequence[int], dtype: str, scale: ArrayLike = (), axis: int = 0) -> int:
        """Add an activation tensor and return its index.

        Parameters
        ----------
        name : str
        shape : sequence of int
        dtype : str
            ``float32``, ``int8``, ``int16``, ``int32``, ``int64`` or ``bool``.
        scale : array_like of float
            Real value of one count, zero point 0: nothing (float), one value, or one for each index of `axis`.
        axis : int
            The dimension that several scales run along.
        """
        return self._add(name, shape, dtype, scale, axis, None)

    def constant(self, name: str, values: NDArray[np.generic], scale: ArrayLike = (), axis: int = 0) -> int:
        """Add a constant tensor with its data, little-endian, and return its index."""
        data = np.ascontiguousarray(values)
        return self._add(name, data.shape, str(data.dtype), scale, axis, data.astype(data.dtype.newbyteorder("<")).tobytes())

    def _add(self, name: str, shape: Sequence[int], dtype: str, scale: ArrayLike, axis: int, data: bytes | None) -> int:
        scales = tuple(float(s) for s in np.atleast_1d(np.asarray(scale, np.float64)))
        self._tensors.append(_Tensor(name, tuple(int(n) for n in shape), dtype, scales, axis, data))
        return len(self._tensors) - 1

    def operator(self, code: int, inputs: Sequence[int], outputs: Sequence[int], version: int, **options: int | float | bool) -> None:
        """Append an operator; options are those named in ``_OPTIONS``."""
        self._operators.append(_Operator(code, version, tuple(inputs), tuple(outputs), options))

    def to_bytes(
        self, inputs: Sequence[int], outputs: Sequence[int], metadata: Mapping[str, bytes] | None = None, description: str = ""
    ) -> bytes:
        """Serialise to a .tflite file image.

        Parameters
        ----------
        inputs, outputs : sequence of int
            Tensor indices in the interpreter's order.
        metadata : mapping
            Name → bytes, each in a buffer of its own.
        description : str
        """
        b = flatbuffers.Builder(1 << 16)
        blobs: list[bytes] = [b""]  # buffer 0 is the empty one by definition
        tensor_offsets = [self._write_tensor(b, t, blobs) for t in self._tensors]
        codes = sorted({(op.code, op.version) for op in self._operators})
        operator_offsets = [_write_operator(b, op, codes.index((op.code, op.version))) for op in self._operators]
        subgraph = self._write_subgraph(b, tensor_offsets, operator_offsets, inputs, outputs)
        metadata_offsets = [_write_metadata(b, name, content, blobs) for name, content in (metadata or {}).items()]
        code_offsets = [_write_code(b, code, version) for code, version in codes]
        text = b.CreateString(description)
        buffers = _offsets(b, [_write_buffer(b, blob) for blob in blobs], tflite.ModelStartBuffersVector)
        subgraphs = _offsets(b, [subgraph], tflite.ModelStartSubgraphsVector)
        opcodes = _offsets(b, code_offsets, tflite.ModelStartOperatorCodesVector)
        entries = _offsets(b, metadata_offsets, tflite.ModelStartMetadataVector)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, opcodes)
        tflite.ModelAddSubgraphs(b, subgraphs)
        tflite.ModelAddDescription(b, text)
        tflite.ModelAddBuffers(b, buffers)
        tflite.ModelAddMetadata(b, entries)
        b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())

    def _write_tensor(self, b: flatbuffers.Builder, t: _Tensor, blobs: list[bytes]) -> int:
        name, shape = b.CreateString(t.name), b.CreateNumpyVector(np.array(t.shape, np.int32))
        quantization = 0
        if t.scale:
            scale = b.CreateNumpyVector(np.array(t.scale, np.float32))
            zero_point = b.CreateNumpyVector(np.zeros(len(t.scale), np.int64))
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scale)
            tflite.QuantizationParametersAddZeroPoint(b, zero_point)
            tflite.QuantizationParametersAddQuantizedDimension(b, t.axis)
            quantization = tflite.QuantizationParametersEnd(b)
        buffer = 0
        if t.data is not None:
            blobs.append(t.data)
            buffer = len(blobs) - 1
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, TENSOR_TYPES[t.dtype])
        tflite.TensorAddBuffer(b, buffer)
        tflite.TensorAddName(b, name)
        if quantization:
            tflite.TensorAddQuantization(b, quantization)
        return int(tflite.TensorEnd(b))

    def _write_subgraph(
        self, b: flatbuffers.Builder, tensors: Sequence[int], operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        name = b.CreateString("main")
        tensor_vector = _offsets(b, tensors, tflite.SubGraphStartTensorsVector)
        operator_vector = _offsets(b, operators, tflite.SubGraphStartOperatorsVector)
        input_vector, output_vector = b.CreateNumpyVector(np.array(inputs, np.int32)), b.CreateNumpyVector(np.array(outputs, np.int32))
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensor_vector)
        tflite.SubGraphAddInputs(b, input_vector)
        tflite.SubGraphAddOutputs(b, output_vector)
        tflite.SubGraphAddOperators(b, operator_vector)
        tflite.SubGraphAddName(b, name)
        return int(tflite.SubGraphEnd(b))


def _write_operator(b: flatbuffers.Builder, op: _Operator, code_index: int) -> int:
    inputs, outputs = b.CreateNumpyVector(np.array(op.inputs, np.int32)), b.CreateNumpyVector(np.array(op.outputs, np.int32))
    options = 0
    if op.code in _OPTIONS:
        table, setters = _OPTIONS[op.code]
        getattr(tflite, f"{table}Start")(b)
        for key, value in op.options.items():
            getattr(tflite, f"{table}Add{setters[key]}")(b, value)
        options = getattr(tflite, f"{table}End")(b)
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code_index)
    tflite.OperatorAddInputs(b, inputs)
    tflite.OperatorAddOutputs(b, outputs)
    if op.code in _OPTIONS:
        tflite.OperatorAddBuiltinOptionsType(b, getattr(Opt, _OPTIONS[op.code][0]))
        tflite.OperatorAddBuiltinOptions(b, options)
    return int(tflite.OperatorEnd(b))


def _write_code(b: flatbuffers.Builder, code: int, version: int) -> int:
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))  # older runtimes read this byte, newer ones the larger of the two
    tflite.OperatorCodeAddVersion(b, version)
    tflite.OperatorCodeAddBuiltinCode(b, code)
    return int(tflite.OperatorCodeEnd(b))


def _write_metadata(b: flatbuffers.Builder, name: str, content: bytes, blobs: list[bytes]) -> int:
    blobs.append(content)
    text = b.CreateString(name)
    tflite.MetadataStart(b)
    tflite.MetadataAddName(b, text)
    tflite.MetadataAddBuffer(b, len(blobs) - 1)
    return int(tflite.MetadataEnd(b))


def _write_buffer(b: flatbuffers.Builder, blob: bytes) -> int:
    data = 0
    if blob:
        b.StartVector(1, len(blob), ALIGNMENT)
        b.head -= len(blob)
        b.Bytes[b.head : b.head + len(blob)] = blob
        data = b.EndVector()
    tflite.BufferStart(b)
    if blob:
        tflite.BufferAddData(b, data)
    return int(tflite.BufferEnd(b))


def _offsets(b: flatbuffers.Builder, offsets: Sequence[int], start: Callable[[flatbuffers.Builder, int], int]) -> int:
    start(b, len(offsets))
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())
