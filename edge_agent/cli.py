"""The `pdmu-agent` command."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_agent.agent import run_agent
from edge_agent.alsa import list_devices
from edge_agent.analyze import analyze_files
from edge_agent.bench import bench, text
from edge_agent.channel import load_listener
from edge_agent.check import Stage, run_check
from edge_agent.command import Told, guarded, log, stopped_by_signals
from edge_agent.config import AgentConfig, effective, read_config
from edge_agent.events import Detection, Topics
from edge_agent.mqtt import MqttDelivery, Refused, connect
from edge_agent.outbox import Outbox, OutboxLock
from edge_agent.printer import Printer
from pdmu import __version__
from pdmu.config import to_dict
from pdmu.errors import UserError

EXAMPLES = """examples:
  pdmu-agent analyze night.flac --bundle models/cough.pdmu --picture night.png
  pdmu-agent analyze *.wav --bundle models/birds.pdmu --json > events.jsonl
  sox in.mp3 -t raw -b 16 -r 16000 -c 1 - | pdmu-agent run --config stdin.toml
  pdmu-agent check --config agent.toml
  pdmu-agent run --config agent.toml

exit status: 0 done, 1 failed, 2 wrong usage"""


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("pdmu-agent", description="Hears sounds and tells about them.", epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"pdmu-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument("--config", type=Path, metavar="FILE", help="TOML; default /etc/pdmu/agent.toml where it exists")
    configured.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="over file and environment; may be repeated"
    )
    run = commands.add_parser("run", parents=[configured], help="listen, detect and publish until stopped")
    run.add_argument("--json", action="store_true", help="print each detection as a line of JSON")
    check = commands.add_parser("check", parents=[configured], help="try every stage from configuration to self-test")
    check.add_argument("--json", action="store_true", help="one JSON object a stage")
    devices = commands.add_parser("devices", help="list microphones")
    devices.add_argument("--json", action="store_true")
    _add_analyze(commands)
    bench_ = commands.add_parser("bench", help="measure what a bundle costs on this device")
    add_model_options(bench_)
    bench_.add_argument("--seconds", type=float, default=5.0, metavar="S", help="how long to measure, live and as a file (default 5 each)")
    bench_.add_argument("--json", action="store_true")
    outbox = commands.add_parser("outbox", parents=[configured], help="look at, deliver or delete what waits to be delivered")
    outbox.add_argument("action", choices=("status", "flush", "purge"))
    outbox.add_argument("--json", action="store_true")
    outbox.add_argument("--yes", action="store_true", help="purge without this only says what would be deleted")
    outbox.add_argument("--timeout", type=float, default=60.0, metavar="S", help="how long flush tries (default 60)")
    config = commands.add_parser("config", parents=[configured], help="show the configuration in force")
    config.add_argument("action", choices=("show",))
    config.add_argument("--effective", action="store_true", help="with defaults and environment (the only form there is)")
    config.add_argument("--json", action="store_true")
    tail = commands.add_parser("tail", parents=[configured], help="print detections as the broker passes them on")
    tail.add_argument("--all-nodes", action="store_true", help="not this node's alone")
    tail.add_argument("--count", type=int, metavar="N", help="end after so many")
    return parser


def _add_analyze(commands: Any) -> None:
    analyze = commands.add_parser("analyze", help="hear recordings at full speed")
    analyze.add_argument("files", nargs="+", type=Path, metavar="FILE", help="WAV, FLAC … of any rate and channel count")
    add_model_options(analyze, many=True)
    form = analyze.add_mutually_exclusive_group()
    form.add_argument("--format", choices=("table", "csv", "raven", "json"), default="table")
    form.add_argument("--json", action="store_const", dest="format", const="json", help="one JSON object a detection")
    analyze.add_argument("--scores", action="store_true", help="also the score of every model step")
    analyze.add_argument("--picture", type=Path, metavar="PNG", help="spectrogram, scores and detections (one FILE)")
    analyze.add_argument("--rate", type=int, metavar="HZ", help="the true sample rate, where the files' own is wrong")
    analyze.add_argument("--self-test", action="store_true", help="replay the golden signal first")


def add_model_options(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """Add --bundle, --backend, --precision, --library and --threshold."""
    parser.add_argument("--bundle", type=Path, required=True, action="append" if many else "store", metavar="FILE",
                        help="model bundle" + (", may be repeated" if many else ""))  # fmt: skip
    parser.add_argument("--backend", choices=("auto", "numpy", "tflite", "c"), default="auto",
                        help="auto: tflite where its graphs and a runtime are there, else numpy")  # fmt: skip
    parser.add_argument("--precision", choices=("int16x8", "float32"), default="int16x8", help="of the TFLite graphs")
    parser.add_argument("--library", type=Path, metavar="SO", help="the C backend's library, where it is not beside the bundle")
    parser.add_argument("--threshold", action="append", default=[], metavar="LABEL=VALUE", help="instead of the bundle's, 0 … 1")


def parse_thresholds(items: Sequence[str]) -> dict[str, float]:
    """Read ``label=0.7`` items.

    Raises
    ------
    UserError
        An item is something else.
    """
    values = {}
    for item in items:
        label, _, text = item.rpartition("=")
        try:
            values[label] = float(text)
        except ValueError:
            label = ""
        if not label:
            raise UserError(f"--threshold {item}: expected LABEL=VALUE, for example --threshold cough=0.7")
    return values


def cmd_analyze(args: argparse.Namespace) -> int:
    """`pdmu-agent analyze`."""
    if args.picture and len(args.files) > 1:
        raise UserError("--picture draws one recording: give one FILE with it")
    thresholds = parse_thresholds(args.threshold)
    bundles = [load_listener(path, args.backend, args.precision, None, args.library) for path in args.bundle]
    known = {label for x in bundles for label in x.bundle.labels}
    for label in thresholds:
        if label not in known:
            raise UserError(f"--threshold {label}: no bundle has this label; there are {', '.join(sorted(known))}")
    listeners = [x.with_thresholds({k: v for k, v in thresholds.items() if k in x.bundle.labels}) for x in bundles]
    if len({x.bundle.frontend.sample_rate_hz for x in listeners}) > 1:
        raise UserError("the bundles want different sample rates: analyse with one after the other")
    if args.self_test:
        for listener in listeners:
            listener.self_test()
    printer = Printer(args.format, sys.stdout)
    return analyze_files(args.files, listeners, printer, with_scores=args.scores, rate_hz=args.rate, picture=args.picture)


def cmd_bench(args: argparse.Namespace) -> int:
    """`pdmu-agent bench`."""
    if not 0 < args.seconds < 3600:
        raise UserError(f"--seconds {args.seconds:g}: give more than 0 and less than an hour")
    listener = load_listener(args.bundle, args.backend, args.precision, parse_thresholds(args.threshold), args.library)
    listener.self_test()
    result = bench(listener, args.seconds)
    print(json.dumps(result) if args.json else text(result))
    return 0


def cmd_run(args: argparse.Namespace) -> int:
    """`pdmu-agent run`."""
    config = read_config(args.config, overrides=args.set)
    stop = stopped_by_signals()

    told = Told()

    def tell(d: Detection) -> None:
        if args.json:
            told.line(json.dumps(to_dict(d)))
        else:
            log(f"detection: {d.source} {d.label} {d.score:.2f} at {d.t_start_s:.2f} s for {d.dur_s:.2f} s")

    return run_agent(config, stop, log, tell)


def cmd_check(args: argparse.Namespace) -> int:
    """`pdmu-agent check`."""
    failed = False
    for stage in run_check(args.config, args.set):
        failed |= stage.status == "failed"
        print(json.dumps(stage._asdict()) if args.json else _stage_line(stage), flush=True)
    return 1 if failed else 0


def _stage_line(stage: Stage) -> str:
    return f"{stage.status:<8} {stage.name:<20} {stage.detail}"


def cmd_devices(args: argparse.Namespace) -> int:
    """`pdmu-agent devices`."""
    devices = list_devices()
    for d in devices:
        print(json.dumps(d._asdict()) if args.json else f"{d.name:<32} {d.description}")
    if not devices:
        raise UserError("ALSA lists no capture device; is the microphone plugged in, and is this user in the group 'audio'?")
    return 0


def cmd_outbox(args: argparse.Namespace) -> int:
    """`pdmu-agent outbox status|flush|purge`."""
    config = read_config(args.config, overrides=args.set)
    if not config.outbox_path.exists():
        raise UserError(f"{config.outbox_path}: no outbox is there; the agent makes it when it first runs (agent.state_dir, outbox.path)")
    if args.action == "status":
        outbox = Outbox(config.outbox_path, config.outbox)
        counts: dict[str, Any] = dict(outbox.counts())
        oldest = outbox.oldest_s()
        outbox.close()
        if outbox.trouble:
            raise UserError(outbox.trouble)
        counts |= {"path": str(config.outbox_path), "oldest_age_s": round(time.time() - oldest, 1) if oldest else None}
        print(json.dumps(counts) if args.json else "\n".join(f"{k:<14} {v}" for k, v in counts.items()))
        return 0
    lock = OutboxLock(config.outbox_path)
    outbox = Outbox(config.outbox_path, config.outbox)
    try:
        return _flush(config, outbox, args.timeout, args.json) if args.action == "flush" else _purge(outbox, args.yes, args.json)
    finally:
        outbox.close()
        lock.release()


def _purge(outbox: Outbox, yes: bool, as_json: bool) -> int:
    if not yes:
        n = outbox.counts()
        raise UserError(f"{n['messages']} messages ({n['detections']} detections) would be deleted undelivered; add --yes to do it")
    deleted = outbox.purge()
    print(json.dumps({"deleted": deleted}) if as_json else f"{deleted} messages deleted")
    return 0


def _flush(config: AgentConfig, outbox: Outbox, timeout_s: float, as_json: bool) -> int:
    before = outbox.counts()["messages"]
    delivery = MqttDelivery(config.mqtt, Topics(config.agent.node), outbox, log, announce=False)
    delivery.start()
    emptied = delivery.stop(timeout_s)
    waiting = outbox.counts()["messages"]
    said = {"delivered": delivery.delivered, "waiting": waiting}
    print(json.dumps(said) if as_json else f"{delivery.delivered} of {before} messages delivered")
    if not emptied:
        log(f"error: {waiting} messages still wait after {timeout_s:.0f} s" + (f": {delivery.trouble}" if delivery.trouble else ""))
    return 0 if emptied else 1


def cmd_config(args: argparse.Namespace) -> int:
    """`pdmu-agent config show`."""
    config = read_config(args.config, overrides=args.set)
    print(json.dumps(to_dict(config)) if args.json else effective(config))
    return 0


def cmd_tail(args: argparse.Namespace) -> int:
    """`pdmu-agent tail`."""
    config = read_config(args.config, overrides=args.set)
    node = "+" if args.all_nodes else config.agent.node
    seen = 0

    def on_message(_topic: str, payload: bytes) -> None:
        nonlocal seen
        seen += 1
        print(payload.decode(errors="replace"), flush=True)

    try:
        connection, _ = connect(config.mqtt, config.agent.node, on_message=on_message, suffix=f"-tail-{time.time_ns() % 10**6}")
    except Refused as error:
        raise UserError(str(error)) from None
    connection.subscribe([(f"pdmu/{node}/+/detection", 1), (f"pdmu/{node}/replay", 1)])
    stop = stopped_by_signals()
    while not stop.is_set() and (args.count is None or seen < args.count):
        connection.turn(0.2)
        if connection.closed is not None:
            raise UserError(f"the broker closed the connection ({connection.closed})")
    connection.close()
    return 0


COMMANDS = {"run": cmd_run, "check": cmd_check, "devices": cmd_devices, "analyze": cmd_analyze, "outbox": cmd_outbox, "config": cmd_config,
            "tail": cmd_tail, "bench": cmd_bench}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = build_parser().parse_args(argv)
    return guarded(lambda: COMMANDS[args.command](args))


if __name__ == "__main__":
    sys.exit(main())
