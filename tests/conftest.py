"""Fixtures everyone uses, and a loud word about what this machine cannot test."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: on networks as small as the tests' more threads only wait for each other

import shutil  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

REPO = Path(__file__).resolve().parents[1]
SYSTEM_PROGRAMS = {
    "mosquitto": "delivery to a real MQTT broker",
    "cc": "the C runtime against the integer law",
    "arecord": "the real ALSA recorder",
}
settings.register_profile("fuzz", max_examples=10 * int(os.environ.get("FUZZ_SECONDS", 60)))  # make fuzz: about so long for each test


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of development recordings, or skip."""
    folder = Path(os.environ.get("PDMU_DATA") or REPO.parent / "shared" / "data")
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no development recordings: {folder}/manifest.csv does not exist; set PDMU_DATA to their folder")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the system programs that are missing, and what went untested for it."""
    # Debian keeps mosquitto in sbin, which is not on an ordinary user's PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    for program, tested in SYSTEM_PROGRAMS.items():
        if shutil.which(program, path=path) is None:
            terminalreporter.write_line(f"NOT TESTED HERE: {tested}, because {program} is not installed", red=True, bold=True)
