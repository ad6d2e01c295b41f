"""The fuzz targets hold on the corpora kept, for every kind of layer, and find a mistake that is put in."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.c_export import export_c
from deploy.fuzz import CORPORA, TARGETS, compile_fuzzer, fuzz, grow
from deploy.toolchain import missing
from pdmu.bundle import Bundle, read_bundle
from pdmu.errors import UserError
from tests.conftest import REPO
from tests.deploy.boards import PCM, eventful_bundle
from tests.deploy.random_bundle import form_bundle


def compiled(folder: Path, target: str = "pcm") -> Path:
    if missing("clang"):
        pytest.skip("no 'clang': the C runtime is NOT FUZZED HERE")
    try:
        return compile_fuzzer(target, folder)
    except UserError as error:
        if "libclang_rt" in str(error):
            pytest.skip("clang has no libFuzzer (Debian: libclang-rt-14-dev): the C runtime is NOT FUZZED HERE")
        raise


def built(bundle: Bundle, folder: Path) -> Path:
    export_c(bundle, folder)
    return compiled(folder)


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(read_bundle(REPO / "models" / "cough.pdmu"), id="cough"),
        pytest.param(form_bundle("softmax", "spiking inside"), id="spiking"),
        pytest.param(form_bundle("top1", "pdmu"), id="routed"),
    ],
)
def test_no_input_of_the_corpus_breaks_the_runtime(bundle: Bundle, tmp_path: Path) -> None:
    words = fuzz(built(bundle, tmp_path / "c"), "pcm", CORPORA / "pcm", 0, tmp_path / "findings")
    assert f"stat::number_of_executed_units: {1 + len(list((CORPORA / 'pcm').iterdir()))}" in words, "one is the empty input"
    assert list((tmp_path / "findings").iterdir()) == []


def test_a_stream_that_depends_on_its_chunks_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_c(form_bundle("softmax", "pdmu"), tmp_path / "c")
    source = tmp_path / "c" / "src" / "process.c"
    right = source.read_text()
    wrong = right.replace(
        "counters[PDMU_COUNT_HISTORY] = fill;", "counters[PDMU_COUNT_HISTORY] = fill == fe->window - 1 ? fill - 1 : fill;"
    )
    assert wrong != right
    source.write_text(wrong)
    program = compiled(tmp_path / "c")
    with pytest.raises(UserError, match="^pcm: pdmu fuzz: .* the chunks; the input and pcm.log are in "):
        fuzz(program, "pcm", CORPORA / "pcm", 0, tmp_path / "findings")
    assert len(list((tmp_path / "findings").glob("crash-*"))) == 1


def board_export(folder: Path) -> Path:
    """Export a bundle in which the golden signal, a board's clip, has many events."""
    export_c(eventful_bundle(13, PCM), folder)
    return folder


def test_no_input_of_the_corpus_breaks_a_board(tmp_path: Path) -> None:
    program = compiled(board_export(tmp_path / "c"), "board")
    words = fuzz(program, "board", CORPORA / "board", 0, tmp_path / "findings")
    assert f"stat::number_of_executed_units: {1 + len(list((CORPORA / 'board').iterdir()))}" in words, "one is the empty input"
    fuzz(program, "board", CORPORA / "board", 5, tmp_path / "findings")
    assert list((tmp_path / "findings").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "complaint"),
    [
        ("board_events.c", "board->oldest_seq == PDMU_BOARD_EVENTS", "board->oldest_seq > PDMU_BOARD_EVENTS", "more events kept"),
        ("board_requests.c", " && samples <= board_pcm_free(board)", "", "more samples taken"),
        ("board_events.c", "!board->boot || board->send_seq", "board->send_seq", "an event before HELLO"),
        ("pdmu_frame.c", "(deframer->size < PDMU_FRAME_CODE)", "(deframer->size <= PDMU_FRAME_CODE)", "out of bounds"),
    ],
)
def test_mistakes_in_a_board_are_found(name: str, right: str, wrong: str, complaint: str, tmp_path: Path) -> None:
    source = board_export(tmp_path / "c") / "link" / name
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    with pytest.raises(UserError, match=complaint):
        fuzz(compiled(tmp_path / "c", "board"), "board", CORPORA / "board", 0, tmp_path / "findings")


def test_inputs_that_reach_new_code_join_the_corpus(tmp_path: Path) -> None:
    program = built(form_bundle("softmax", "pdmu"), tmp_path / "c")
    for name in ("corpus", "grown"):
        (tmp_path / name).mkdir()
    (tmp_path / "grown" / "noise").write_bytes((CORPORA / "pcm" / "noise").read_bytes())
    (tmp_path / "grown" / "same").write_bytes((CORPORA / "pcm" / "noise").read_bytes())
    assert grow(program, tmp_path / "corpus", tmp_path / "grown") == 1


def test_corpora_are_there_and_no_longer_than_tried() -> None:
    for name, target in TARGETS.items():
        inputs = list((CORPORA / name).iterdir())
        assert inputs and max(path.stat().st_size for path in inputs) <= target.max_bytes
