"""The model's runtimes behind one interface: numpy (the law itself), TFLite, and C through ctypes."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.ports import Backend, Pcm
from pdmu.bundle import Bundle, int_model
from pdmu.errors import UserError
from pdmu.frontend import frontend_init, frontend_step
from pdmu.int_model import model_init, model_step

Kind = Literal["auto", "numpy", "tflite", "c"]
Precision = Literal["int16x8", "float32"]
C_ABI = 1
MARKER = re.compile(rb"pdmu-bundle-sha256:([0-9a-f]{64})")
SELF_TEST_TOLERANCE_Q15 = {"numpy": 0, "c": 0, "tflite": 655}  # TFLite is no law: its kernels round otherwise; 0.02 of a score is allowed


class NumpyBackend:
    """Front end and model by the integer law in numpy: slow, everywhere, exact."""

    runtime, quant = "numpy", "int16x8"

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.model = bundle, int_model(bundle)

    def stream(self) -> NumpyStream:
        """Begin a stream."""
        return NumpyStream(self)


class NumpyStream:
    """State of one stream on `NumpyBackend`."""

    def __init__(self, backend: NumpyBackend) -> None:
        self._cfg, self._model = backend.bundle.frontend, backend.model
        self._front, self._state = frontend_init(self._cfg), model_init(self._model)

    def process(self, pcm: Pcm) -> NDArray[np.int16]:
        """See `ports.ScoreStream`."""
        self._front, features = frontend_step(self._cfg, self._front, pcm)
        self._state, scores = model_step(self._model, self._state, features)
        return scores


class TFLiteBackend:
    """Front end by the law, network by a TFLite interpreter with explicit state tensors.

    ``<stem>.<precision>.tflite`` runs one model step an invoke (live audio), ``<stem>.<precision>.block.tflite`` several (files). Both
    have the same state tensors, so a stream changes between them freely.

    Raises
    ------
    UserError
        No runtime is installed, a graph is missing, or it was made from another bundle.
    """

    runtime = "tflite"
    quant: str

    def __init__(self, bundle: Bundle, bundle_path: Path, precision: Precision = "int16x8") -> None:
        self.bundle, self.quant = bundle, precision
        interpreter = find_interpreter()
        if interpreter is None:
            raise UserError("no TFLite runtime is installed; pip install 'pdmu[agent]' (ai-edge-litert), or choose --backend numpy")
        stem = tflite_stem(bundle_path, precision)
        paths = [p for p in (Path(f"{stem}.block.tflite"), Path(f"{stem}.tflite")) if p.is_file()]
        if not paths:
            raise UserError(f"{stem}.tflite: no such file; make it with: pdmu-export --target tflite {bundle_path}")
        for path in paths:
            _check_origin(path, bundle)
        options: dict[str, Any] = {}
        if precision == "int16x8":  # XNNPACK has no kernels for it; without it there is less memory and no line on stderr about it
            resolvers = sys.modules[interpreter.__module__].OpResolverType
            options["experimental_op_resolver_type"] = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self.graphs = sorted((Graph(partial(interpreter, **options), path, bundle) for path in paths), key=lambda g: -g.steps)
        if self.graphs[-1].steps != 1:
            raise UserError(f"{stem}.tflite: the graph of single steps is missing; make it with: pdmu-export --target tflite {bundle_path}")

    def stream(self) -> TFLiteStream:
        """Begin a stream."""
        return TFLiteStream(self)


class Graph:
    """One .tflite file: `steps` model steps an invoke."""

    def __init__(self, interpreter: Any, path: Path, bundle: Bundle) -> None:
        try:
            self._run = interpreter(model_path=str(path), num_threads=1)
            self._run.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: the TFLite runtime refuses this graph ({error}); export it again") from None
        inputs = {d["name"]: d for d in self._run.get_input_details()}
        outputs = {d["name"]: d for d in self._run.get_output_details()}
        try:
            features, scores = inputs.pop("features"), outputs.pop("scores")
            pairs = [(inputs[name], outputs["next/" + name.removeprefix("state/")]) for name in sorted(inputs)]
        except KeyError as error:
            raise UserError(f"{path}: the graph has no tensor {error}; export it again with this version") from None
        self._in, self._out, self.integer = features["index"], scores["index"], features["dtype"] == np.int16
        self._pairs = [(i["index"], o["index"]) for i, o in pairs]
        self.zero = [np.zeros(i["shape"], i["dtype"]) for i, _ in pairs]
        self.frames = int(features["shape"][0])
        self.steps = self.frames // bundle.model.frames_per_step
        self._shape = tuple(features["shape"])
        if tuple(scores["shape"]) != (self.steps, len(bundle.labels)) or self._shape[-1] != bundle.frontend.n_mels:
            raise UserError(f"{path}: features {self._shape} and scores {tuple(scores['shape'])} do not fit the bundle; export it again")

    def invoke(self, features: NDArray[np.int16], state: Sequence[NDArray[Any]]) -> tuple[NDArray[np.int16], list[NDArray[Any]]]:
        """Run `frames` frames from `state`; return the scores int16 [steps, n_labels] and the state after."""
        run = self._run
        run.set_tensor(self._in, features if self.integer else features.astype(np.float32) / np.float32(512))
        for (index, _), value in zip(self._pairs, state, strict=True):
            run.set_tensor(index, value)
        run.invoke()
        scores = run.get_tensor(self._out)
        if not self.integer:
            scores = np.clip(np.rint(scores * np.float32(32768)), 0, 32767).astype(np.int16)
        return np.maximum(scores, 0), [run.get_tensor(index) for _, index in self._pairs]


class TFLiteStream:
    """State of one stream on `TFLiteBackend`."""

    def __init__(self, backend: TFLiteBackend) -> None:
        self._cfg, self._graphs = backend.bundle.frontend, backend.graphs
        self._front, self._state = frontend_init(self._cfg), self._graphs[-1].zero
        self._pending = np.zeros((0, self._cfg.n_mels), np.int16)
        self._n_labels = len(backend.bundle.labels)

    def process(self, pcm: Pcm) -> NDArray[np.int16]:
        """See `ports.ScoreStream`."""
        self._front, features = frontend_step(self._cfg, self._front, pcm)
        frames = np.concatenate([self._pending, features])
        out, at = [np.zeros((0, self._n_labels), np.int16)], 0
        for graph in self._graphs:
            while len(frames) - at >= graph.frames:
                scores, self._state = graph.invoke(frames[at : at + graph.frames], self._state)
                out.append(scores)
                at += graph.frames
        self._pending = frames[at:].copy()
        return np.concatenate(out)


def find_interpreter() -> Any:
    """Return the `Interpreter` class of whichever TFLite runtime is installed, or None."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            return None
    return Interpreter


def tflite_stem(bundle_path: Path, precision: Precision) -> Path:
    """Path of the graphs beside a bundle, without ``.tflite``."""
    return bundle_path.with_name(f"{bundle_path.stem}.{precision}")


def _check_origin(path: Path, bundle: Bundle) -> None:
    found = MARKER.search(path.read_bytes())
    if found is None:
        raise UserError(f"{path}: is not a PDMU graph, or a truncated one; make it again with pdmu-export --target tflite")
    if found[1].decode() != bundle.sha256:
        raise UserError(
            f"{path}: was made from another bundle ({found[1][:12].decode()}, this one is {bundle.sha256[:12]}); export it again"
        )


class CBackend:
    """The C runtime as a shared library: the same integers as the law, fastest.

    Raises
    ------
    UserError
        The library is missing, does not load, has another interface, or was made from another bundle.
    """

    runtime, quant = "c", "int16x8"

    def __init__(self, bundle: Bundle, bundle_path: Path, library: Path | None = None) -> None:
        path = library or find_library(bundle, bundle_path)
        if path is None:
            raise UserError(
                f"{bundle_path.with_suffix('.so')}: no such C library; make it with: pdmu-export --target c --build {bundle_path}"
            )
        try:
            lib = ctypes.CDLL(str(path.resolve()))
            lib.pdmu_abi_version.restype = ctypes.c_uint32
            lib.pdmu_bundle_sha256.restype = ctypes.c_char_p
            lib.pdmu_stream_size.restype = ctypes.c_size_t
            lib.pdmu_stream_init.argtypes = [ctypes.c_void_p]
            lib.pdmu_stream_init.restype = None
            lib.pdmu_stream_process.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32]
            lib.pdmu_stream_process.restype = ctypes.c_int32
        except (OSError, AttributeError) as error:
            raise UserError(f"{path}: cannot be used as a PDMU library ({error}); build it again on this machine") from None
        if lib.pdmu_abi_version() != C_ABI:
            raise UserError(f"{path}: has interface version {lib.pdmu_abi_version()}, this program needs {C_ABI}; build it again")
        sha256 = lib.pdmu_bundle_sha256().decode(errors="replace")
        if sha256 != bundle.sha256:
            raise UserError(f"{path}: was made from another bundle ({sha256[:12]}, this one is {bundle.sha256[:12]}); build it again")
        self.lib, self.bundle = lib, bundle

    def stream(self) -> CStream:
        """Begin a stream."""
        return CStream(self)


class CStream:
    """State of one stream on `CBackend`."""

    def __init__(self, backend: CBackend) -> None:
        self._process = backend.lib.pdmu_stream_process
        size = backend.lib.pdmu_stream_size()
        self._memory = np.zeros(-(-size // 8), np.int64)  # 8-byte aligned
        self._stream = ctypes.c_void_p(self._memory.ctypes.data)
        backend.lib.pdmu_stream_init(self._stream)
        self._step_samples, self._n_labels = backend.bundle.samples_per_step, len(backend.bundle.labels)

    def process(self, pcm: Pcm) -> NDArray[np.int16]:
        """See `ports.ScoreStream`."""
        pcm = np.ascontiguousarray(pcm, np.int16)
        scores = np.empty((len(pcm) // self._step_samples + 1, self._n_labels), np.int16)
        steps = self._process(self._stream, pcm.ctypes.data, len(pcm), scores.ctypes.data, len(scores))
        if steps < 0:
            raise RuntimeError(f"the C runtime refused {len(pcm)} samples (status {steps})")
        return scores[:steps]


def cache_dir() -> Path:
    """Where built libraries are kept by their bundle's SHA-256."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pdmu"


def find_library(bundle: Bundle, bundle_path: Path) -> Path | None:
    """Return the bundle's shared library: beside it, or in the cache."""
    for path in (bundle_path.with_suffix(".so"), cache_dir() / f"{bundle.sha256}.so"):
        if path.is_file():
            return path
    return None


def make_backend(
    bundle: Bundle, bundle_path: Path, kind: Kind = "auto", precision: Precision = "int16x8", library: Path | None = None
) -> Backend:
    """Return the backend asked for; `auto` is TFLite where a runtime and the graphs are there, numpy otherwise.

    Raises
    ------
    UserError
        The backend cannot be had; `auto` falls back only on what is absent, never on what is broken.
    """
    if kind == "auto":
        graphs = Path(f"{tflite_stem(bundle_path, precision)}.tflite").is_file()
        kind = "tflite" if graphs and find_interpreter() is not None else "numpy"
    if kind == "tflite":
        return TFLiteBackend(bundle, bundle_path, precision)
    if kind == "c":
        return CBackend(bundle, bundle_path, library)
    return NumpyBackend(bundle)
