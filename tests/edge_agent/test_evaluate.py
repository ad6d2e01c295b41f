"""`pdmu-eval` on recordings whose right answers are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

from edge_agent.evaluate import main
from tests.helpers import scene, tiny_bundle


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = ["path,label,source"]
    for i in range(4):
        sf.write(tmp_path / f"loud{i}.flac", scene([(1, 1.6)], 2, seed=i), 16000)
        sf.write(tmp_path / f"quiet{i}.flac", scene([], 2, seed=i), 8000 if i else 16000)
        rows += [f"loud{i}.flac,{'coughing' if i else 'cough'},A", f"quiet{i}.flac,rain,B"]
    sf.write(tmp_path / "loud_negative.flac", scene([(0.5, 1.5)], 2), 16000)
    sf.write(tmp_path / "stream.flac", scene([(1, 1.5), (3, 3.4), (5, 5.5)], 36), 16000)
    (tmp_path / "stream.csv").write_text("onset_s,offset_s,label\n1.0,1.5,coughing\n3.0,3.4,cough\n9.0,9.5,cough\n5.0,5.2,dog\n")
    (tmp_path / "broken.flac").write_text("no audio")
    rows += ["loud_negative.flac,dog,B", "stream.flac,annotated_stream,C", "broken.flac,cough,A", "none.flac,rain,B"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "m.csv"


def evaluate(capsys: pytest.CaptureFixture[str], bundle: Path, manifest: Path, *more: str) -> tuple[dict[str, Any], str]:
    status = main(["--bundle", str(bundle), "--manifest", str(manifest), "--root", str(manifest.parent), "--json", *more])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out), captured.err


def test_clip_and_stream_measures(capsys: pytest.CaptureFixture[str], bundle_path: Path, manifest: Path) -> None:
    result, err = evaluate(capsys, bundle_path, manifest)
    cough = result["clips"]["labels"]["cough"]
    assert list(result["clips"]["labels"]) == ["cough"]
    assert (cough["positives"], cough["negatives"], cough["recall"]) == (4, 5, 1.0)
    assert cough["false_alarm_rate"] == pytest.approx(0.2)
    assert 0.8 <= cough["auc"] <= 1.0
    assert cough["by_source"]["A"] == {"positives": 4, "recall": 1.0, "negatives": 0, "false_alarm_rate": None}
    assert cough["by_source"]["B"]["false_alarm_rate"] == pytest.approx(0.2)
    assert result["clips"]["accuracy"] == pytest.approx(8 / 9)
    assert result["clips"]["confusion"] == {"labels": ["cough", "other"], "rows_true_columns_predicted": [[4, 0], [1, 4]]}
    stream = result["streams"]["labels"]["cough"]
    assert (stream["hits"], stream["misses"], stream["false_alarms"]) == (2, 1, 1)
    assert stream["false_alarms_per_hour"] == pytest.approx(100)
    assert [u["path"] for u in result["unreadable"]] == ["broken.flac", "none.flac"]
    assert len(err.splitlines()) == 2


def test_clips_file_has_a_row_for_each_recording(capsys: pytest.CaptureFixture[str], bundle_path: Path, manifest: Path) -> None:
    out = manifest.parent / "clips.csv"
    evaluate(capsys, bundle_path, manifest, "--clips", str(out))
    rows = list(csv.reader(out.open()))
    assert rows[0] == ["path", "label", "cough", "other"]
    assert len(rows) == 1 + 9
    assert rows[1][:2] == ["loud0.flac", "cough"]
    assert float(rows[1][2]) > 0.9 > float(rows[2][2])


def test_labels_the_bundle_lacks_are_negatives_and_not_classified_without_other(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, manifest: Path
) -> None:
    tiny_bundle(tmp_path / "two.pdmu", labels=("cough", "dog"))
    result, _ = evaluate(capsys, tmp_path / "two.pdmu", manifest)
    assert result["clips"]["labels"]["cough"]["negatives"] == 5
    assert result["clips"]["classified"] == 5  # the coughs and the dog, not the rain


def test_threshold_and_tolerance_from_the_command_line(capsys: pytest.CaptureFixture[str], bundle_path: Path, manifest: Path) -> None:
    result, _ = evaluate(capsys, bundle_path, manifest, "--threshold", "cough=0.9", "--onset-tolerance", "0.01")
    assert result["clips"]["labels"]["cough"]["threshold"] == pytest.approx(0.9, abs=1e-4)
    assert result["streams"]["labels"]["cough"]["hits"] == 0


def test_text_report(capsys: pytest.CaptureFixture[str], bundle_path: Path, manifest: Path) -> None:
    assert main(["--bundle", str(bundle_path), "--manifest", str(manifest)]) == 0
    out = capsys.readouterr().out
    assert "9 clips" in out
    by_source = [line.split() for line in out.splitlines() if line.startswith("  A ") or line.startswith("  B ")]
    assert by_source == [["A", "recall", "1.000", "of", "4"], ["B", "false", "0.200", "of", "5"]]
    assert "1 streams, 36 s, onset tolerance 0.2 s" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,b\n", "no column path"),
        ("path,label\n", "has no rows"),
        ("path,label\n,cough\n", "line 2 has no path"),
        ("path,label\nnone.wav,cough\n", "none of its 1 recordings could be read"),
    ],
)
def test_bad_manifests(capsys: pytest.CaptureFixture[str], bundle_path: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    assert main(["--bundle", str(bundle_path), "--manifest", str(tmp_path / "bad.csv")]) == 1
    assert message in capsys.readouterr().err


def test_bad_event_list_is_listed_as_unreadable(capsys: pytest.CaptureFixture[str], bundle_path: Path, manifest: Path) -> None:
    (manifest.parent / "stream.csv").write_text("start,end\n1,2\n")
    result, _ = evaluate(capsys, bundle_path, manifest)
    assert "stream.flac" in [u["path"] for u in result["unreadable"]]
    assert result["streams"] is None


def test_numpy_and_real_recordings(capsys: pytest.CaptureFixture[str], bundle_path: Path, data_dir: Path, tmp_path: Path) -> None:
    with (data_dir / "manifest.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    few = [r for r in rows if r["path"].startswith("cough_etiquette")][:5] + [r for r in rows if r["path"].startswith("streams_real")]
    with (tmp_path / "m.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(few)
    assert main(["--bundle", str(bundle_path), "--manifest", str(tmp_path / "m.csv"), "--root", str(data_dir), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["clips"]["n"], result["streams"]["n"], result["unreadable"]) == (5, 1, [])


def test_what_cannot_succeed_is_said_before_listening(capsys: pytest.CaptureFixture[str], bundle_path: Path, manifest: Path) -> None:
    (manifest.parent / "stream.csv").unlink()
    for options, message in (
        (["--clips", "no/such/clips.csv"], "there is no folder no/such"),
        (["--onset-tolerance", "nan"], "must be 0 or more"),
        (["--manifest", "none.csv"], "none.csv: cannot read the manifest: No such file"),
    ):
        assert main(["--bundle", str(bundle_path), "--manifest", str(manifest), *options]) == 1
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1
        assert message in err
    _, err = evaluate(capsys, bundle_path, manifest)
    assert "stream.csv: the stream's event list cannot be read: No such file" in err


def test_short_recordings_are_judged_by_their_own_steps_alone(
    capsys: pytest.CaptureFixture[str], bundle_path: Path, tmp_path: Path
) -> None:
    sf.write(tmp_path / "short.wav", scene([(0, 0.128)], 0.128), 16000)  # four loud steps; silence after them would halve their mean
    sf.write(tmp_path / "none.wav", scene([(0, 0.03)], 0.03), 16000)
    (tmp_path / "m.csv").write_text("path,label\nshort.wav,cough\nnone.wav,cough\n")
    result, err = evaluate(capsys, bundle_path, tmp_path / "m.csv", "--clips", str(tmp_path / "clips.csv"))
    assert result["clips"]["n"] == 1
    assert float((tmp_path / "clips.csv").read_text().splitlines()[1].split(",")[2]) > 0.75
    assert "none.wav: shorter than one model step (32 ms)" in err
