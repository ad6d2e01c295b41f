"""`pdmu-eval`: a bundle judged on a manifest of recordings, every one heard through the agent's own streaming path.

Each begins from a fresh state and ends with its last sample: no silence is added to short ones (`edge_agent.channel.Channel.finish` says
why), a cough of 8 steps is judged by its 8 scores.

Clip scores are pooled by `pdmu.metrics.clip_scores`; the bundle's threshold is applied to them for recall and false-alarm rate, and its
detector alone makes the events that are compared with event lists.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.analyze import Recording, analyze
from edge_agent.audio import FileSource
from edge_agent.channel import Listener, load_listener
from edge_agent.cli import add_model_options, parse_thresholds
from edge_agent.command import guarded
from edge_agent.judgement import Clip, Row, Stream, finite, judge_clips, judge_streams, text_report
from pdmu.errors import UserError
from pdmu.metrics import clip_scores

EXAMPLES = """examples:
  pdmu-eval --bundle models/cough.pdmu --manifest test.csv --root recordings/
  pdmu-eval --bundle models/birds.pdmu --manifest test.csv --root recordings/ --backend c --json --clips clips.csv

The manifest is a CSV with the columns path (below --root) and label, optionally source. A label that the bundle lacks counts as its
"other" where it has one, and as a negative of every label otherwise. A row whose label begins with "annotated_stream", or any row with
--streams, whose recording has a .csv of the same name beside it (onset_s, offset_s, label) is a stream: its events are compared, its
clip score is not. Such a row without that list is an error.

exit status: 0 done (unreadable recordings are listed), 1 none could be read, 2 wrong usage"""


@dataclass
class Heard:
    """Everything that one run brought."""

    clips: list[Clip] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)


def read_manifest(path: Path) -> list[Row]:
    """Read the rows of a manifest.

    Raises
    ------
    UserError
        Unreadable, without the columns, without rows, or a row without a path.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise UserError(
                    f"{path}: the manifest has no column {' and no '.join(sorted(missing))}; its first line must name the columns"
                )
            rows = [Row(r["path"] or "", r["label"] or "", r.get("source") or "") for r in reader]
    except OSError as error:
        raise UserError(f"{path}: cannot read the manifest: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV manifest: {error}") from None
    for number, row in enumerate(rows, 2):
        if not row.path or not row.label:
            raise UserError(f"{path}: line {number} has no {'label' if row.path else 'path'}")
    if not rows:
        raise UserError(f"{path}: the manifest has no rows")
    return rows


def read_events(path: Path, aliases: Mapping[str, str]) -> dict[str, list[float]]:
    """Read an event list: onsets in seconds by label, aliases resolved."""
    onsets: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            for event in csv.DictReader(f):
                onsets.setdefault(aliases.get(event["label"], event["label"]), []).append(float(event["onset_s"]))
    except OSError as error:
        raise UserError(f"{path}: the stream's event list cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not an event list with the columns onset_s, offset_s, label ({error!r})") from None
    return onsets


def hear(rows: Sequence[Row], root: Path, listener: Listener, as_streams: bool) -> Heard:
    """Run the listener over every row's recording, each from a fresh state."""
    heard, show = Heard(), sys.stderr.isatty()
    for i, row in enumerate(rows):
        if show and i % 10 == 0:
            print(f"\r{i}/{len(rows)} ", end="", file=sys.stderr, flush=True)
        try:
            _hear_row(row, root / row.path, listener, as_streams, heard)
        except UserError as error:
            heard.unreadable.append({"path": row.path, "reason": str(error)})
    if show:
        print("\r", end="", file=sys.stderr)
    return heard


def _hear_row(row: Row, path: Path, listener: Listener, as_streams: bool, heard: Heard) -> None:
    bundle = listener.bundle
    aliases = bundle.info.get("aliases", {})
    events = path.with_suffix(".csv")
    annotated = row.label.startswith("annotated_stream")
    is_stream = annotated or (as_streams and events.exists())
    reference = read_events(events, aliases) if is_stream else {}
    analysis = analyze(FileSource(path, bundle.frontend.sample_rate_hz), [listener])
    if analysis.complaint is not None:
        raise analysis.complaint
    recording = analysis.recordings[0]
    if is_stream:
        heard.streams.append(Stream(row, analysis.duration_s, reference, _onsets(recording)))
        return
    if not len(recording.scores):
        raise UserError(f"{path}: shorter than one model step ({recording.step_s * 1000:.0f} ms)")
    pooled = clip_scores(recording.scores, {"head": bundle.model.head, **bundle.info})
    resolved = Row(row.path, aliases.get(row.label, row.label), row.source)
    heard.clips.append(Clip(resolved, pooled, analysis.duration_s))


def _onsets(recording: Recording) -> dict[str, list[float]]:
    bundle = recording.listener.bundle
    onsets: dict[str, list[float]] = {}
    for found in recording.found:
        onsets.setdefault(bundle.labels[found.event.label], []).append(found.event.onset_sample / bundle.frontend.sample_rate_hz)
    return onsets


def write_clips(path: Path, clips: Sequence[Clip], labels: Sequence[str]) -> None:
    """Write one row a recording: path, label, then the score of each of the bundle's labels."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(["path", "label", *labels])
            writer.writerows([c.row.path, c.row.label, *(f"{v:.6f}" for v in c.scores)] for c in clips)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("pdmu-eval", description="Judges a bundle on recordings.", epilog=EXAMPLES, formatter_class=raw)
    add_model_options(parser)
    parser.add_argument("--manifest", type=Path, required=True, metavar="CSV")
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder the manifest's paths are in; default: the manifest's own")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--clips", type=Path, metavar="CSV", help="write one row a clip: path, label, score of each label")
    parser.add_argument("--streams", action="store_true", help="also treat other recordings with an event list beside them as streams")
    parser.add_argument("--onset-tolerance", type=float, default=0.2, metavar="S", help="of event matching, either way (default 0.2 s)")
    return parser


def evaluate(args: argparse.Namespace) -> int:
    """Do what the command line asks."""
    if args.clips and not args.clips.parent.is_dir():  # said before an hour of listening, not after
        raise UserError(f"{args.clips}: cannot be written: there is no folder {args.clips.parent}")
    if not args.onset_tolerance >= 0:
        raise UserError(f"--onset-tolerance {args.onset_tolerance}: must be 0 or more seconds")
    listener = load_listener(args.bundle, args.backend, args.precision, parse_thresholds(args.threshold), args.library)
    rows = read_manifest(args.manifest)
    heard = hear(rows, args.root or args.manifest.parent, listener, args.streams)
    for bad in heard.unreadable:
        print(f"error: {bad['reason']}", file=sys.stderr)
    if not heard.clips and not heard.streams:
        raise UserError(f"{args.manifest}: none of its {len(rows)} recordings could be read; is --root right?")
    if args.clips:
        write_clips(args.clips, heard.clips, listener.bundle.labels)
    result = {
        "schema": "pdmu.evaluation/1", "bundle": str(args.bundle), "sha256": listener.bundle.sha256, "backend": listener.backend.runtime,
        "quant": listener.backend.quant, "unreadable": heard.unreadable,
        "clips": judge_clips(heard.clips, listener) if heard.clips else None,
        "streams": judge_streams(heard.streams, listener, args.onset_tolerance) if heard.streams else None,
    }  # fmt: skip
    print(json.dumps(finite(result), indent=2) if args.json else text_report(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = build_parser().parse_args(argv)
    return guarded(lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
