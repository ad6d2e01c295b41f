"""Fixtures of the deployment tests."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from tests.deploy.boards import LONG_NAME, PCM, Built, built, eventful_bundle


@pytest.fixture(scope="session")
def cc() -> str:
    """Return the system's C compiler, or skip."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler 'cc': the C runtime is NOT TESTED HERE; install gcc")
    return "cc"


@pytest.fixture(scope="session")
def board(cc: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return a board on this machine, with many events."""
    bundle = eventful_bundle(13, PCM)
    return built(replace(bundle, info=bundle.info | {"name": LONG_NAME}), tmp_path_factory.mktemp("board"))
