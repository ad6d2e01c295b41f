"""Whatever a bundle's file holds, reading it gives a bundle that runs or one clear error, in little time and memory.

The SHA-256 refuses what was damaged on the way; here files are altered and then signed anew, as a careless or hostile program would, so
that everything behind it is tried.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploy.c_export import check_limits, generated_texts
from pdmu import bundle as bundle_module
from pdmu.bundle import Bundle, law_stages, read_bundle, self_test, write_bundle
from pdmu.config import FrontendConfig, ModelConfig, from_dict
from pdmu.detector import Detector
from pdmu.errors import UserError
from pdmu.golden import golden_pcm
from pdmu.tables import contract_hash
from tests.deploy.random_bundle import form_bundle
from tests.helpers import tiny_bundle

SECTIONS = ("frontend", "model", "detector", "info", "golden")
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**30]), st.floats(), st.text(max_size=20),
    st.just([]), st.just({}), st.lists(st.integers(-2, 70_000), max_size=4),
)  # fmt: skip
PICK = st.integers(0, 2**32 - 1)


NO_DEADLINE = settings(deadline=None)  # the first example that runs makes tables


class File:
    """A bundle's file in parts."""

    def __init__(self, raw: bytes) -> None:
        length = int.from_bytes(raw[:8], "little")
        self.tensors: dict[str, Any] = json.loads(raw[8 : 8 + length])
        self.meta: dict[str, Any] = self.tensors.pop("__metadata__")
        self.meta.pop("sha256")
        self.contract = self.meta["contract"]
        for section in SECTIONS:
            self.meta[section] = json.loads(self.meta[section])
        self.body = raw[8 + length :]

    def signed(self) -> bytes:
        """Return the file with a contract, where its configuration has one, and a SHA-256 that fit what it holds."""
        with contextlib.suppress(UserError, KeyError):
            frontend, model = from_dict(FrontendConfig, self.meta["frontend"], ""), from_dict(ModelConfig, self.meta["model"], "")
            if self.meta["contract"] == self.contract:
                self.meta["contract"] = contract_hash(frontend, model)
        meta = {key: json.dumps(value) if key in SECTIONS else value for key, value in self.meta.items()}
        digest = "0" * 64
        with contextlib.suppress(ValueError):  # of infinity nobody has a digest
            digest = bundle_module._digest(meta, self.tensors, self.body)
        head = {"__metadata__": meta | {"sha256": digest}} | self.tensors
        raw = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
        return len(raw).to_bytes(8, "little") + raw + self.body


def originals() -> list[bytes]:
    """Return small valid files, of a convolutional network with two layers, of a spiking one and of the smallest."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pdmu"
        raws = []
        for bundle in (form_bundle("softmax", "pdmu"), form_bundle("top1", "spiking inside"), tiny_bundle(path)):
            write_bundle(path, bundle)
            raws.append(path.read_bytes())
        return raws


ORIGINALS = originals()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            found += places(value[key])
    return found


def read(raw: bytes) -> Bundle | None:
    """Read a file; None where it was refused with one line that names it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.pdmu"
        path.write_bytes(raw)
        try:
            return read_bundle(path)
        except UserError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            return None


def use(bundle: Bundle | None) -> None:
    """Run an accepted bundle: the law's sums must hold, with the detector's."""
    if bundle is None:
        return
    with np.errstate(all="raise"):
        scores = law_stages(bundle, golden_pcm()[:3000])["scores"]
    assert scores.shape[1:] == (len(bundle.labels),)
    assert scores.min(initial=0) >= 0
    detector = Detector(bundle.detector, bundle.labels, bundle.samples_per_step)
    detector.finish(detector.step(detector.init(), scores)[0])
    with contextlib.suppress(UserError):  # of a bundle that lies about its answers, or is too large for C
        self_test(bundle)
    with contextlib.suppress(UserError):
        check_limits(bundle)
        assert "".join(generated_texts(bundle).values()).encode()


@NO_DEADLINE
@given(st.binary(max_size=400))
@example(b"\xff" * 8 + b"{")
@example((2).to_bytes(8, "little") + b"{}")
def test_any_bytes(raw: bytes) -> None:
    assert read(raw) is None


@NO_DEADLINE
@given(st.sampled_from(ORIGINALS), PICK, st.binary(max_size=30))
def test_a_header_with_other_bytes_in_it(raw: bytes, at: int, noise: bytes) -> None:
    length = int.from_bytes(raw[:8], "little")
    at = 8 + at % length
    altered = raw[:at] + noise + raw[at + len(noise) :]
    assert altered == raw or read(altered) is None


@NO_DEADLINE
@given(st.sampled_from(ORIGINALS), PICK, VALUES)
def test_a_signed_file_with_another_value(raw: bytes, which: int, value: Any) -> None:
    file = File(raw)
    container, key = (found := places(file.meta) + places(file.tensors))[which % len(found)]
    container[key] = value
    use(read(file.signed()))


@NO_DEADLINE
@given(st.sampled_from(ORIGINALS), PICK)
def test_a_signed_file_without_something(raw: bytes, which: int) -> None:
    file = File(raw)
    container, key = (found := places(file.meta) + places(file.tensors))[which % len(found)]
    del container[key]
    use(read(file.signed()))


@NO_DEADLINE
@given(st.sampled_from(ORIGINALS), st.lists(st.tuples(PICK, st.integers(0, 255)), min_size=1, max_size=20))
def test_a_signed_file_with_other_weights(raw: bytes, changes: list[tuple[int, int]]) -> None:
    file = File(raw)
    body = bytearray(file.body)
    for at, byte in changes:
        body[at % len(body)] = byte
    file.body = bytes(body)
    use(read(file.signed()))


@NO_DEADLINE
@given(st.sampled_from(ORIGINALS), st.integers(-40, 40))
def test_a_signed_file_with_a_longer_or_shorter_body(raw: bytes, change: int) -> None:
    file = File(raw)
    file.body = file.body[:change] if change < 0 else file.body + bytes(change)
    use(read(file.signed()))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("contract",), None),
        (("frontend", "sample_rate_hz"), 2**40),
        (("detector", "smooth_steps"), 2**40),
        (("detector", "max_steps"), 10**30),
        (("detector", "reject_labels"), ["a\nb"]),
        (("model", "layers", 0, "dilation"), 2**40),
        (("model", "labels", 0), "a\nb"),
        (("info",), []),
        (("info", "version"), "\ud800"),
        (("golden", "scores"), []),
        (("golden", "scores", 3), [1]),
        (("golden", "stages"), None),
    ],
)
def test_what_once_got_through_is_refused(keys: tuple[str | int, ...], value: Any) -> None:
    file = File(ORIGINALS[0])
    *path, last = keys
    container: Any = file.meta
    for key in path:
        container = container[key]
    container[last] = value
    assert read(file.signed()) is None


def test_a_header_nested_too_deeply_is_refused() -> None:
    header = b'{"a":' + b"[" * 100_000
    assert read(len(header).to_bytes(8, "little") + header) is None
