"""`pdmu-console`: a board at the end of a serial line."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_agent.audio import check_file
from edge_agent.command import Told, guarded, log, orderly_end, stopped_by_signals
from edge_agent.config import read_config
from edge_agent.console.bench import bench, bench_text
from edge_agent.console.bridge import bridge, serial_sources, summary_text
from edge_agent.console.heard import same_bundle
from edge_agent.console.monitor import Monitor
from edge_agent.console.records import hello_record, hello_text
from edge_agent.console.session import reboot, session
from edge_agent.console.stream import readable, stream_files
from edge_agent.console.verify import verify, verify_text
from edge_agent.events import Detection
from edge_agent.serial_port import FORMS, Address, parse_address
from pdmu import __version__
from pdmu.bundle import read_bundle
from pdmu.config import to_dict
from pdmu.errors import UserError

EXAMPLES = """examples:
  pdmu-console hello                                        # the one board that is plugged in
  pdmu-console monitor --port id:E6614C775B3A2F31
  pdmu-console verify --bundle models/cough.pdmu night.flac
  pdmu-console stream *.flac --json > events.jsonl
  pdmu-console bench --port socket://localhost:7000         # firmware in an emulator
  pdmu-console bridge --config agent.toml

exit status: 0 done, 1 failed, 2 wrong usage"""


MAX_HOPS = 0xFFFF  # BENCH's number has 16 bits


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def _hops(text: str) -> int:
    value = _positive(text)
    if value > MAX_HOPS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_HOPS}")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number of seconds")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("pdmu-console", description="Talks with a board that runs PDMU.", epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"pdmu-console {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, about: str, example: str, default: str | None = "auto") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", formatter_class=raw,
                                      epilog=f"example: pdmu-console {name} {example}")  # fmt: skip
        command.add_argument("--port", type=_address, default=default and parse_address(default), metavar="LINE", help=FORMS)
        command.add_argument("--baud", type=_positive, metavar="RATE", help="default: the first usual one at which the board answers")
        command.add_argument("--json", action="store_true", help="JSON lines for machines")
        return command

    monitor = add("monitor", "show what the board says until Ctrl+]", "--port /dev/ttyACM0")
    monitor.add_argument("--seconds", type=_seconds, metavar="S", help="end after so long")
    hello = add("hello", "ask who is there", "--bundle models/cough.pdmu")
    hello.add_argument("--bundle", type=Path, metavar="FILE", help="warn where the board runs another one")
    hello.add_argument("--reboot", action="store_true", help="restart the board first")
    check = add("verify", "compare everything the board computes with the law", "--bundle models/cough.pdmu night.flac")
    check.add_argument("files", nargs="*", type=Path, metavar="FILE", help="recordings, besides the golden signal")
    check.add_argument("--bundle", type=Path, required=True, metavar="FILE", help="the bundle its firmware was made from")
    stream = add("stream", "have the board hear recordings, print what it detects", "night.flac --json")
    stream.add_argument("files", nargs="+", type=Path, metavar="FILE", help="WAV, FLAC … of any rate and channel count")
    stream.add_argument("--format", choices=("table", "csv", "raven", "json"), default="table")
    stream.add_argument("--bundle", type=Path, metavar="FILE", help="the board's, where it is no shipped model: it knows the task and band")
    stream.add_argument("--rate", type=_positive, metavar="HZ", help="the true sample rate, where the files' own is wrong")
    timing = add("bench", "measure what a hop costs on the board", "--hops 100")
    for command, when in ((check, ""), (stream, ""), (timing, ""), (hello, "with --reboot: ")):
        command.add_argument("--discard", action="store_true", help=f"{when}lose detections that the board keeps for somebody")
    timing.add_argument("--hops", type=_hops, default=62, metavar="N", help="how many to run (default 62: about a second of sound)")
    relay = add("bridge", "bring the boards' detections to the broker until stopped", "--config agent.toml", default=None)
    relay.add_argument("--config", type=Path, metavar="FILE", help="the agent's TOML; default /etc/pdmu/agent.toml where it exists")
    relay.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="over file and environment; may be repeated")
    relay.add_argument("--source", metavar="NAME", help="this [[source]] alone; a name for the board where none is configured")
    return parser


def _print(as_json: bool, r: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> None:
    print(json.dumps(r) if as_json else text(r), flush=True)


def cmd_monitor(args: argparse.Namespace) -> int:
    """`pdmu-console monitor`."""
    deadline_s = None if args.seconds is None else time.monotonic() + args.seconds
    Monitor(sys.stdout, args.json).run(args.port, args.baud, stopped_by_signals(), deadline_s)
    return 0


def cmd_hello(args: argparse.Namespace) -> int:
    """`pdmu-console hello`."""
    bundle = read_bundle(args.bundle) if args.bundle else None
    if args.reboot:
        reboot(args.port, args.baud, args.discard)
    with session(args.port, args.baud, args.bundle) as met:
        _print(args.json, hello_record(met.board.port.where, met.hello, met.labels), hello_text)
        if bundle is not None:
            try:
                same_bundle(met.hello, bundle, args.bundle)
            except UserError as error:
                log(f"warning: {error}")
    return 0


def cmd_verify(args: argparse.Namespace) -> int:
    """`pdmu-console verify`."""
    bundle = read_bundle(args.bundle)
    for path in args.files:  # all of them before the board is touched
        check_file(path)
    with session(args.port, args.baud, args.bundle) as met:
        return verify(met, args.bundle, bundle, args.files, args.discard, lambda r: _print(args.json, r, verify_text))


def cmd_stream(args: argparse.Namespace) -> int:
    """`pdmu-console stream`."""
    files = readable(args.files, args.rate)
    failed = int(len(files) < len(args.files))
    if files:
        with session(args.port, args.baud, args.bundle) as met:
            failed |= stream_files(met, files, "json" if args.json else args.format, args.rate, args.discard)
    return failed


def cmd_bench(args: argparse.Namespace) -> int:
    """`pdmu-console bench`."""
    with session(args.port, args.baud) as met:
        _print(args.json, bench(met, args.hops, args.discard), bench_text)
    return 0


def cmd_bridge(args: argparse.Namespace) -> int:
    """`pdmu-console bridge`."""
    config = read_config(args.config, overrides=args.set)
    sources = serial_sources(config, args.source, args.port and str(args.port), args.baud)
    told = Told()

    def tell(d: Detection) -> None:
        if args.json:
            told.line(json.dumps(to_dict(d)))
        else:
            log(f"detection: {d.source} {d.label} {d.score:.2f}, {d.ts}, for {d.dur_s:.2f} s")

    status, summary = bridge(config, sources, stopped_by_signals(), log, tell)
    if args.json:
        told.line(json.dumps(summary))
    log(summary_text(summary))
    return status


COMMANDS = {"monitor": cmd_monitor, "hello": cmd_hello, "verify": cmd_verify, "stream": cmd_stream, "bench": cmd_bench,
            "bridge": cmd_bridge}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = build_parser().parse_args(argv)
    with contextlib.nullcontext() if args.command in ("monitor", "bridge") else orderly_end():  # those two stop by themselves
        return guarded(lambda: COMMANDS[args.command](args))


if __name__ == "__main__":
    sys.exit(main())
