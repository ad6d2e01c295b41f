"""A small set of recordings and a recipe that a network learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RECIPE = """
[task]
name = "beeps"
other = "noise"
mapping = { tone = ["tone"], noise = ["*"] }

[data]
background = ["noise/"]
validation_share = 0.25

[frontend]
n_mels = 16

[model]
labels = ["tone"]
head = "sigmoid"

[[model.conv]]
channels = 4
kernel_time = 2
stride_time = 2
stride_mel = 2

[[model.layers]]
hidden = 8
channels = 4
order = 4
theta = 8.0
taps = 2
dilation = 2

[train]
epochs = 4
lr = 0.02
ema_decay = 0.8
segments_per_epoch = 96
batch = 16
segment_s = 0.8
lead_in_s = 0.2
dropout = 0.1

[augment]
speeds = [0.9]
"""


def make_recordings(root: Path, per_class: int = 12, rate: int = 16000) -> Path:
    """Write class folders ``tone`` and ``noise`` of recordings of about half a second, and ``recipe.toml``; return the folder."""
    rng = np.random.default_rng(5)
    for label in ("tone", "noise"):
        (root / label).mkdir(parents=True)
        for i in range(per_class):
            n = int(rate * rng.uniform(0.4, 0.7))
            x = rng.normal(0, 0.003, n)
            if label == "tone":
                x[n // 4 : n // 2] += 0.3 * np.sin(2 * np.pi * rng.uniform(500, 3000) * np.arange(n // 2 - n // 4) / rate)
            else:
                x += rng.normal(0, 0.05, n)
            soundfile.write(root / label / f"{i:02d}.wav", x, rate, subtype="PCM_16")
    (root / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return root
