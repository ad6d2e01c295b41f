"""Microphones: the recorder program is ALSA's where a test machine has no sound card, a script that behaves like it stands in."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_agent import alsa
from edge_agent.alsa import AlsaSource, list_devices
from pdmu.errors import UserError


def recorder(folder: Path, body: str) -> str:
    path = folder / "arecord"
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return str(path)


def test_missing_recorder_is_named_with_the_way_out() -> None:
    with pytest.raises(UserError, match="'no-such-arecord' is not installed.*alsa-utils"):
        AlsaSource("default", 16000, 1, 16000, arecord="no-such-arecord")
    with pytest.raises(UserError, match="not installed"):
        list_devices("no-such-arecord")


def test_recorder_that_ends_is_started_again_and_the_gap_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alsa, "RETRY_S", (0.01,))
    pcm = np.arange(512, dtype="<i2")
    (tmp_path / "pcm").write_bytes(pcm.tobytes())
    program = recorder(tmp_path, f'cat {tmp_path}/pcm; echo "arecord: pcm_read:2221: read error: No such device" >&2; exit 1\n')
    stop = threading.Event()
    source = AlsaSource("plughw:CARD=Mic", 16000, 1, 16000, stop=stop, arecord=program)
    got, gaps, troubles = [], 0, set()
    for block in source.blocks():
        got.append(block.pcm)
        gaps += block.n_gaps
        troubles.add(source.trouble)
        if sum(map(len, got)) >= 3 * 512:
            stop.set()
    assert (np.concatenate(got)[: 3 * 512] == np.tile(pcm, 3)).all()
    assert gaps == 2
    assert "arecord: pcm_read:2221: read error: No such device" in troubles


def test_hanging_recorder_is_noticed_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = recorder(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600\n")
    source = AlsaSource("default", 16000, 1, 16000, arecord=program)
    with pytest.raises(UserError, match="no audio for 0 s"):
        source.once(wait_s=0.3)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_recorder_that_closes_its_output_and_lingers_is_killed(tmp_path: Path) -> None:
    program = recorder(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600 >&-\n")
    with pytest.raises(UserError, match="ended without a word"):
        AlsaSource("default", 16000, 1, 16000, arecord=program).once()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_check_repeats_what_the_recorder_said(tmp_path: Path) -> None:
    program = recorder(tmp_path, 'echo "arecord: main:831: audio open error: Device or resource busy" >&2; exit 1\n')
    with pytest.raises(UserError, match="Device or resource busy"):
        AlsaSource("hw:0", 16000, 1, 16000, arecord=program).once()


def test_devices_are_named_by_card_name(tmp_path: Path) -> None:
    listing = "**** List ****\ncard 2: Device [USB PnP Sound Device], device 0: USB Audio [USB Audio]\n  Subdevices: 1/1\n"
    (tmp_path / "l").write_text(listing)
    (device,) = list_devices(recorder(tmp_path, f"cat {tmp_path}/l\n"))
    assert device.name == "plughw:CARD=Device,DEV=0"
    assert "USB PnP Sound Device" in device.description


def test_real_recorder_and_the_null_device() -> None:
    import shutil

    if shutil.which("arecord") is None:
        pytest.skip("arecord is not installed: the real ALSA program is not tested")
    assert len(AlsaSource("null", 16000, 1, 16000).once().pcm) > 0
