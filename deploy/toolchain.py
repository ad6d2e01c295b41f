"""Compilers and emulators that other people install: found or asked for, and their complaints passed on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pdmu.errors import UserError

STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Werror")
INCLUDES = ("-I.", "-Iinclude", "-Isrc", "-Iconform", "-Ilink", "-Ifirmware", "-Imachines")
PACKAGES = {  # Debian's, of the tools that are not named as their package
    "cc": "gcc libc6-dev",
    "clang": "clang libclang-rt-14-dev",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "qemu-system-riscv32": "qemu-system-misc",
    "qemu-aarch64-static": "qemu-user-static",
}


def missing(*tools: str) -> list[str]:
    """Return the tools that are not installed."""
    return [tool for tool in tools if shutil.which(tool) is None]


def need(*tools: str) -> None:
    """Raise `UserError`, saying what to install, unless all of the tools are there."""
    for tool in missing(*tools):
        raise UserError(f"{tool} not found; install it (Debian: apt-get install {PACKAGES.get(tool, tool)})")


def compile_c(folder: Path, command: Sequence[str]) -> None:
    """Run a compiler in an exported folder, with its include paths.

    Raises
    ------
    UserError
        There is no such compiler, or it refused: its words.
    """
    need(command[0])
    done = subprocess.run([*command, *INCLUDES], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{command[0]} failed on the exported model:\n{done.stderr.strip()[-2000:]}")
