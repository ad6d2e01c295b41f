"""Golden vectors: the law still gives, stage by stage and to the final state, what it gave when the shipped models were made."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("soundfile")

from deploy.golden import FOLDER, first_difference, golden_digests, main, read_golden  # noqa: E402
from pdmu.bundle import read_bundle  # noqa: E402
from pdmu.errors import UserError  # noqa: E402
from tests.conftest import REPO  # noqa: E402

MODELS = sorted((REPO / "models").glob("*.pdmu"))


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_law_gives_the_golden_vectors(path: Path) -> None:
    bundle = read_bundle(path)
    assert first_difference({"bundle": bundle.sha256, "signals": golden_digests(bundle)}, read_golden(FOLDER / f"{path.stem}.json")) is None


def test_every_shipped_model_has_golden_vectors() -> None:
    assert {p.stem for p in MODELS} == {p.stem for p in FOLDER.glob("*.json")} and MODELS


def test_first_difference_is_named() -> None:
    a = {"bundle": "x", "signals": {"chirp": {"features": "1", "scores": "2"}}}
    assert first_difference(a, a) is None
    assert first_difference(a, a | {"bundle": "y"}) == "made for another bundle: after retraining, write the golden vectors anew"
    assert first_difference(a, a | {"signals": {}}) == "the signals are others"
    assert first_difference(a, a | {"signals": {"chirp": {"features": "1", "scores": "3"}}}) == "'chirp' differs first at 'scores'"


def test_missing_vectors_say_how_to_make_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--write BUNDLE"):
        read_golden(tmp_path / "none.json")
    assert main([str(tmp_path / "none.pdmu")]) == 1
    assert "cannot read the bundle" in capsys.readouterr().err
