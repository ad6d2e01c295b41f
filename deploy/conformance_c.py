"""The C runtime beside the integer law: one program, ``c/conform``, built for a target, run on a signal, and every integer compared.

Targets are this machine's compiler at ``-O0``, ``-O2`` and under sanitizers, QEMU's bare-metal machines, and arm64 Linux under QEMU.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.c_export import SOURCES, export_c
from deploy.finding import Finding, largest_difference
from deploy.machines import MACHINES, build
from deploy.toolchain import STRICT, compile_c, need
from pdmu.bundle import Bundle
from pdmu.detector import Detector, Event
from pdmu.errors import UserError
from pdmu.state_layout import LawTrace, split_state, stage_name, stage_values

EVENT, STATE = 0xF0, 0xF1  # records that are no stages, as c/conform/conform.c has them
OUTCOMES = {"event": 0, "cut": 1, "too_short": 2, "refractory": 3}
PROGRAM = ("model_data.c", *SOURCES, "conform/conform.c")
NATIVE = {
    "c-O0": ("cc", "-O0"),
    "c-O2": ("cc", "-O2"),
    "c-wide": ("cc", "-O2", "-DPDMU_WIDE_WEIGHTS"),
    "c-sanitized": ("cc", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "arm64": ("aarch64-linux-gnu-gcc", "-O2", "-static"),
}
EMULATORS = {"arm64": ("qemu-aarch64-static",)}
# Every kernel that a machine's compiler does not choose by itself.
KERNELS = {
    "mps2-an386-portable": ("mps2-an386", "-DPDMU_PORTABLE"),
    "mps2-an386-wide": ("mps2-an386", "-DPDMU_WIDE_WEIGHTS"),
    "mps3-an547-wide": ("mps3-an547", "-DPDMU_WIDE_WEIGHTS"),
}
TARGETS = (*NATIVE, *MACHINES, *KERNELS)
RUN_S = 1800.0  # an emulated board at a thirtieth of real time, and a stream of a minute


class Answer(NamedTuple):
    """What a runtime, or the law, makes of a signal."""

    stages: dict[str, NDArray[np.integer]]  # flat, in the order of time
    events: list[tuple[int, ...]]  # label, outcome, onset step, end step, peak sum
    state: bytes  # the struct at the end


@dataclass(frozen=True)
class Program:
    """A built ``pdmu-conform``."""

    folder: Path
    command: tuple[str, ...]  # run in `folder`

    def answer(self, pcm: NDArray[np.int16]) -> Answer:
        """Run it over a signal from a fresh state.

        Raises
        ------
        UserError
            It failed, or did not end.
        """
        (self.folder / "pcm.bin").write_bytes(pcm.astype("<i2").tobytes())
        records = self.folder / "records.bin"
        records.unlink(missing_ok=True)
        try:
            done = subprocess.run(self.command, cwd=self.folder, capture_output=True, text=True, timeout=RUN_S, check=False)
        except subprocess.TimeoutExpired:
            raise UserError(f"{self.command[0]}: no end after {RUN_S:g} s; is the machine overloaded?") from None
        if done.returncode != 0 or not records.exists():
            raise UserError(f"{' '.join(self.command)}: exit status {done.returncode}\n{(done.stderr or done.stdout).strip()[-2000:]}")
        stages: defaultdict[str, list[NDArray[np.integer]]] = defaultdict(list)
        events, state = [], b""
        for stage, index, values in _records(records.read_bytes()):
            if stage == EVENT:
                events.append(tuple(int(v) for v in np.frombuffer(values, "<i4")))
            elif stage == STATE:
                state = values
            else:
                stages[stage_name(stage, index)].append(stage_values(stage, values))
        return Answer({name: np.concatenate(parts) for name, parts in stages.items()}, events, state)


def _records(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(raw):
        size = raw[at + 2] | raw[at + 3] << 8
        yield raw[at], raw[at + 1], raw[at + 4 : at + 4 + size]
        at += 4 + size


def law_events(bundle: Bundle, scores: NDArray[np.int16]) -> list[tuple[int, ...]]:
    """Return what the Python detector makes of scores ``[steps, labels]``, as `Answer.events` has it."""
    detector = Detector(bundle.detector, bundle.labels, bundle.samples_per_step)
    state, found = detector.step(detector.init(), scores)
    found = [*found, *detector.finish(state)]
    rows: list[tuple[int, ...]] = []
    for e in found:
        outcome = ("cut" if e.cut else "event") if isinstance(e, Event) else e.reason
        peak = e.peak_sum if isinstance(e, Event) else round(e.score * bundle.detector.smooth_steps * 32768)
        rows.append((e.label, OUTCOMES[outcome], e.onset_step, e.end_step, peak))
    return rows


def tools_of(target: str) -> list[str]:
    """Return the programs that a target needs."""
    if target not in NATIVE:
        machine = MACHINES[KERNELS.get(target, (target,))[0]]
        return [machine.compiler[0], machine.qemu[0]]
    return [NATIVE[target][0], *EMULATORS.get(target, ())]


def build_target(bundle: Bundle, target: str, folder: Path) -> Program:
    """Build ``pdmu-conform`` for a target, one of `TARGETS`.

    Raises
    ------
    UserError
        A compiler or emulator is not installed, or the compiler refused.
    """
    need(*tools_of(target))
    export_c(bundle, folder)
    out = folder / "pdmu-conform"
    if target not in NATIVE:
        name, *flags = KERNELS.get(target, (target,))
        build(MACHINES[name], folder, (*PROGRAM, "conform/io_semihost.c"), out, ("-O2", *flags))
        return Program(folder, MACHINES[name].run(out))
    compile_c(folder, [NATIVE[target][0], *STRICT, *NATIVE[target][1:], *PROGRAM, "conform/io_posix.c", "-o", str(out)])
    return Program(folder, (*EMULATORS.get(target, ()), str(out)))


def check_program(program: Program, bundle: Bundle, law: LawTrace, target: str, signal: str, pcm: NDArray[np.int16]) -> list[Finding]:
    """Compare every stage, every event and the state at the end with the law's, to the last bit.

    Parameters
    ----------
    law : LawTrace
        Of the law over `pcm`.
    pcm : ndarray of int16
        Whole model steps.
    """
    answer = program.answer(pcm)
    none = np.zeros(0, np.int16)
    where = first_difference(answer.stages, law.stages) or ""
    findings = []
    for name in (*law.stages, *(answer.stages.keys() - law.stages.keys())):
        largest = largest_difference(answer.stages.get(name, none), law.stages.get(name, none))
        findings.append(Finding(signal, target, name, largest, 0, where=where if where.startswith(f"{name},") else ""))
    # a stream told step by step has a cut before what is known one step later; heard at once, the law orders them by their ends
    same = sorted(answer.events) == sorted(law_events(bundle, law.stages["scores"].astype(np.int16)))
    found = split_state(bundle, answer.state)  # of a member the law says what means anything: its beginning
    left = max(largest_difference(found[name][: len(values)], values) for name, values in law.state.items())
    return [*findings, Finding(signal, target, "state", left, 0), Finding(signal, target, "events", 0 if same else float("inf"), 0)]


def first_difference(found: Mapping[str, NDArray[np.integer]], law: Mapping[str, NDArray[np.integer]]) -> str | None:
    """Name the first place at which a runtime leaves the law, by the order of the computation; None where it never does."""
    places = []
    for order, (name, expected) in enumerate(law.items()):
        got = found.get(name, np.zeros(0, np.int16))
        flat, width = expected.reshape(-1), expected[:1].size
        n = min(len(got), len(flat))
        wrong = np.flatnonzero(got[:n] != flat[:n])
        if len(wrong) or len(got) != len(flat):
            at = int(wrong[0]) if len(wrong) else n
            step, element = divmod(at, width)
            values = f"{got[at]}, the law says {flat[at]}" if len(wrong) else f"{len(got)} integers, the law has {len(flat)}"
            places.append(((step + 1) / max(1, len(expected)), order, f"{name}, call {step}, element {element}: {values}"))
    return min(places)[2] if places else None
