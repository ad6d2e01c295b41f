"""Data-set cards: where recordings come from, under which terms, and how many there are (``datasets/cards/*.toml``)."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from pdmu.config import from_dict
from pdmu.resources import resource_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class DataSetCard:
    """One data set."""

    title: str
    source: str  # where it was fetched
    commit: str
    citation: str  # whom to name
    licence: str
    use: str  # what the licence lets a trained model be used for
    prefix: str  # of its paths in the manifest
    manifest_source: str  # how its entries in the manifest's column `source` begin
    files: int
    bytes: int
    seconds: int
    sha256: str  # of the lines "SHA-256, two spaces, path", sorted by path
    official_splits: str
    group: str  # what is never split between training and validation
    labels: dict[str, int]  # recordings of each

    def holds(self, path: str, source: str) -> bool:
        """Return whether a recording with this path and source in its manifest is of this data set."""
        return path.startswith(self.prefix) and source.startswith(self.manifest_source)


def data_set_cards() -> dict[str, DataSetCard]:
    """Return the cards by name.

    Raises
    ------
    UserError
        The cards are not there: the installation is incomplete.
    """
    paths = sorted((resource_dir("datasets") / "cards").glob("*.toml"))
    return {p.stem: from_dict(DataSetCard, tomllib.loads(p.read_text(encoding="utf-8")), p.name) for p in paths}
