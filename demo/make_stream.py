"""Build the demonstration recording from the development recordings:  python -m demo.make_stream --root DIR

Everything in it may be redistributed (CC0, CC BY, BSD-3); `ATTRIBUTION.md`, written beside it, names each source. Coughs and words come
from the folds that the data's own suggestion holds out of training. The scene is fixed and nothing is random: the same recordings give
the same file. Spoken words, dogs, a baby and sneezes are there to be left alone.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 16000
FADE_S = 0.02
CROSSFADE_S = 1.0
ENVELOPE_S = 0.025
ACTIVE_DB = 20.0  # a sound lasts while its level is within this of its own loudest moment …
MERGE_GAP_S = 0.3  # … and shorter gaps do not end it
FREE_LICENCES = ("CC0", "CC BY 3.0", "CC BY 4.0", "BSD-3-Clause")
HERE = Path(__file__).parent
STREAM, EVENTS, ATTRIBUTION = HERE / "stream.flac", HERE / "stream.csv", HERE / "ATTRIBUTION.md"

Samples = NDArray[np.float64]


class Background(NamedTuple):
    """A stretch of background; recordings shorter than it are refused."""

    start_s: float
    stop_s: float
    path: str
    rms_dbfs: float


class Sound(NamedTuple):
    """A sound laid over the background, trimmed to where it is audible."""

    start_s: float
    path: str
    label: str
    peak_dbfs: float


class Event(NamedTuple):
    """One line of the event list."""

    onset_s: float
    offset_s: float
    label: str


BACKGROUNDS = (
    Background(0.0, 24.0, "noise/doing_the_dishes.flac", -42.0),
    Background(23.0, 42.0, "noise/running_tap.flac", -40.0),
    Background(41.0, 58.0, "noise/exercise_bike.flac", -42.0),
    Background(57.0, 76.5, "streams_real/spinetail.flac", -30.0),
    Background(75.5, 85.5, "soundscape/S4A03895_20190522_070000.flac", -32.0),
)
SOUNDS = (
    Sound(2.5, "gsc/left/e63b69c5_nohash_0.flac", "speech", -9.0),
    Sound(5.0, "cough_c19/38f14b15-ea11-4303-8540-bce3b9d15b7a.flac", "cough", -6.0),
    Sound(9.0, "esc10/dog/5-203128-A.flac", "dog", -8.0),
    Sound(14.7, "cough_c19/9f9320f1-f287-406b-99d7-0a30e4b49518.flac", "cough", -8.0),
    Sound(17.5, "esc10/sneezing/5-221518-A.flac", "sneezing", -8.0),
    Sound(20.5, "cough_c19/7dff8cd8-4d83-40f2-8e9d-fedbf9c7136f.flac", "cough", -10.0),
    Sound(26.0, "gsc/house/d3831f6a_nohash_0.flac", "speech", -10.0),
    Sound(29.0, "cough_c19/988a5d77-3b49-4dc3-9915-bb26054b9c00.flac", "cough", -14.0),
    Sound(32.0, "esc10/crying_baby/5-198411-F.flac", "crying_baby", -10.0),
    Sound(38.5, "cough_c19/9b049ec9-48b3-4376-ad6d-2948703360d3.flac", "cough", -8.0),
    Sound(44.0, "cough_c19/0d90a487-e965-46ef-9d1e-75863495c060.flac", "cough", -10.0),
    Sound(48.5, "gsc/one/d3831f6a_nohash_0.flac", "speech", -8.0),
    Sound(51.0, "esc10/rooster/5-200334-A.flac", "rooster", -12.0),
    Sound(55.0, "cough_c19/25995059-24c5-41ec-88d0-1a10ea233dc2.flac", "cough", -8.0),
    Sound(79.5, "cough_c19/8195d47e-d290-46b0-b9ed-077e0423c416.flac", "cough", -12.0),
)


def read(root: Path, path: str) -> Samples:
    """Return one development recording, full scale = 1."""
    samples, rate_hz = soundfile.read(root / path, dtype="float64")
    if rate_hz != RATE_HZ or samples.ndim != 1:
        raise SystemExit(f"error: {root / path}: expected mono at {RATE_HZ} Hz")
    return samples


def active_spans(samples: Samples) -> list[tuple[float, float]]:
    """Return the (start, stop) in seconds of the audible stretches of a recording."""
    n = round(ENVELOPE_S * RATE_HZ)
    power = np.mean(samples[: len(samples) // n * n].reshape(-1, n) ** 2, axis=1)
    active = np.flatnonzero(power >= power.max() * 10 ** (-ACTIVE_DB / 10))
    breaks = np.flatnonzero(np.diff(active) * ENVELOPE_S > MERGE_GAP_S)
    starts, stops = active[np.r_[0, breaks + 1]], active[np.r_[breaks, -1]] + 1
    return [(float(a * ENVELOPE_S), float(b * ENVELOPE_S)) for a, b in zip(starts, stops, strict=True)]


def faded(samples: Samples, fade_s: float) -> Samples:
    """Return the samples with a raised-cosine fade at both ends (two of them overlapping add to one)."""
    n = round(fade_s * RATE_HZ)
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / n)
    gain = np.ones(len(samples))
    gain[:n], gain[-n:] = ramp, ramp[::-1]
    return samples * gain


def mix(root: Path) -> tuple[Samples, list[Event]]:
    """Return the scene and its event list."""
    out = np.zeros(round(max(b.stop_s for b in BACKGROUNDS) * RATE_HZ))
    for background in BACKGROUNDS:
        n = round((background.stop_s - background.start_s) * RATE_HZ)
        samples = read(root, background.path)[:n]
        if len(samples) < n:
            raise SystemExit(f"error: {background.path} lasts {len(samples) / RATE_HZ} s, shorter than its place in the scene")
        gain = 10 ** (background.rms_dbfs / 20) / np.sqrt(np.mean(samples**2))
        start = round(background.start_s * RATE_HZ)
        out[start : start + n] += faded(samples * gain, CROSSFADE_S)
    events = []
    for background in BACKGROUNDS:
        labels = (root / background.path).with_suffix(".csv")
        if labels.is_file():
            with labels.open() as file:
                rows = list(csv.DictReader(file))
            shift_s = background.start_s
            events += [Event(shift_s + float(r["onset_s"]), shift_s + float(r["offset_s"]), "bird_" + r["label"].lower()) for r in rows]
    for sound in SOUNDS:
        samples = read(root, sound.path)
        spans = active_spans(samples)
        first = max(0, round((spans[0][0] - 0.05) * RATE_HZ))
        last = min(len(samples), round((spans[-1][1] + 0.15) * RATE_HZ))
        cut = faded(samples[first:last], FADE_S)
        start = round(sound.start_s * RATE_HZ)
        out[start : start + len(cut)] += cut * 10 ** (sound.peak_dbfs / 20) / np.abs(cut).max()
        shift_s = (start - first) / RATE_HZ
        events += [Event(shift_s + a, shift_s + b, sound.label) for a, b in spans]
    return out, sorted(events)


def attribution(root: Path) -> str:
    """Return the text of ATTRIBUTION.md, refusing any source whose licence does not allow redistribution."""
    with (root / "manifest.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    lines = [
        "# What the demonstration recording is made of",
        "",
        "`stream.flac` is a mixture made by `make_stream.py`: the recordings below, trimmed, scaled and laid over one another. Its licence",
        "is CC BY 4.0 for the mixture; the parts keep theirs. Licence texts: https://creativecommons.org/publicdomain/zero/1.0/,",
        "https://creativecommons.org/licenses/by/3.0/, https://creativecommons.org/licenses/by/4.0/; BSD-3-Clause: `LICENSE.scikit-maad`.",
        "Google Speech Commands: Pete Warden, 2018, arXiv 1804.03209. ESC-10: Karol J. Piczak, 2015; its clips' authors are in the table.",
        "",
        "| at, s | sound | source | original file | licence |",
        "|---|---|---|---|---|",
    ]
    parts = [(b.start_s, "background", b.path) for b in BACKGROUNDS] + [(s.start_s, s.label, s.path) for s in SOUNDS]
    for start_s, what, path in sorted(parts):
        row = rows[path]
        if not row["licence"].startswith(FREE_LICENCES):
            raise SystemExit(f"error: {path}: its licence '{row['licence']}' does not allow redistribution here")
        lines.append(f"| {start_s:g} | {what} | {row['source']} | `{row['orig_file']}` | {row['licence']} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the demonstration recording, its event list and its attribution.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the development recordings (with manifest.csv)")
    root = parser.parse_args().root
    text = attribution(root)
    samples, events = mix(root)
    soundfile.write(STREAM, np.round(samples * 32767).clip(-32768, 32767).astype(np.int16), RATE_HZ, subtype="PCM_16")
    with EVENTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Event._fields)
        writer.writerows((f"{e.onset_s:.3f}", f"{e.offset_s:.3f}", e.label) for e in events)
    ATTRIBUTION.write_text(text)
    print(f"{STREAM}: {len(samples) / RATE_HZ:g} s, {STREAM.stat().st_size / 1e6:.2f} MB, {len(events)} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
