"""`pdmu-agent`'s other commands: formats, pictures, errors, exit status."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from edge_agent.cli import main
from tests.edge_agent.conftest import Broker, agent_process, agent_toml
from tests.helpers import scene


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "a b.wav"
    sf.write(path, scene([(1.0, 1.5), (3.0, 3.4)], 5), 16000)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_analyze_json(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path) -> None:
    status, out, err = run(capsys, "analyze", wav, "--bundle", bundle_path, "--json", "--scores", "--self-test")
    lines = [json.loads(line) for line in out.splitlines()]
    events = [x for x in lines if x["type"] == "detection"]
    assert (status, err) == (0, "")
    assert [e["t_start_s"] for e in events] == [1.024, 3.04]
    assert {(e["label"], e["file"], e["model"]["name"]) for e in events} == {("cough", str(wav), "tiny")}
    scores = [x for x in lines if x["type"] == "scores"]
    assert len(scores) == 5 * 16000 // 512
    assert scores[40]["t_start_s"] == 1.28
    assert scores[40]["scores"]["cough"] > 0.99


def test_analyze_csv_and_raven(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path) -> None:
    _, out, _ = run(capsys, "analyze", wav, "--bundle", bundle_path, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["onset_s"], r["label"], r["file"]) for r in rows] == [("1.024", "cough", str(wav)), ("3.040", "cough", str(wav))]
    _, out, _ = run(capsys, "analyze", wav, "--bundle", bundle_path, "--format", "raven")
    rows = list(csv.DictReader(io.StringIO(out), delimiter="\t"))
    assert [(r["Selection"], r["View"], r["Begin Time (s)"], r["Label"]) for r in rows] == [
        ("1", "Spectrogram 1", "1.024", "cough"), ("2", "Spectrogram 1", "3.040", "cough"),
    ]  # fmt: skip


def test_analyze_table_two_bundles_and_threshold(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path) -> None:
    status, out, _ = run(capsys, "analyze", wav, "--bundle", bundle_path, "--bundle", bundle_path, "--threshold", "cough=0.9")
    assert status == 0
    assert len(out.splitlines()) == 1 + 4
    assert out.count(" cough ") == 4
    assert out.count("0:01.05") == 2  # a step later than with the bundle's own threshold


def test_analyze_goes_on_after_bad_files(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("not audio")
    status, out, err = run(capsys, "analyze", tmp_path / "bad.wav", tmp_path / "none.wav", wav, "--bundle", bundle_path, "--json")
    assert status == 1
    assert len(out.splitlines()) == 2
    assert len(err.splitlines()) == 2
    assert all(line.startswith("error: ") for line in err.splitlines())


def test_warnings_about_the_audio(capsys: pytest.CaptureFixture[str], bundle_path: Path, tmp_path: Path) -> None:
    loud = np.zeros((96000 * 2, 2), np.float32)
    loud[:200] = 1.0  # 400 of 384000 samples; as a part of 16 kHz samples it would look like more
    sf.write(tmp_path / "loud.wav", loud, 96000, subtype="FLOAT")
    sf.write(tmp_path / "short.wav", np.zeros(511, np.int16), 16000)
    status, _, err = run(capsys, "analyze", tmp_path / "loud.wav", tmp_path / "short.wav", "--bundle", bundle_path)
    assert status == 0
    assert err.splitlines() == [
        f"warning: {tmp_path}/loud.wav: 400 of 384000 samples are clipped; turn the recording level down",
        f"warning: {tmp_path}/short.wav: shorter than one 32 ms step of tiny: nothing could be heard in it",
    ]
    loud[150:] = 0
    sf.write(tmp_path / "loud.wav", loud, 96000, subtype="FLOAT")
    assert run(capsys, "analyze", tmp_path / "loud.wav", "--bundle", bundle_path)[2] == ""


def test_picture(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path, tmp_path: Path) -> None:
    from matplotlib import image

    status, _, err = run(capsys, "analyze", wav, "--bundle", bundle_path, "--picture", tmp_path / "p.png")
    assert status == 0, err
    picture = image.imread(tmp_path / "p.png")
    assert min(picture.shape[:2]) > 200
    assert picture[..., :3].std() > 0.1  # there is something on it
    status, _, err = run(capsys, "analyze", wav, wav, "--bundle", bundle_path, "--picture", tmp_path / "p.png")
    assert status == 1
    assert "one FILE" in err
    status, _, err = run(capsys, "analyze", wav, "--bundle", bundle_path, "--picture", tmp_path / "no" / "p.png")
    assert status == 1
    assert "the picture cannot be written" in err


def test_damaged_bundle_is_refused(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path, tmp_path: Path) -> None:
    raw = bytearray(bundle_path.read_bytes())
    raw[-20] ^= 1
    (tmp_path / "x.pdmu").write_bytes(raw)
    status, _, err = run(capsys, "analyze", wav, "--bundle", tmp_path / "x.pdmu")
    assert status == 1
    assert err.startswith(f"error: {tmp_path / 'x.pdmu'}: content does not match its SHA-256")


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["analyze"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main(["analyze", "--help"])
    assert caught.value.code == 0


def test_unknown_label_in_threshold(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path) -> None:
    for item, message in (("cuogh=0.5", "no bundle has this label; there are cough, other"), ("cough", "expected LABEL=VALUE")):
        status, _, err = run(capsys, "analyze", wav, "--bundle", bundle_path, "--threshold", item)
        assert status == 1
        assert message in err


def stages(out: str) -> dict[str, str]:
    return {s["name"]: s["status"] for s in map(json.loads, out.splitlines())}


def test_check_passes_every_stage(capsys: pytest.CaptureFixture[str], wav: Path, bundle_path: Path, tmp_path: Path, broker: Broker) -> None:
    config = agent_toml(tmp_path, broker.port, bundle_path, f'type = "file"\npath = "{wav}"')
    status, out, _ = run(capsys, "check", "--config", config, "--json")
    assert status == 0
    assert stages(out) == {"config": "ok", "outbox": "ok", "DNS": "ok", "TCP": "ok", "TLS": "skipped", "login": "ok", "publish": "ok",
                           "source rec": "ok", "model": "ok", "self-test tiny.pdmu": "ok"}  # fmt: skip
    assert ", licence CC0-1.0; step 32 ms" in out


def test_check_goes_on_past_failures_and_skips_what_depends_on_them(
    capsys: pytest.CaptureFixture[str], bundle_path: Path, tmp_path: Path
) -> None:
    config = agent_toml(tmp_path, 1, bundle_path, 'type = "file"\npath = "none.wav"')
    status, out, _ = run(capsys, "check", "--config", config, "--json")
    assert status == 1
    assert stages(out) == {"config": "ok", "outbox": "ok", "DNS": "ok", "TCP": "failed", "TLS": "skipped", "login": "skipped",
                           "publish": "skipped", "source rec": "failed", "model": "ok", "self-test tiny.pdmu": "ok"}  # fmt: skip
    status, out, _ = run(capsys, "check", "--config", tmp_path / "none.toml")
    assert status == 1
    assert out.startswith("failed   config")


def test_run_without_model_or_source_says_what_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[agent]\nnode = 'n'\n")
    status, _, err = run(capsys, "run", "--config", tmp_path / "a.toml")
    assert status == 1
    assert "no source is configured" in err
    (tmp_path / "a.toml").write_text("[[source]]\ntype = 'stdin'\n")
    status, _, err = run(capsys, "run", "--config", tmp_path / "a.toml")
    assert status == 1
    assert "no model is configured" in err


def test_outbox_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from edge_agent.outbox import Outbox, message

    where = ["--set", f"agent.state_dir={tmp_path}"]
    assert run(capsys, "outbox", "status", *where)[0] == 1
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put([message("detection", "t", {"n": 1}), message("health", "h", {})])
    outbox.close()
    status, out, _ = run(capsys, "outbox", "status", "--json", *where)
    assert status == 0
    assert json.loads(out) == json.loads(out) | {"messages": 2, "detections": 1, "dropped": 0}
    status, _, err = run(capsys, "outbox", "purge", *where)
    assert status == 1
    assert "add --yes" in err
    status, out, _ = run(capsys, "outbox", "flush", "--json", "--timeout", "0", "--set", "mqtt.port=1", *where)
    assert (status, json.loads(out)) == (1, {"delivered": 0, "waiting": 2})
    assert run(capsys, "outbox", "purge", "--yes", "--json", *where)[1] == '{"deleted": 2}\n'
    assert run(capsys, "outbox", "purge", "--yes", *where)[1] == "0 messages deleted\n"


def test_config_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run(capsys, "config", "show", "--effective", "--set", "mqtt.host=h.local")
    assert status == 0
    assert 'host = "h.local"' in out


def test_output_that_cannot_be_written_is_one_error_and_a_reader_that_leaves_none(wav: Path, bundle_path: Path) -> None:
    arguments = ("analyze", wav, "--bundle", bundle_path, "--json", "--scores", "--backend", "numpy")
    with Path("/dev/full").open("w") as full:
        process = agent_process(*arguments, stdout=full)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "error: the output cannot be written: No space left on device\n")
    process = agent_process(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
