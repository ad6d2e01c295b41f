"""Recordings of the shipped recipes as sequences: whose labels, which stretch, and no group on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pdmu.config import FrontendConfig
from pdmu.data.audio import read_pcm
from pdmu.data.clips import most_active
from pdmu.data.features import fit, steps
from pdmu.data.recipe import load_recipe
from pdmu.data.sequence_recipe import SequenceDataConfig
from pdmu.data.sequences import load_sequences
from pdmu.errors import UserError
from pdmu.frontend import compress, mel_energies

LABELS = load_recipe("esc10").model.labels


def _noise(path: Path, seconds: float, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)), 16000, subtype="PCM_16")


@pytest.fixture
def esc10(tmp_path: Path) -> Path:
    lines = ["path,label,source,fold_or_group,licence"]
    for i in range(40):
        path = f"esc10/{LABELS[i % 10]}/{i}.wav"
        _noise(tmp_path / path, 0.3, i)
        lines.append(f"{path},{LABELS[i % 10]},ESC-10,fold{i // 10 + 1};rec{i},CC0 1.0")
    _noise(tmp_path / "other/dog/99.wav", 0.3, 99)
    lines.append("other/dog/99.wav,dog,my own,fold1;rec99,CC0 1.0")  # not in the recipe's data.include
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_recipe_says_labels_front_end_and_recordings(esc10: Path, tmp_path: Path) -> None:
    corpus = load_sequences(SequenceDataConfig("esc10", folds=4, options={"seconds": 0.2}), esc10, tmp_path / "cache")
    assert corpus.labels == LABELS and corpus.inputs == 40 and "official fold fold1 of 4" in corpus.split
    assert sorted(corpus.test.group) == sorted(f"rec{i}" for i in range(10)) and (corpus.train.length == 3).all()
    assert len(corpus.train) + len(corpus.validation) == 30 and not set(corpus.train.group) & set(corpus.validation.group)
    frontend = load_recipe("esc10").frontend
    energies = mel_energies(frontend, read_pcm(esc10 / "esc10" / LABELS[0] / "0.wav", 16000)).astype(np.float32)
    expected = compress(frontend, most_active(frontend, energies, 12)).reshape(3, 4, 40).mean(1)
    assert np.allclose(corpus.test.padded(np.array([0]))[0], expected, atol=1e-5)


def test_other_numbers_of_folds_deal_groups(esc10: Path, tmp_path: Path) -> None:
    corpus = load_sequences(SequenceDataConfig("esc10", folds=2, options={"seconds": 0.2}), esc10, tmp_path / "cache")
    assert "whole groups" in corpus.split and not set(corpus.train.group) & set(corpus.test.group)
    with pytest.raises(UserError, match=r"no public test part.*folds=4"):
        load_sequences(SequenceDataConfig("esc10"), esc10, tmp_path / "cache")


def test_equal_files_count_once_and_bad_ones_are_named(esc10: Path, tmp_path: Path) -> None:
    first, second = (esc10 / "esc10" / LABELS[k] / f"{k}.wav" for k in (0, 1))
    second.write_bytes(first.read_bytes())
    config = SequenceDataConfig("esc10", folds=4, options={"seconds": 0.2})
    corpus = load_sequences(config, esc10, tmp_path / "cache")
    assert len(corpus.train) + len(corpus.validation) + len(corpus.test) == 39
    second.write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"1\.wav: unreadable"):
        load_sequences(config, esc10, tmp_path / "cache")
    manifest = esc10 / "manifest.csv"
    manifest.write_text(manifest.read_text() + "esc10/dog/0.wav,,ESC-10,fold1;x,CC0\n")
    with pytest.raises(UserError, match="no path or no label"):
        load_sequences(config, esc10, tmp_path / "cache")


def test_a_manifest_of_other_recordings_is_refused(esc10: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lists nothing that the recipe 'esc10' trains on \(esc10/\)"):
        manifest = esc10 / "manifest.csv"
        manifest.write_text("\n".join(line for line in manifest.read_text().splitlines() if not line.startswith("esc10/")))
        load_sequences(SequenceDataConfig("esc10", folds=4), esc10, tmp_path / "cache")


def test_the_stretch_with_the_sound_is_taken() -> None:
    frontend = FrontendConfig()
    quiet = np.random.default_rng(0).normal(0, 1, (100, 40)) ** 2
    quiet[60:70] += 1e6
    loud = quiet.astype(np.float32)
    chosen = most_active(frontend, loud, 20)
    assert len(chosen) == 20 and np.array_equal(chosen, loud[50:70])  # the first that holds all of it
    assert np.array_equal(most_active(frontend, loud[:10], 20), loud[:10])
    padded = fit(loud[:10], 12)
    assert padded.shape == (12, 40) and not padded[10:].any() and np.array_equal(fit(loud, 12), loud[:12])


def test_a_recording_shorter_than_a_step_is_one_step() -> None:
    energies = np.ones((3, 40), np.float32)
    assert steps(FrontendConfig(), energies, average=4).shape == (1, 40) and steps(FrontendConfig(), energies, average=2).shape == (1, 40)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("esc10", {"second": 2.0}, "did you mean 'seconds'"),
        ("esc10", {"seconds": 0.01}, "less than a step"),
        ("esc10", {"average": 0.0}, "average at least 1"),
    ],
)
def test_options_that_cannot_be(esc10: Path, tmp_path: Path, data: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_sequences(SequenceDataConfig(data, folds=4, options=options), esc10, tmp_path / "cache")


def _thinned(data_dir: Path, root: Path, every: int) -> Path:
    """Return a folder with every n-th line of the manifest, and the real recordings."""
    lines = (data_dir / "manifest.csv").read_text(encoding="utf-8").splitlines()
    (root / "manifest.csv").write_text("\n".join([lines[0], *lines[1::every]]), encoding="utf-8")
    for folder in data_dir.iterdir():
        if folder.is_dir():
            (root / folder.name).symlink_to(folder)
    return root


@pytest.mark.parametrize(("name", "every", "classes", "length"), [("cough", 12, 2, 31), ("birds", 9, 4, 78), ("esc10", 2, 10, 78)])
def test_real_recordings(name: str, every: int, classes: int, length: int, data_dir: Path, tmp_path: Path) -> None:
    root = _thinned(data_dir, tmp_path, every)
    seen = set()
    for fold in (0, 1):
        corpus = load_sequences(SequenceDataConfig(name, folds=4, fold=fold), root, tmp_path / "cache")
        parts = (corpus.train, corpus.validation, corpus.test)
        assert len(corpus.labels) == classes and corpus.inputs == 40 and all((p.length == length).all() for p in parts)
        groups = [set(p.group.tolist()) for p in parts]
        assert sum(map(len, groups)) == len(set.union(*groups)) and all(groups)
        assert not seen & groups[2]
        seen |= groups[2]
    assert ("official" in corpus.split) == (name == "esc10")


def test_real_birds_alone(data_dir: Path, tmp_path: Path) -> None:
    root = _thinned(data_dir, tmp_path, 3)
    corpus = load_sequences(SequenceDataConfig("birds", folds=3, validation="sequences", options={"other": 0}), root, tmp_path / "cache")
    assert (
        corpus.labels == ("common_rock_thrush", "european_crested_tit", "red_rumped_swallow")
        and 25 < len(corpus.train) + len(corpus.test) < 45
    )
    with pytest.raises(UserError, match="leaves one class"):
        load_sequences(SequenceDataConfig("cough", folds=3, options={"other": 0}), root, tmp_path / "cache")
