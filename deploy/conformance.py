"""Every runtime against the integer law, stage by stage; the exit status is the verdict.

    python -m deploy.conformance BUNDLE [RECORDING…]

Targets: ``law`` (the numpy law against the digests the bundle promises, golden signal only), ``c`` (the shared library, built here; every
stage's integers equal) and the four .tflite graphs. A graph shows no inner stage, but its state after the last block does: the kept frames
of each convolution, the memories, the projected memories and the gates. They and the scores must lie within the bounds below.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.commands import report_errors
from pdmu.bundle import Bundle, int_model, law_stages, read_bundle, stage_digest
from pdmu.errors import UserError
from pdmu.frontend import frontend_init, frontend_step
from pdmu.golden import golden_pcm
from pdmu.int_layer import Stages
from pdmu.int_model import ModelState, model_init, model_trace
from pdmu.state_layout import stage_name

# Largest difference of a score from the law's, counts of 1/32768, over golden and real audio. Where it comes from: the law rounds the
# memory to int16 at each step, a block once and float32 never; the law adds a layer's terms in 64 bits, an int16x8 graph in int16 at the
# coarser scales of its sums (a few counts of p); the runtimes' int16 softmax and sigmoid tables are a few counts off the law's; and a
# count of a Q11 logit is up to four of the score. Each bound is over twice the largest difference seen: on the shipped models over
# development recordings (int16x8 90, float32 114), and on networks whose head and gates were given exaggerated gains, on sounds they
# were not calibrated for (115 and 15).
SCORE_BOUND_Q15: Mapping[str, int] = {"int16x8": 320, "float32": 256}
# Largest difference of a state tensor, counts of its int16 scale: the same causes before the head (seen: 21 and 15).
STATE_BOUND: Mapping[str, int] = {"int16x8": 64, "float32": 64}



@dataclass(frozen=True)
class Finding:
    """One stage of one target on one signal."""

    signal: str
    target: str
    stage: str
    largest: float  # largest difference, counts; infinite where shapes or digests differ
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the bound."""
        return self.largest <= self.bound


def check_law(bundle: Bundle, signal: str, pcm: NDArray[np.int16]) -> list[Finding]:
    """Compare the law's stages on the golden signal with the digests the bundle promises."""
    promised = bundle.golden["stages"]
    return [Finding(signal, "law", k, 0 if stage_digest(v) == promised.get(k) else np.inf, 0) for k, v in law_stages(bundle, pcm).items()]


def check_c(library: Path, law: Stages, signal: str, pcm: NDArray[np.int16]) -> list[Finding]:
    """Compare every stage of the C runtime with the law over whole model steps, to the last bit."""
    found = c_stages(library, pcm)
    values = {name: np.frombuffer(found.get(name, b""), expected.dtype) for name, expected in law.items()}
    return [Finding(signal, "c", name, _largest(values[name], expected), 0) for name, expected in law.items()]


def c_stages(library: Path, pcm: NDArray[np.int16]) -> dict[str, bytes]:
    """Run the shared library over `pcm` from a fresh state and collect every stage it emits."""
    lib = ctypes.CDLL(str(library))
    emit_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
    lib.pdmu_stream_size.restype = ctypes.c_size_t
    lib.pdmu_stream_trace.restype = ctypes.c_int32
    lib.pdmu_stream_trace.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, emit_type, ctypes.c_void_p,
    ]  # fmt: skip
    lib.pdmu_stream_init.argtypes = [ctypes.c_void_p]
    chunks: dict[str, list[bytes]] = {}

    def emit(_context: Any, stage: int, index: int, values: int, size: int) -> None:
        chunks.setdefault(stage_name(stage, index), []).append(ctypes.string_at(values, size))

    steps = len(pcm) // lib.pdmu_samples_per_step() + 1
    scores = np.zeros((steps, lib.pdmu_n_labels()), np.int16)
    stream = np.zeros(-(-lib.pdmu_stream_size() // 8), np.int64)  # aligned as the header asks
    lib.pdmu_stream_init(stream.ctypes.data)
    data = np.ascontiguousarray(pcm)
    done = lib.pdmu_stream_trace(stream.ctypes.data, data.ctypes.data, len(data), scores.ctypes.data, steps, emit_type(emit), None)
    if done < 0:
        raise UserError(f"{library}: pdmu_stream_trace gave error {done}")
    return {name: b"".join(parts) for name, parts in chunks.items()}


def check_graph(bundle: Bundle, target: str, image: bytes, signal: str, features: NDArray[np.int16]) -> list[Finding]:
    """Compare a graph's scores, and its state at the end, with the law over the whole blocks of `features`."""
    from deploy.tflite_run import GraphRunner

    runner = GraphRunner(image)
    features = features[: len(features) // runner.frames * runner.frames]
    network = int_model(bundle)
    state, expected, _ = model_trace(network, model_init(network), features)
    precision = target.partition(".")[0]
    scores = Finding(signal, target, "scores", _largest(runner.run(features), expected), SCORE_BOUND_Q15[precision])
    law, scales = law_state(bundle, state)
    found = runner.state()
    inner = [
        Finding(signal, target, name, _largest(values if runner.integer else values / scales[name], law[name]), STATE_BOUND[precision])
        for name, values in found.items()
    ]
    return [*inner, scores]


def law_state(bundle: Bundle, state: ModelState) -> tuple[dict[str, NDArray[np.int16]], dict[str, float]]:
    """Return the law's state under the graphs' names, and the real value of one count of each."""
    t = bundle.tensors
    values = {name: v.T if name.endswith(".memory") else v for name, v in state.arrays().items()}
    units = {name: 2.0**-15 if name.endswith(".gates") else float(t[_scale_name(name)][0]) for name in values}
    return values, units


def _scale_name(state: str) -> str:
    """Return the tensor that holds the real value of one count of a state."""
    if state.startswith("conv"):  # the frames kept are those that the convolution reads
        index = int(state.removeprefix("conv"))
        return f"conv{index - 1}.scale" if index else "in.scale"
    layer, _, part = state.partition(".")
    return f"{layer}.{'m' if part == 'memory' else 'p'}_scale"


def _largest(found: NDArray[Any], expected: NDArray[np.signedinteger]) -> float:
    if found.size != expected.size:
        return float("inf")
    return float(np.abs(found.reshape(-1).astype(np.float64) - expected.reshape(-1)).max(initial=0))


def check_bundle(
    bundle: Bundle, signals: Mapping[str, NDArray[np.int16]], targets: Sequence[str], library: Path | None = None
) -> list[Finding]:
    """Check the targets on every signal.

    Parameters
    ----------
    bundle : Bundle
        As read from or written to a file.
    signals : mapping
        Name → int16 PCM; the one named ``golden`` is also checked against the bundle's digests.
    targets : sequence of str
        Among ``law``, ``c``, ``tflite``.
    library : Path, optional
        Shared library for ``c``; built in a temporary folder when absent.

    Raises
    ------
    UserError
        If a target cannot be built or run here.
    """
    findings: list[Finding] = []
    graphs: dict[str, bytes] = {}
    if "tflite" in targets:
        from deploy.tflite_export import GRAPHS, build_graph

        graphs = {g.name("").strip(".").removesuffix(".tflite"): build_graph(bundle, g.precision, g.steps) for g in GRAPHS}
    with tempfile.TemporaryDirectory(prefix="pdmu-conformance-") as folder:
        if "c" in targets and library is None:
            from deploy.c_export import build_shared

            library = build_shared(bundle, Path(folder) / "model.so")
        for signal, pcm in signals.items():
            if "law" in targets and signal == "golden":
                findings += check_law(bundle, signal, pcm)
            if "c" in targets and library is not None:
                # whole model steps: of an unfinished one, C has convolved the frames that the law still keeps
                whole = pcm[: len(pcm) // bundle.samples_per_step * bundle.samples_per_step]
                findings += check_c(library, law_stages(bundle, whole), signal, whole)
            if graphs:
                _, features = frontend_step(bundle.frontend, frontend_init(bundle.frontend), pcm)
                for target, image in graphs.items():
                    findings += check_graph(bundle, target, image, signal, features)
    return findings


def table(findings: Iterable[Finding]) -> str:
    """Stages × targets: the largest difference over the signals, with its bound where that is not equality."""
    cells: dict[tuple[str, str], Finding] = {}
    for f in findings:
        key = (f.stage, f.target)
        if key not in cells or f.largest > cells[key].largest:
            cells[key] = f
    stages, targets = ([*dict.fromkeys(k[i] for k in cells)] for i in (0, 1))
    rows = [["stage", *targets]]
    for stage in stages:
        rows.append([stage, *(_cell(cells.get((stage, target))) for target in targets)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(targets) + 1)]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return "-"
    if finding.bound == 0:
        return "equal" if finding.holds else f"DIFFERS by {finding.largest:g}"
    return f"{finding.largest:.3g} of {finding.bound:g}" if finding.holds else f"EXCEEDS: {finding.largest:.3g} of {finding.bound:g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the conformance table; 0 when everything holds, 1 when not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.conformance",
        description="Compare every runtime with the integer law on the golden signal and on recordings.",
        epilog="example: python -m deploy.conformance models/cough.pdmu recording.wav",
    )
    parser.add_argument("bundle", type=Path, help="model bundle (.pdmu)")
    parser.add_argument("recordings", nargs="*", type=Path, help="WAV or FLAC files, any rate")
    parser.add_argument("--target", action="append", choices=["law", "c", "tflite"], help="what to check, may be repeated (default: all)")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    args = parser.parse_args(arguments)
    return report_errors(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.bundle)
    signals = {"golden": golden_pcm()}
    if args.recordings:
        from pdmu.data.audio import BadRecording, read_pcm

        for path in args.recordings:
            try:
                signals[str(path)] = read_pcm(path, bundle.frontend.sample_rate_hz)
            except BadRecording as error:
                raise UserError(f"{path}: {error}; leave it out or repair it") from None
    findings = check_bundle(bundle, signals, args.target or ["law", "c", "tflite"])
    good = all(f.holds for f in findings)
    if args.json:
        entries = [asdict(f) | {"largest": f.largest if np.isfinite(f.largest) else None, "holds": f.holds} for f in findings]
        print(json.dumps({"bundle": str(args.bundle), "holds": good, "findings": entries}))
    else:
        print(table(findings))
        broken = sorted({f"{f.target} {f.stage}" for f in findings if not f.holds})
        print("every stage holds" if good else "NOT CONFORMANT: " + ", ".join(broken))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
