"""Which recordings there are: a CSV manifest or a folder of class folders, read into :class:`Row` objects."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from pdmu.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".aiff", ".aif", ".mp3")


@dataclass(frozen=True)
class Row:
    """One recording as its manifest describes it."""

    path: str  # relative to the root, with forward slashes
    label: str
    group: str  # never split between training and validation
    fold: str = ""  # the data set's official fold, where it has one
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Rejected:
    """A recording left out, and why."""

    path: str
    reason: str


def read_manifest(manifest: Path | None, root: Path) -> tuple[list[Row], list[Rejected]]:
    """Return the recordings of a CSV manifest, or of a folder of class folders where `manifest` is None.

    Parameters
    ----------
    manifest : Path or None
        CSV with the columns ``path``, ``label`` and optionally ``group`` (or ``fold_or_group``), ``source``, ``licence``. A group written
        ``fold1;fs100032`` is an official fold and a group. A row without a group is its own group.
    root : Path
        Folder the paths are relative to.

    Returns
    -------
    rows : list of Row
    rejected : list of Rejected
        Rows that cannot be used: no path or label, listed twice, lying in the folder of another label or in no class folder.

    Raises
    ------
    UserError
        The manifest or the folder is missing, empty or lacks a column.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of the recordings with --root")
    rows = _scan_folder(root) if manifest is None else _read_csv(manifest)
    kept: list[Row] = []
    rejected: list[Rejected] = []
    labels = {r.label for r in rows}
    seen: set[str] = set()
    for row in rows:
        folder = Path(row.path).parent.name
        if not row.path or not row.label:
            rejected.append(Rejected(row.path or "(no path)", "no path or no label in the manifest, or in no class folder"))
        elif row.path in seen:
            rejected.append(Rejected(row.path, "listed more than once"))
        elif folder in labels and folder != row.label:
            rejected.append(Rejected(row.path, f"mislabelled: labelled '{row.label}' but lies in the folder '{folder}'"))
        else:
            kept.append(row)
        seen.add(row.path)
    return kept, rejected


def _read_csv(manifest: Path) -> list[Row]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            missing = [c for c in ("path", "label") if c not in columns]
            if missing:
                raise UserError(f"{manifest}: no column '{missing[0]}'; the first line must name path,label[,group,source,licence]")
            rows = [_row({k: (line[k] or "").strip() for k in columns}) for line in reader]
    except OSError as error:
        raise UserError(f"{manifest}: {error.strerror or error}; give a CSV manifest with --manifest") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{manifest}: not a CSV file in UTF-8 ({error})") from None
    if not rows:
        raise UserError(f"{manifest}: lists no recordings")
    return rows


def _row(line: dict[str, str]) -> Row:
    unit = line.get("group") or line.get("fold_or_group") or ""
    fold, _, group = unit.rpartition(";")
    path = line["path"].replace("\\", "/")
    return Row(path, line["label"], group or path, fold, line.get("source", ""), line.get("licence", ""))


def _scan_folder(root: Path) -> list[Row]:
    """Take each folder's name as the label of the audio files directly in it; files in no such folder get none."""
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    paths = [(p.relative_to(root).as_posix(), p.parent.name if p.parent != root else "") for p in files]
    rows = [Row(path, label, path) for path, label in paths]
    if not any(r.label for r in rows):
        raise UserError(f"{root}: no audio in class folders (…/LABEL/FILE.wav); give a CSV with --manifest")
    return rows
