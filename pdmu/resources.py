"""Where the data that travels with the package lies: in a checkout, or inside an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pdmu.errors import UserError


def resource_dir(name: Literal["datasets", "models"]) -> Path:
    """Return the folder of the data-set cards and recipes (`datasets`), or of the shipped models (`models`).

    Raises
    ------
    UserError
        The folder is in neither place: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / f"_{name}", package.parent / name):
        if folder.is_dir():
            return folder
    raise UserError(f"{name}: not found beside the package at {package}; install the package again")
