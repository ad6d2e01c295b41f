"""Fixtures of the deployment tests."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def cc() -> str:
    """Return the system's C compiler, or skip."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler 'cc': the C runtime is NOT TESTED HERE; install gcc")
    return "cc"
