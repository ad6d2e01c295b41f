"""Checkpoints of a training run: written whole or not at all, so a run killed at any moment can go on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pdmu.errors import UserError
from pdmu.files import write_bytes


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary of tensors and plain types with torch, atomically.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    data = io.BytesIO()  # torch reports a full disk as something else than it is
    torch.save(content, data)
    write_bytes(path, data.getvalue())


def load(path: Path, device: torch.device | str = "cpu", needs: Sequence[str] = ()) -> dict[str, Any]:
    """Read what `save` wrote; no code in the file is executed.

    Raises
    ------
    UserError
        The file is missing or damaged, or one of `needs` is not in it.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler stumble in a dozen ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a checkpoint of pdmu-train ({reason}); train again with --fresh") from None
    if not isinstance(content, dict) or not set(needs) <= content.keys():
        raise UserError(f"{path}: not a checkpoint of pdmu-train; train again with --fresh")
    return content
