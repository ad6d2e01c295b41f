"""Every runtime against the integer law, stage by stage; the exit status is the verdict.

    python -m deploy.conformance BUNDLE [RECORDING…]

Targets: ``law`` (the numpy law against the digests the bundle promises, golden signal only), ``c`` (the shared library, built here; every
stage's integers equal), the C runtime on other processors and under sanitizers (`deploy.conformance_c`: the detector's events too) and the
four .tflite graphs (scores and state within the bounds of `deploy.conformance_graphs`).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.commands import recording, report_errors
from deploy.conformance_c import TARGETS as PROGRAMS
from deploy.conformance_c import build_target, check_program, tools_of
from deploy.finding import Finding, largest_difference
from deploy.golden import golden_signals
from deploy.machines import TooLarge
from deploy.toolchain import missing
from pdmu.bundle import Bundle, law_stages, read_bundle, stage_digest
from pdmu.errors import UserError
from pdmu.frontend import frontend_init, frontend_step
from pdmu.golden import golden_pcm
from pdmu.state_layout import law_trace, stage_name, stage_values

TARGETS = ("law", "c", "tflite", *PROGRAMS)


def check_law(bundle: Bundle, signal: str, pcm: NDArray[np.int16]) -> list[Finding]:
    """Compare the law's stages on the golden signal with the digests the bundle promises."""
    promised = bundle.golden["stages"]
    return [Finding(signal, "law", k, 0 if stage_digest(v) == promised.get(k) else np.inf, 0) for k, v in law_stages(bundle, pcm).items()]


def check_c(library: Path, law: Mapping[str, NDArray[np.integer]], signal: str, pcm: NDArray[np.int16]) -> list[Finding]:
    """Compare every stage of the C runtime with the law over whole model steps, to the last bit."""
    found = c_stages(library, pcm)
    none = np.zeros(0, np.int16)
    return [Finding(signal, "c", name, largest_difference(found.get(name, none), expected), 0) for name, expected in law.items()]


def c_stages(library: Path, pcm: NDArray[np.int16]) -> dict[str, NDArray[np.integer]]:
    """Run the shared library over `pcm` from a fresh state and collect every stage it emits, flat."""
    lib = ctypes.CDLL(str(library))
    emit_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
    lib.pdmu_stream_size.restype = ctypes.c_size_t
    lib.pdmu_stream_trace.restype = ctypes.c_int32
    lib.pdmu_stream_trace.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, emit_type, ctypes.c_void_p,
    ]  # fmt: skip
    lib.pdmu_stream_init.argtypes = [ctypes.c_void_p]
    chunks: dict[str, list[NDArray[np.integer]]] = {}

    def emit(_context: Any, stage: int, index: int, values: int, size: int) -> None:
        chunks.setdefault(stage_name(stage, index), []).append(stage_values(stage, ctypes.string_at(values, size)))

    steps = len(pcm) // lib.pdmu_samples_per_step() + 1
    scores = np.zeros((steps, lib.pdmu_n_labels()), np.int16)
    stream = np.zeros(-(-lib.pdmu_stream_size() // 8), np.int64)  # aligned as the header asks
    lib.pdmu_stream_init(stream.ctypes.data)
    data = np.ascontiguousarray(pcm)
    done = lib.pdmu_stream_trace(stream.ctypes.data, data.ctypes.data, len(data), scores.ctypes.data, steps, emit_type(emit), None)
    if done < 0:
        raise UserError(f"{library}: pdmu_stream_trace gave error {done}")
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


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
        Among `TARGETS`.
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
        from deploy.conformance_graphs import check_graph
        from deploy.tflite_export import GRAPHS, build_graph

        graphs = {g.name("").strip(".").removesuffix(".tflite"): build_graph(bundle, g.precision, g.steps) for g in GRAPHS}
    with tempfile.TemporaryDirectory(prefix="pdmu-conformance-") as folder:
        if "c" not in targets:
            library = None
        elif library is None:
            from deploy.c_export import build_shared

            library = build_shared(bundle, Path(folder) / "model.so")
        programs = {t: build_target(bundle, t, Path(folder) / t) for t in PROGRAMS if t in targets}
        for signal, pcm in signals.items():
            if "law" in targets and signal == "golden":
                findings += check_law(bundle, signal, pcm)
            # whole model steps: of an unfinished one, C has convolved the frames that the law still keeps
            whole = pcm[: len(pcm) // bundle.samples_per_step * bundle.samples_per_step]
            if programs or "c" in targets:
                law = law_trace(bundle, whole)
                if library is not None:
                    findings += check_c(library, law.stages, signal, whole)
                for target, program in programs.items():
                    findings += check_program(program, bundle, law, target, signal, whole)
            if graphs:
                _, features = frontend_step(bundle.frontend, frontend_init(bundle.frontend), pcm)
                for target, image in graphs.items():
                    findings += check_graph(bundle, target, image, signal, features)
    return findings


def possible_targets(bundle: Bundle) -> tuple[list[str], list[str]]:
    """Return the targets that can be checked here, and a sentence for each of the others."""
    chosen, left_out = ["law", "c", "tflite"], []
    for target in PROGRAMS:
        absent = missing(*tools_of(target))
        if absent:
            left_out.append(f"{target}: {' and '.join(absent)} not installed")
            continue
        with tempfile.TemporaryDirectory(prefix="pdmu-conformance-") as folder:
            try:
                build_target(bundle, target, Path(folder))
                chosen.append(target)
            except TooLarge as error:
                left_out.append(str(error))
    return chosen, left_out


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
    text = f"{finding.largest:.3g}{finding.unit} of {finding.bound:g}{finding.unit}"
    return text if finding.holds else f"EXCEEDS: {text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the conformance table; 0 when everything holds, 1 when not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.conformance",
        description="Compare every runtime with the integer law on the golden signal and on recordings.",
        epilog="example: python -m deploy.conformance models/cough.pdmu recording.wav",
    )
    parser.add_argument("bundle", type=Path, help="model bundle (.pdmu)")
    parser.add_argument("recordings", nargs="*", type=Path, help="WAV or FLAC files, any rate")
    known = f"what to check, may be repeated: {', '.join(TARGETS)} (default: all that this machine can)"
    parser.add_argument("--target", action="append", choices=TARGETS, metavar="NAME", help=known)
    parser.add_argument("--vectors", action="store_true", help="all golden vectors, not the one second alone")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    args = parser.parse_intermixed_args(arguments)  # recordings may stand after options
    return report_errors(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.bundle)
    signals = golden_signals() if args.vectors else {"golden": golden_pcm()}
    if args.target == ["law"] and len(signals) + len(args.recordings) > 1:
        raise UserError("law: it promises answers to the golden signal alone; leave the recordings out, or name another target to compare")
    signals |= {str(path): recording(path, bundle.frontend.sample_rate_hz) for path in args.recordings}
    targets, left_out = (args.target, []) if args.target else possible_targets(bundle)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    findings = check_bundle(bundle, signals, targets)
    good = all(f.holds for f in findings)
    if args.json:
        entries = [asdict(f) | {"largest": f.largest if np.isfinite(f.largest) else None, "holds": f.holds} for f in findings]
        print(json.dumps({"bundle": str(args.bundle), "holds": good, "findings": entries}))
    else:
        print(table(findings))
        for f in findings:
            if f.where:
                print(f"first difference of {f.target} on {f.signal}: {f.where}")
        broken = sorted({f"{f.target} {f.stage}" for f in findings if not f.holds})
        print("every stage holds" if good else "NOT CONFORMANT: " + ", ".join(broken))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
