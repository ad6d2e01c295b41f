"""Model bundles: one safetensors file with weights, integer tables' contract, labels, thresholds, provenance and golden answers.

Read and written with numpy alone. The file is refused whole when a byte of it changed, when its format or contract is another, or when its
tensors are not exactly those its configuration asks for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdmu.config import DetectorConfig, FrontendConfig, ModelConfig, from_dict, to_dict
from pdmu.errors import UserError
from pdmu.frontend import frontend_init, frontend_step
from pdmu.golden import GOLDEN, golden_pcm
from pdmu.int_layer import Stages
from pdmu.int_model import IntModel, model_init, model_trace
from pdmu.tables import contract_hash
from pdmu.tensors import Tensors, check_tensors

FORMAT = "pdmu.bundle/1"
MAX_BYTES = 16 << 20  # no microcontroller bundle comes near; a larger header length is damage
DTYPES = {"I8": "int8", "I16": "int16", "I32": "int32", "F32": "float32"}
NAMES = {v: k for k, v in DTYPES.items()}


@dataclass(frozen=True)
class Bundle:
    """A model and everything needed to run, check and attribute it.

    Attributes
    ----------
    info : dict
        ``name``, ``version``, ``task``, ``licence``, ``provenance``, ``metrics`` …, plain JSON.
    golden : dict
        ``signal`` (its generator's name), ``scores`` ``[steps][labels]`` Q15, and ``stages``: stage → SHA-256 of its
        little-endian bytes.
    sha256 : str
        Of the file's whole content; empty until written or read.
    """

    frontend: FrontendConfig
    model: ModelConfig
    detector: DetectorConfig
    info: dict[str, Any]
    tensors: Tensors
    golden: dict[str, Any]
    sha256: str = ""

    @property
    def contract(self) -> str:
        """Hash of the law, its tables and the configuration."""
        return contract_hash(self.frontend, self.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.model.labels

    @property
    def samples_per_step(self) -> int:
        """Samples one model step (one score vector) covers."""
        return self.model.frames_per_step * self.frontend.hop_samples


def int_model(bundle: Bundle) -> IntModel:
    """Return the bundle's network for `pdmu.int_model`."""
    return IntModel(bundle.model, bundle.frontend.n_mels, bundle.tensors)


def law_stages(bundle: Bundle, pcm: NDArray[np.int16]) -> Stages:
    """Run the law from a fresh state over `pcm` and return every stage's integers, ``features`` first, ``scores`` last."""
    _, features = frontend_step(bundle.frontend, frontend_init(bundle.frontend), pcm)
    network = int_model(bundle)
    _, _, trace = model_trace(network, model_init(network), features)
    return Stages(features=features) | trace


def with_golden(bundle: Bundle) -> Bundle:
    """Return the bundle with its answers to the golden signal, as the law gives them."""
    stages = law_stages(bundle, golden_pcm())
    return replace(bundle, golden={
        "signal": GOLDEN, "stages": {name: stage_digest(v) for name, v in stages.items()}, "scores": stages["scores"].tolist(),
    })  # fmt: skip


def stage_digest(values: NDArray[np.signedinteger]) -> str:
    """SHA-256 of a stage's integers as little-endian bytes of their own type: int16, and int32 for potentials."""
    return hashlib.sha256(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes()).hexdigest()


def self_test(bundle: Bundle, run: Callable[[NDArray[np.int16]], NDArray[np.int16]] | None = None, tolerance_q15: int = 0) -> None:
    """Replay the golden signal and compare.

    Parameters
    ----------
    bundle : Bundle
    run : callable, optional
        Takes int16 PCM, returns Q15 scores ``[steps, labels]`` from a fresh state; the numpy law when absent, whose every stage is
        then checked.
    tolerance_q15 : int
        Largest difference allowed; 0 for integer runtimes. In networks that decide (`ModelConfig.decides`) a runtime with a tolerance owes
        it at half of the steps: a decision within a rounding of its threshold may fall otherwise, and changes what follows.

    Raises
    ------
    UserError
        Naming the first stage or step that differs.
    """
    if bundle.golden.get("signal") != GOLDEN:
        raise UserError(f"golden self-test: the bundle has {bundle.golden.get('signal')!r}, this program {GOLDEN!r}; update one of them")
    if run is None:
        for name, values in law_stages(bundle, golden_pcm()).items():
            if stage_digest(values) != bundle.golden["stages"].get(name):
                raise UserError(f"golden self-test: stage '{name}' differs from what the bundle promises; reinstall pdmu or the bundle")
        return
    expected = np.array(bundle.golden["scores"], np.int64)
    got = np.asarray(run(golden_pcm()), np.int64)
    if got.shape != expected.shape:
        raise UserError(f"golden self-test: {got.shape[0]} score vectors came, {expected.shape[0]} were expected")
    off = np.abs(got - expected).max(axis=1)
    some_may_differ = tolerance_q15 > 0 and bundle.model.decides
    if (np.median(off) if some_may_differ else off.max(initial=0)) > tolerance_q15:
        step = int(np.argmax(off > tolerance_q15))
        raise UserError(
            f"golden self-test: step {step} differs by {off[step]} of 32768, {tolerance_q15} allowed; the runtime does not fit this bundle"
        )


def write_bundle(path: str | os.PathLike[str], bundle: Bundle) -> Bundle:
    """Write a bundle atomically and return it with its SHA-256.

    Raises
    ------
    UserError
        If the tensors do not fit the configuration, or the file cannot be written.
    """
    _check(bundle, "bundle")
    data, header, offset = [], {}, 0
    for name in sorted(bundle.tensors):
        t = np.ascontiguousarray(bundle.tensors[name])
        raw = t.astype(t.dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": NAMES[str(t.dtype)], "shape": list(t.shape), "data_offsets": [offset, offset + len(raw)]}
        data.append(raw)
        offset += len(raw)
    meta = {
        "format": FORMAT, "contract": bundle.contract, "frontend": _dumps(to_dict(bundle.frontend)), "model": _dumps(bundle.model.law()),
        "detector": _dumps(to_dict(bundle.detector)), "info": _dumps(bundle.info), "golden": _dumps(bundle.golden),
    }  # fmt: skip
    body = b"".join(data)
    digest = _digest(meta, header, body)
    head = _dumps({"__metadata__": meta | {"sha256": digest}} | header).encode()
    head += b" " * (-len(head) % 8)
    target = Path(path)
    part = target.with_name(target.name + ".part")
    try:
        part.write_bytes(len(head).to_bytes(8, "little") + head + body)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot write the bundle: {error.strerror}") from None
    return replace(bundle, sha256=digest)


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and verify a bundle.

    Raises
    ------
    UserError
        If the file is missing, truncated, altered, of another format or contract, or inconsistent.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the bundle: {error.strerror}") from None
    again = "copy or export it again"
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 10 or len(raw) > MAX_BYTES or length > len(raw) - 8 or raw[8:9] != b"{":
        raise UserError(f"{path}: not a model bundle, or a truncated one ({len(raw)} bytes); {again}")
    try:
        header = json.loads(raw[8 : 8 + length])
        meta = header.pop("__metadata__")
        promised = meta.pop("sha256")
        found_format, contract = str(meta["format"]), str(meta["contract"])
        body = raw[8 + length :]
        canonical = _dumps({"__metadata__": meta | {"sha256": promised}} | header).encode()  # a ValueError where it holds NaN
        digest = _digest(meta, header, body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: the bundle's header is damaged or is not PDMU's; {again}") from None
    if found_format != FORMAT:
        raise UserError(f"{path}: bundle format {found_format!r}, this program reads {FORMAT!r}; install the matching pdmu or export again")
    if digest != promised or raw[8 : 8 + length].rstrip(b" ") != canonical:
        raise UserError(f"{path}: content does not match its SHA-256: the bundle was truncated or altered; {again}")
    try:
        tensors = {name: _tensor(entry, body) for name, entry in header.items()}
        parts = {key: json.loads(meta[key]) for key in ("frontend", "model", "detector", "info", "golden")}
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{path}: the bundle's tensor table is inconsistent ({_one_line(error)}); {again}") from None
    bundle = Bundle(
        from_dict(FrontendConfig, parts["frontend"], f"{path} [frontend]"),
        from_dict(ModelConfig, parts["model"], f"{path} [model]"),
        from_dict(DetectorConfig, parts["detector"], f"{path} [detector]"),
        parts["info"], tensors, parts["golden"], promised,
    )  # fmt: skip
    try:
        ours = bundle.contract
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if contract != ours:
        raise UserError(f"{path}: made under contract {contract[:12]!r}, this program holds {ours[:12]!r}; export it again")
    _check(bundle, str(path))
    _check_info(bundle, str(path))
    _check_golden(bundle, str(path))
    return bundle


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check(bundle: Bundle, where: str) -> None:
    bundle.model.check_contract(where)
    try:
        check_tensors(bundle.model, bundle.frontend.n_mels, bundle.tensors)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if len(bundle.detector.threshold_q15) != len(bundle.labels):
        raise UserError(f"{where}: {len(bundle.detector.threshold_q15)} thresholds for {len(bundle.labels)} labels")
    for label in bundle.detector.reject_labels:
        if label not in bundle.labels:
            raise UserError(f"{where}: reject label {label!r} is not one of the labels {', '.join(bundle.labels)}")


def _check_info(bundle: Bundle, where: str) -> None:
    """Refuse information that is no table of text that can be shown."""
    try:
        json.dumps(bundle.info, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: its information holds half a character; export it again") from None
    if not isinstance(bundle.info, dict):
        raise UserError(f"{where}: its information is no table; export it again")


def _check_golden(bundle: Bundle, where: str) -> None:
    """Refuse golden answers that are no scores for the labels, or of another number of steps than the signal has."""
    golden = bundle.golden
    if not isinstance(golden, dict) or not isinstance(golden.get("stages"), dict) or not isinstance(golden.get("scores"), list):
        raise UserError(f"{where}: its golden answers are damaged; export it again")
    for row in golden["scores"]:
        if not isinstance(row, list) or len(row) != len(bundle.labels) or not all(type(v) is int and 0 <= v <= 32767 for v in row):
            raise UserError(f"{where}: its golden answers are not {len(bundle.labels)} scores a step; export it again")
    steps = len(golden_pcm()) // bundle.samples_per_step
    if golden.get("signal") == GOLDEN and len(golden["scores"]) != steps:
        raise UserError(f"{where}: it has golden answers of {len(golden['scores'])} steps, the signal has {steps}; export it again")


def _tensor(entry: Mapping[str, Any], body: bytes) -> NDArray[np.generic]:
    begin, end = entry["data_offsets"]
    dtype = np.dtype(DTYPES[entry["dtype"]]).newbyteorder("<")
    array = np.frombuffer(body[begin:end], dtype).reshape(entry["shape"])
    return np.asarray(array.astype(dtype.newbyteorder("=")))


def _digest(meta: Mapping[str, str], header: Mapping[str, Any], body: bytes) -> str:
    digest = hashlib.sha256(_dumps([meta, header]).encode())
    digest.update(body)
    return digest.hexdigest()


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
