"""Bundles: what was written is read, and nothing that changed on the way is accepted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdmu import bundle as bundle_module
from pdmu import tables
from pdmu.bundle import Bundle, int_model, read_bundle, self_test, write_bundle
from pdmu.config import FrontendConfig, LIFConfig, ModelConfig, PDMUConfig, to_dict
from pdmu.errors import UserError
from pdmu.frontend import frontend_init, frontend_step
from pdmu.int_model import model_init, model_step
from tests.deploy.random_bundle import form_bundle, random_bundle
from tests.helpers import tiny_bundle


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Bundle]:
    path = tmp_path / "m.pdmu"
    return path, write_bundle(path, replace(random_bundle(2), info={"name": "m", "licence": "CC0-1.0"}))


def test_round_trip(written: tuple[Path, Bundle]) -> None:
    path, bundle = written
    again = read_bundle(path)
    assert again.sha256 == bundle.sha256 and again.info == bundle.info and again.golden == bundle.golden
    assert to_dict(again.model) == to_dict(bundle.model) and to_dict(again.frontend) == to_dict(bundle.frontend)
    assert all(np.array_equal(again.tensors[n], t) and again.tensors[n].dtype == t.dtype for n, t in bundle.tensors.items())
    self_test(again)


def test_safetensors_reads_the_same_tensors(written: tuple[Path, Bundle]) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path, bundle = written
    theirs = safetensors.load_file(path)
    assert theirs.keys() == bundle.tensors.keys()
    assert all(np.array_equal(theirs[n], t) for n, t in bundle.tensors.items())


def test_every_altered_bit_is_noticed(written: tuple[Path, Bundle]) -> None:
    path, _ = written
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(raw[:8], "little")
    bits = np.concatenate([np.arange(64), rng.integers(64, header * 8, 400), rng.integers(header * 8, len(raw) * 8, 200)])
    for bit in bits:
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=str(path)):
            read_bundle(path)


@pytest.mark.parametrize("keep", [0, 1, 8, 9, 100, -1])
def test_truncated_bundles_are_refused(written: tuple[Path, Bundle], keep: int) -> None:
    path, _ = written
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="truncated|SHA-256|damaged|not a model bundle"):
        read_bundle(path)


def test_appended_bytes_are_refused(written: tuple[Path, Bundle]) -> None:
    path, _ = written
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="SHA-256"):
        read_bundle(path)


def test_another_format_version_is_named(written: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    path, bundle = written
    monkeypatch.setattr(bundle_module, "FORMAT", "pdmu.bundle/2")
    write_bundle(path, bundle)
    monkeypatch.undo()
    with pytest.raises(UserError, match="'pdmu.bundle/2', this program reads 'pdmu.bundle/1'"):
        read_bundle(path)


def test_another_contract_is_named(written: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    path, bundle = written
    monkeypatch.setattr(tables, "CONTRACT", "pdmu.contract/0")
    write_bundle(path, bundle)
    monkeypatch.undo()
    with pytest.raises(UserError, match="made under contract"):
        read_bundle(path)


def test_missing_file_and_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_bundle(tmp_path / "none.pdmu")
    (tmp_path / "wav.pdmu").write_bytes(b"RIFF" + bytes(200))
    with pytest.raises(UserError, match="not a model bundle"):
        read_bundle(tmp_path / "wav.pdmu")


def test_failed_write_leaves_the_old_bundle(written: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    path, bundle = written
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="No space left"):
        write_bundle(path, replace(bundle, info={"name": "new"}))
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_self_test_names_what_differs(written: tuple[Path, Bundle]) -> None:
    _, bundle = written
    network = int_model(bundle)

    def run(pcm: np.ndarray) -> np.ndarray:
        _, features = frontend_step(bundle.frontend, frontend_init(bundle.frontend), pcm)
        return model_step(network, model_init(network), features)[1]

    def off_by_one(pcm: np.ndarray) -> np.ndarray:
        scores = run(pcm)
        scores[5] = np.where(scores[5] > 0, scores[5] - 1, 1)
        return scores

    self_test(bundle, run)
    self_test(bundle, off_by_one, tolerance_q15=1)
    with pytest.raises(UserError, match="step 5 differs by 1 "):
        self_test(bundle, off_by_one)
    with pytest.raises(UserError, match="score vectors"):
        self_test(bundle, lambda pcm: run(pcm)[:-1])
    altered = dict(bundle.tensors)
    altered["head.bias"] = altered["head.bias"] + np.int32(5000)
    with pytest.raises(UserError, match="stage 'logits'"):
        self_test(replace(bundle, tensors=altered))


@pytest.mark.parametrize("cell", ["pdmu", "spiking"])
def test_a_tolerance_holds_at_half_of_the_steps_where_a_network_decides(cell: str) -> None:
    bundle = form_bundle("softmax", cell)
    promised = np.array(bundle.golden["scores"], np.int16)

    def from_step(first: int) -> np.ndarray:
        return np.where(np.arange(len(promised))[:, None] >= first, 32767 - promised, promised)

    few, most = from_step(len(promised) - 5), from_step(5)
    with pytest.raises(UserError, match="step 5 differs"):
        self_test(bundle, lambda _: most, tolerance_q15=100)
    with pytest.raises(UserError, match=f"step {len(promised) - 5} differs"):
        self_test(bundle, lambda _: few)
    if cell == "spiking":
        self_test(bundle, lambda _: few, tolerance_q15=100)
    else:
        with pytest.raises(UserError, match=f"step {len(promised) - 5} differs"):
            self_test(bundle, lambda _: few, tolerance_q15=100)


def test_thresholds_and_reject_labels_must_fit(tmp_path: Path) -> None:
    bundle = random_bundle(4)
    with pytest.raises(UserError, match="thresholds for"):
        write_bundle(tmp_path / "a", replace(bundle, detector=replace(bundle.detector, threshold_q15=(5,) * 9)))
    with pytest.raises(UserError, match="reject label 'nobody'"):
        write_bundle(tmp_path / "a", replace(bundle, detector=replace(bundle.detector, reject_labels=("nobody",))))


def test_a_model_outside_the_integer_law_is_no_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "a.pdmu")
    layer = replace(bundle.model.layers[0], gate="sigmoid")
    with pytest.raises(UserError, match='its gate is "sigmoid"'):
        write_bundle(tmp_path / "b.pdmu", replace(bundle, model=replace(bundle.model, layers=(layer,))))
    assert not (tmp_path / "b.pdmu").exists()


def test_settings_of_training_do_not_change_the_contract(tmp_path: Path) -> None:
    """What the law does not read may get new settings without parting programs from bundles."""
    model = tiny_bundle(tmp_path / "a.pdmu").model
    layer = replace(model.layers[0], gumbel_temperature=(2.0, 0.5))
    assert replace(model, layers=(layer,)).law() == model.law()
    assert set(model.law()["layers"][0]) == {"hidden", "channels", "order", "theta", "taps", "dilation", "gate", "residual"}
    spiking = replace(model.layers[0], cell="spiking", residual=False)
    assert replace(spiking, lif=LIFConfig(beta=0.5, learn_beta=False)).law() == spiking.law()
    assert set(spiking.law()) - set(model.law()["layers"][0]) == {"cell", "spikes", "lif"}


@pytest.mark.parametrize("change", [{"gate": "top1"}, {"cell": "spiking"}, {"cell": "spiking", "spikes": "all"}])
def test_every_form_has_its_own_contract_and_returns_from_a_file(tmp_path: Path, change: dict[str, str]) -> None:
    frontend = FrontendConfig()
    layers = [PDMUConfig(5, 2, 3), PDMUConfig(5, 2, 3, **change)]  # type: ignore[arg-type]
    if "cell" in change:
        layers.append(replace(layers[1], lif=LIFConfig(reset="zero")))
    bundles = [random_bundle(1, frontend, ModelConfig(("a",), (), (layer,))) for layer in layers]
    assert len({b.contract for b in bundles}) == len(layers)
    for bundle in bundles:
        write_bundle(tmp_path / "form.pdmu", bundle)
        again = read_bundle(tmp_path / "form.pdmu")
        assert again.contract == bundle.contract
        self_test(again)
