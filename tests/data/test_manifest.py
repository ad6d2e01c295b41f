"""Manifests: the CSV format, folders of class folders, and rows that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdmu.data.manifest import read_manifest
from pdmu.errors import UserError


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_separates_fold_and_group(tmp_path: Path) -> None:
    text = "path,label,fold_or_group,licence\na/1.wav,dog,fold1;fs7,CC0\na/2.wav,cat,speaker3,CC BY 4.0\nb/3.wav,cat,,\n"
    rows, rejected = read_manifest(_csv(tmp_path, text), tmp_path)
    assert [(r.path, r.label, r.fold, r.group) for r in rows] == [
        ("a/1.wav", "dog", "fold1", "fs7"),
        ("a/2.wav", "cat", "", "speaker3"),
        ("b/3.wav", "cat", "", "b/3.wav"),  # a row without a group is its own
    ]
    assert rows[0].licence == "CC0"
    assert rejected == []


def test_bad_rows_are_listed_and_the_others_kept(tmp_path: Path) -> None:
    text = "path,label\ndog/1.wav,dog\ncat/1.wav,cat\ncat/2.wav,dog\ndog/1.wav,dog\n,dog\ndog/4.wav,\n"
    rows, rejected = read_manifest(_csv(tmp_path, text), tmp_path)
    assert [r.path for r in rows] == ["dog/1.wav", "cat/1.wav"]
    reasons = {(r.path, r.reason.split(":")[0]) for r in rejected}
    assert ("cat/2.wav", "mislabelled") in reasons
    assert ("dog/1.wav", "listed more than once") in reasons
    assert len(rejected) == 4


def test_folders_are_labels(tmp_path: Path) -> None:
    for name in ("frog/a.wav", "frog/deep/b.FLAC", "owl/c.ogg", "loose.wav", "owl/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "owl" / "folder.wav").mkdir()
    rows, rejected = read_manifest(None, tmp_path)
    assert [(r.path, "no class folder" in r.reason) for r in rejected] == [("loose.wav", True)]
    assert [(r.path, r.label) for r in rows] == [("frog/a.wav", "frog"), ("frog/deep/b.FLAC", "deep"), ("owl/c.ogg", "owl")]


@pytest.mark.parametrize(
    ("text", "says"), [("file,label\nx,y\n", "no column 'path'"), ("path,label\n", "lists no recordings"), ("", "no column 'path'")]
)
def test_unusable_manifests_are_one_clear_error(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_manifest(_csv(tmp_path, text), tmp_path)


def test_missing_files_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--manifest"):
        read_manifest(tmp_path / "none.csv", tmp_path)
    with pytest.raises(UserError, match="--root"):
        read_manifest(None, tmp_path / "none")
    with pytest.raises(UserError, match="no audio in class folders"):
        read_manifest(None, tmp_path)


def test_binary_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"path,label\n\xff\xfe\x00,x\n")
    with pytest.raises(UserError, match="not a CSV file"):
        read_manifest(path, tmp_path)
