"""Data-set cards: where recordings come from, under which terms, and how many there are (``datasets/cards/*.toml``)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from pdmu.config import from_dict
from pdmu.resources import resource_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class DataSetCard:
    """One data set.

    Counts and ``sha256`` are of what the project has seen. A data set that it has not had at hand gives what its source says, and the
    checksums that are published with it, if any.
    """

    title: str
    source: str  # where it was fetched, or is to be
    commit: str  # of the source; empty where it has none
    citation: str  # whom to name
    licence: str
    use: str  # what the licence lets a trained model be used for
    files: int
    bytes: int  # of all files
    official_splits: str
    group: str  # what is never split between training and validation
    labels: dict[str, int]  # recordings or sequences of each; empty where the source gives no counts
    prefix: str = ""  # of its paths in the manifest; empty where it comes in files of its own
    manifest_source: str = ""  # how its entries in the manifest's column `source` begin
    seconds: int = 0  # of sound
    sha256: str = ""  # of the lines "SHA-256, two spaces, path", sorted by path; empty where the project has not had it at hand
    checksums: dict[str, str] = field(default_factory=dict)  # file → "md5:…" or "sha256:…", as its source publishes them
    get: str = ""  # how to get it and where to put it

    def holds(self, path: str, source: str) -> bool:
        """Return whether a recording with this path and source in its manifest is of this data set."""
        return bool(self.prefix) and path.startswith(self.prefix) and source.startswith(self.manifest_source)


def data_set_cards() -> dict[str, DataSetCard]:
    """Return the cards by name.

    Raises
    ------
    UserError
        The cards are not there: the installation is incomplete.
    """
    paths = sorted((resource_dir("datasets") / "cards").glob("*.toml"))
    return {p.stem: from_dict(DataSetCard, tomllib.loads(p.read_text(encoding="utf-8")), p.name) for p in paths}
