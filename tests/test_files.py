"""Files are written whole or not at all, and a disk that takes none is one clear error."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from pdmu.errors import UserError
from pdmu.files import write_bytes, write_text


@pytest.mark.parametrize("durable", [True, False])
def test_written_and_replaced_with_nothing_beside_it(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    for content in (b"first", b"second, longer"):
        assert write_bytes(path, content, durable=durable) == path
        assert path.read_bytes() == content
    assert write_text(path, "ĀB̄\n").read_text(encoding="utf-8") == "ĀB̄\n"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_disk_that_ends_leaves_the_old_content(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.bin", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # what a write beyond gets is an error, as on a full disk
    try:
        with pytest.raises(UserError, match=r"a\.bin: cannot be written: .*make room"):
            write_bytes(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_no_folder_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        write_text(tmp_path / "file" / "folder" / "a.txt", "x")
