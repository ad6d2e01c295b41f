"""`pdmu-console verify`: every integer a board computes against the law's, and the state it ends with."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.audio import FileSource
from edge_agent.board_messages import Feature, PcmSource, StageSum, StageValues
from edge_agent.console.heard import same_bundle
from edge_agent.console.progress import Progress
from edge_agent.console.records import record
from edge_agent.console.session import Session, attended, fed
from edge_agent.link import Frame, Notice, Received
from edge_agent.pcm_stream import PcmStream
from pdmu.bundle import Bundle
from pdmu.errors import UserError
from pdmu.golden import golden_pcm
from pdmu.state_layout import STAGES, LawTrace, law_trace, split_state, stage_name

PIECE_SAMPLES = 4096  # sent between two looks at what has come
PASSES = 3  # over a signal, while lost frames leave gaps in what was compared


class Difference(NamedTuple):
    """The first integer that is not the law's."""

    stage: str  # or ``state.…``
    layer: int | None  # the convolution's or layer's number
    step: int | None  # the stage's call since the start: a frame for the front end, a model step for the network
    element: int  # in the stage's values, flat
    expected: int
    got: int

    def __str__(self) -> str:
        where = f", layer {self.layer}" if self.layer is not None else ""
        when = f", step {self.step}" if self.step is not None else ", at the end"
        return f"stage {self.stage}{where}{when}, element {self.element}: expected {self.expected}, got {self.got}"


class Comparison:
    """Checks the sums that a board sends against the law's stages."""

    def __init__(self, law: LawTrace) -> None:
        self._law = law
        self._equal: set[tuple[int, int, int]] = set()
        self.first: StageSum | None = None  # that differs
        self.expected = sum(len(values) for values in law.stages.values())

    @property
    def equal(self) -> int:
        """Calls whose sum is the law's."""
        return len(self._equal)

    def take(self, item: Received) -> None:
        """Look at what the board sent."""
        if self.first is not None or not isinstance(item, Frame) or item.type != Notice.STAGE:
            return
        told = StageSum.unpack(item.payload)
        raw = law_bytes(self._law, told)
        if (told.size, told.crc32) == (len(raw), zlib.crc32(raw)):
            self._equal.add((told.stage, told.layer, told.call))
        else:
            self.first = told


def law_bytes(law: LawTrace, call: StageSum | StageValues) -> bytes:
    """Return the little-endian bytes that the law gives in a stage's call; none where it makes no such call."""
    try:
        values = law.stages[stage_name(call.stage, call.layer)][call.call]
    except (KeyError, IndexError):
        return b""
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def verify_signal(met: Session, bundle: Bundle, law: LawTrace, pcm: NDArray[np.int16], progress: Progress) -> tuple[Difference | None, int]:
    """Have the board hear PCM int16 [n] from the start, and compare with `law`, what the law makes of it.

    Returns
    -------
    difference : Difference or None
    calls : int
        Stage calls compared.

    Raises
    ------
    UserError
        The line lost too much for a verdict, or broke.
    """
    comparison = Comparison(law)
    for _ in range(PASSES):
        _replay(met, pcm, (1, 0, 0, 0), comparison.take, lambda: comparison.first is not None, progress)
        if comparison.first is not None:
            return _look_closer(met, law, pcm, comparison.first, progress), comparison.equal
        if comparison.equal == comparison.expected:
            return _compare_state(bundle, law, met.board.state()), comparison.equal
    raise UserError(
        f"{comparison.expected - comparison.equal} of {comparison.expected} sums did not arrive in {PASSES} passes: the line loses frames; "
        "try a lower --baud or a shorter cable"
    )


def _replay(met: Session, pcm: NDArray[np.int16], trace: tuple[int, int, int, int], take: Callable[[Received], None],
            enough: Callable[[], bool], progress: Progress) -> None:  # fmt: skip
    """Stream PCM from a fresh state under a trace, until `enough`."""
    board = met.board
    board.reset(PcmSource.SERIAL)
    board.trace(*trace)
    board.on_notice = take
    stream = PcmStream(board)
    for begin in range(0, len(pcm), PIECE_SAMPLES):
        stream.push(pcm[begin : begin + PIECE_SAMPLES])
        progress.show(begin, len(pcm))
        if enough():
            break
    else:
        stream.drain()
    board.on_notice = None
    board.trace(0)


def _look_closer(met: Session, law: LawTrace, pcm: NDArray[np.int16], told: StageSum, progress: Progress) -> Difference:
    """Ask for the values of the call whose sum differs."""
    parts: dict[int, StageValues] = {}

    def take(item: Received) -> None:
        if isinstance(item, Frame) and item.type == Notice.VALUES:
            values = StageValues.unpack(item.payload)
            if (values.stage, values.layer, values.call) == (told.stage, told.layer, told.call):
                parts[values.offset] = values

    for _ in range(PASSES):
        _replay(met, pcm, (2, told.stage, told.layer, told.call), take, lambda: _whole(parts), progress)
        if _whole(parts):
            break
    else:
        raise UserError(f"the values of {_name(told)} did not arrive in {PASSES} passes: the line loses frames; try a lower --baud")
    got = b"".join(parts[offset].data for offset in sorted(parts))
    expected = law_bytes(law, told)
    if len(got) != len(expected):
        raise UserError(f"{_name(told)} has {len(got)} bytes on the board and {len(expected)} by the law: is this the board's bundle?")
    name, numbered = stage_name(told.stage, told.layer), "{}" in STAGES[told.stage]
    dtype = law.stages[name].dtype.newbyteorder("<")
    differing = _first(np.frombuffer(expected, dtype), np.frombuffer(got, dtype))
    if differing is None:
        raise UserError(f"{_name(told)} differed, and not when looked at again: the board does not repeat itself; check its power")
    return Difference(name, told.layer if numbered else None, told.call, *differing)


def _name(told: StageSum) -> str:
    stage = stage_name(told.stage, told.layer) if told.stage < len(STAGES) else f"number {told.stage}"
    return f"stage {stage}, step {told.call},"


def _whole(parts: dict[int, StageValues]) -> bool:
    return bool(parts) and sum(len(p.data) for p in parts.values()) >= next(iter(parts.values())).total


def _first(expected: NDArray[Any], got: NDArray[Any]) -> tuple[int, int, int] | None:
    """Return (element, expected, got) where two arrays first differ."""
    different = np.flatnonzero(expected != got)
    if not len(different):
        return None
    at = int(different[0])
    return at, int(expected[at]), int(got[at])


def _compare_state(bundle: Bundle, law: LawTrace, raw: bytes) -> Difference | None:
    try:
        members = split_state(bundle, raw)
    except ValueError as error:
        raise UserError(f"the board's state: {error}; was its firmware exported by another version?") from None
    for name, expected in law.state.items():
        differing = _first(expected, members[name][: len(expected)])
        if differing is not None:
            return Difference(f"state.{name}", None, None, *differing)
    return None


def verify(met: Session, path: Path, bundle: Bundle, files: Sequence[Path], discard: bool, say: Callable[[dict[str, Any]], None]) -> int:
    """Verify the board over the golden signal and over recordings.

    Parameters
    ----------
    path : Path
        Of `bundle`, which the board must run.
    say : callable
        Takes a record for each signal, then one of the verdict.

    Returns
    -------
    int
        0 where everything is equal, else 1.

    Raises
    ------
    UserError
        No verdict is possible.
    """
    if Feature.TRACE not in met.hello.features:
        raise UserError("the board's firmware was built without TRACE: build it with tracing to verify it")
    same_bundle(met.hello, bundle, path)
    failed = False
    with fed(met, discard):
        for file in [None, *files]:
            pcm, law = attended(met.board, partial(_by_law, bundle, file))
            name = "golden" if file is None else str(file)
            with Progress(name) as progress:
                difference, calls = verify_signal(met, bundle, law, pcm, progress)
            failed |= difference is not None
            told = {**difference._asdict(), "message": str(difference)} if difference else None
            say(record("signal", signal=name, equal=difference is None, calls=calls, samples=len(pcm), difference=told))
    say(record("verdict", equal=not failed, board=met.hello.board, firmware=met.hello.firmware, sha256=bundle.sha256))
    return int(failed)


def _by_law(bundle: Bundle, file: Path | None) -> tuple[NDArray[np.int16], LawTrace]:
    pcm = golden_pcm() if file is None else read_pcm(file, bundle.frontend.sample_rate_hz)
    return pcm, law_trace(bundle, pcm)


def read_pcm(path: Path, rate_hz: int) -> NDArray[np.int16]:
    """Read a recording at the model's rate, int16 [n], as `pdmu-agent analyze` does."""
    source = FileSource(path, rate_hz)
    try:
        return np.concatenate([block.pcm for block in source.blocks()])
    finally:
        source.close()


def verify_text(r: dict[str, Any]) -> str:
    """Return the line of one of `verify`'s records."""
    if r["type"] == "verdict":
        return f"{'equal' if r['equal'] else 'DIFFERENT'}: {r['board']}, firmware {r['firmware']}, bundle {r['sha256'][:12]}"
    verdict = f"equal, {r['calls']} stage outputs and the final state" if r["equal"] else f"DIFFERENT: {r['difference']['message']}"
    return f"{r['signal']}: {verdict}"
