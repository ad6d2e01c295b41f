"""Fuzzing of the C side with libFuzzer under sanitizers:

python -m deploy.fuzz pcm models/cough.pdmu --seconds 60              a minute; what is found lands in the folder of findings
python -m deploy.fuzz pcm models/cough.pdmu --seconds 3600 --keep     an hour, and new inputs that reach new code join the corpus
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.c_export import SOURCES, export_c
from deploy.commands import report_errors
from deploy.firmware import LINK
from deploy.toolchain import STRICT, compile_c
from pdmu.bundle import Bundle, read_bundle
from pdmu.errors import UserError

CORPORA = Path(__file__).resolve().parents[1] / "tests" / "fuzz"
FINDINGS = Path("fuzz-findings")
COMPLAINTS = ("pdmu fuzz:", "runtime error:", "ERROR: ")  # the target's own, of the two sanitizers and of libFuzzer
SANITIZED = ("-O2", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Target:
    """A fuzz target: its sources in an exported folder, the longest input worth trying, bytes, and options of the compiler."""

    sources: tuple[str, ...]
    max_bytes: int
    options: tuple[str, ...] = ()


SMALL_MEMORIES = ("-DPDMU_BOARD_EVENTS=4u", "-DPDMU_BOARD_PCM_SAMPLES=256u")
TARGETS = {
    "pcm": Target(("fuzz/pcm.c", "model_data.c", *SOURCES), 8192),
    "board": Target(("fuzz/board.c", "host/golden.c", "model_data.c", *SOURCES, *LINK), 8192, ("-Ihost", *SMALL_MEMORIES)),
}


def build_fuzzer(bundle: Bundle, target: str, folder: Path) -> Path:
    """Export a bundle into a folder and build one of `TARGETS` there; errors as `compile_fuzzer`."""
    export_c(bundle, folder)
    return compile_fuzzer(target, folder)


def compile_fuzzer(target: str, folder: Path) -> Path:
    """Build one of `TARGETS` in an exported folder.

    Raises
    ------
    UserError
        There is no clang, or it refused.
    """
    out = folder / f"fuzz-{target}"
    made = TARGETS[target]
    compile_c(folder, ["clang", *STRICT, *SANITIZED, *made.options, *made.sources, "-o", str(out)])
    return out


def fuzz(program: Path, target: str, corpus: Path, seconds: int, findings: Path, grown: Path | None = None) -> str:
    """Run a fuzzer; 0 seconds replays the corpus alone.

    Parameters
    ----------
    program : Path
        From `build_fuzzer`.
    target : str
    corpus : Path
        Folder of inputs to begin with; it stays as it is.
    seconds : int
    findings : Path
        Folder for inputs that broke something, and the fuzzer's words on them; made when missing.
    grown : Path, optional
        Folder for new inputs that reached new code; by default they are thrown away.

    Returns
    -------
    str
        The fuzzer's last words: how many inputs, how fast.

    Raises
    ------
    UserError
        An input broke something: what the first complaint was, and where the input is.
    """
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pdmu-fuzz-") as scrap:
        limit = [f"-max_total_time={seconds}"] if seconds else ["-runs=0"]
        options = [*limit, f"-max_len={TARGETS[target].max_bytes}", "-timeout=10", "-print_final_stats=1", f"-artifact_prefix={findings}/"]
        command = [str(program), *options, str(grown or scrap), str(corpus)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        (findings / f"{target}.log").write_text(done.stderr)
        cause = next((line for line in done.stderr.splitlines() if any(word in line for word in COMPLAINTS)), "no complaint")
        raise UserError(f"{target}: {cause.strip()}; the input and {target}.log are in {findings}/")
    return done.stderr


def grow(program: Path, corpus: Path, grown: Path) -> int:
    """Merge into a corpus those inputs of a folder that reach code its own don't; return how many."""
    before = len(list(corpus.iterdir()))
    subprocess.run([str(program), "-merge=1", str(corpus), str(grown)], capture_output=True, check=True)
    return len(list(corpus.iterdir())) - before


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; 0 nothing found, 1 something broke or a tool is missing, 2 wrong usage."""
    described = "Fuzz the C runtime of a bundle, or the line of a board that has it, with libFuzzer."
    parser = argparse.ArgumentParser(prog="python -m deploy.fuzz", description=described)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="how long (default: 60); 0 replays the corpus alone")
    parser.add_argument("--keep", action="store_true", help="add inputs that reach new code to the corpus, tests/fuzz/<target>")
    args = parser.parse_args(arguments)
    if args.seconds < 0:
        parser.error("--seconds must not be negative")
    return report_errors(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    corpus = CORPORA / args.target
    if not corpus.is_dir():
        raise UserError(f"{corpus}: no corpus there; fuzzing is for a checkout")
    with tempfile.TemporaryDirectory(prefix="pdmu-fuzz-") as folder:
        program = build_fuzzer(read_bundle(args.bundle), args.target, Path(folder) / "c")
        grown = Path(folder) / "grown"
        grown.mkdir()
        words = fuzz(program, args.target, corpus, args.seconds, FINDINGS, grown)
        runs = next((line.split()[-1] for line in words.splitlines() if line.startswith("stat::number_of_executed_units")), "?")
        print(f"{args.target}, {args.bundle}: {runs} inputs, nothing broke")
        if args.keep:
            print(f"{corpus}: {grow(program, corpus, grown)} inputs added")
    return 0


if __name__ == "__main__":
    sys.exit(main())
