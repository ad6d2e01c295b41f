"""Files written whole or not at all: beside their place, flushed to disk, and renamed into it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pdmu.errors import UserError


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> Path:
    """Write a file, making its folder where it is missing; killed at any moment, the old content or the new one is there.

    Parameters
    ----------
    path : Path
    content : bytes
    durable : bool
        Wait until the disk has it; False for what can be made again, where a power cut may leave a damaged file.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UserError
        The folder cannot be made, or the file cannot be written (a full or read-only disk).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; make room, or choose another folder") from None
    return path


def write_text(path: Path, text: str) -> Path:
    """Write text in UTF-8 as `write_bytes` does."""
    return write_bytes(path, text.encode())
