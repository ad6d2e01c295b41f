"""``pdmu-export``: a training run to a bundle, a bundle to TFLite graphs, to C, or to a project for a board."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.commands import report_errors
from deploy.packages import PLATFORMS, export_package
from pdmu.bundle import Bundle, read_bundle, write_bundle
from pdmu.errors import UserError
from pdmu.files import write_text

TARGETS = ("bundle", "tflite", "c", *PLATFORMS)
EXAMPLES = """examples:
  pdmu-export runs/cough --name cough --version 1.0.0           quantise a training run: runs/cough/cough.pdmu and its card cough.md
  pdmu-export runs/cough --target bundle --target tflite        and its TFLite graphs beside it
  pdmu-export models/cough.pdmu --target tflite --out /tmp/x    graphs of a bundle, elsewhere
  pdmu-export models/cough.pdmu --target c                      a C99 project in models/cough.c/
  pdmu-export models/cough.pdmu --target c --build              and its shared library models/cough.so
  pdmu-export models/cough.pdmu --target arduino                an Arduino library, models/cough.arduino/; others alike
"""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="pdmu-export",
        description="Turn a training run into a model bundle, and a bundle into TFLite graphs, C source or a project for a board.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("source", type=Path, metavar="RUN_DIR|BUNDLE", help="folder of a training run, or a bundle (.pdmu)")
    default = "default: bundle of a run, tflite of a bundle"
    parser.add_argument("--target", action="append", choices=TARGETS, help=f"what to make, may be repeated ({default})")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to, made when missing (default: the source's)")
    parser.add_argument("--name", help="name of the bundle made from a run (default: the task's)")
    parser.add_argument("--version", help="version of the bundle made from a run")
    parser.add_argument("--build", action="store_true", help="with --target c: also compile the shared library ($CC, or cc)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    args = parser.parse_args(arguments)
    is_run = args.source.is_dir()
    args.target = list(dict.fromkeys(args.target or ["bundle" if is_run else "tflite"]))
    if args.build and "c" not in args.target:
        parser.error("--build compiles the C export: add --target c")
    if not is_run and "bundle" in args.target:
        parser.error("--target bundle needs the folder of a training run; a bundle exports to the others")
    if args.name is not None and (not args.name or args.name.startswith(".") or Path(args.name).name != args.name):
        parser.error(f"--name {args.name}: it becomes a file's name, so no folder and no leading dot; the folder is --out")
    if not is_run and (args.name or args.version):
        parser.error("--name and --version belong to a bundle made from a run; this one has its own")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``pdmu-export``; 0 done, 1 failed, 2 wrong usage."""
    args = parse_arguments(arguments)
    return report_errors(lambda: _export(args))


def _export(args: argparse.Namespace) -> int:
    began = time.monotonic()
    if not args.source.exists():
        raise UserError(f"{args.source}: no such training run or bundle; give the folder pdmu-train wrote, or a .pdmu file")
    out_dir: Path = args.out or (args.source if args.source.is_dir() else args.source.parent)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out_dir}: cannot make the folder: {error.strerror}; choose another --out") from None
    written: list[Path] = []
    if args.source.is_dir():
        bundle, path, card = _bundle_of_run(args.source, out_dir, args.name, args.version)
        written += [path, card]
    else:
        bundle, path = read_bundle(args.source), args.source
    if "tflite" in args.target:
        from deploy.tflite_export import export_tflite

        written += export_tflite(bundle, out_dir, path.stem)
    if "c" in args.target:
        from deploy.c_export import build_shared, export_c

        written += export_c(bundle, out_dir / f"{path.stem}.c")
        if args.build:
            written.append(build_shared(bundle, out_dir / f"{path.stem}.so"))
    for platform in PLATFORMS:
        if platform in args.target:
            written += export_package(bundle, platform, out_dir / f"{path.stem}.{platform}")
    _report(args, path, bundle, written, time.monotonic() - began)
    return 0


def _bundle_of_run(run_dir: Path, out_dir: Path, name: str | None, version: str | None) -> tuple[Bundle, Path, Path]:
    """Quantise a run, write its bundle and its model card, and return them; every other target is made from the bundle's content."""
    from deploy.card import model_card
    from deploy.runs import quantize_run

    settings = {key: value for key, value in (("name", name), ("version", version)) if value is not None}
    bundle = quantize_run(run_dir, **settings)
    path = out_dir / f"{bundle.info['name']}.pdmu"
    bundle = write_bundle(path, bundle)
    return bundle, path, write_text(out_dir / f"{bundle.info['name']}.md", model_card(bundle, run_dir))


def _report(args: argparse.Namespace, path: Path, bundle: Bundle, written: Sequence[Path], seconds: float) -> None:
    sizes = [(str(p), p.stat().st_size) for p in written]
    if args.json:
        files = [{"path": p, "bytes": size} for p, size in sizes]
        what = {"bundle": str(path), "sha256": bundle.sha256, "contract": bundle.contract}
        print(json.dumps(what | {"seconds": round(seconds, 3), "files": files}))
        return
    for name, size in sizes:
        print(f"{size:>9,} B  {name}")


if __name__ == "__main__":
    sys.exit(main())
