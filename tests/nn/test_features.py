"""Compression and losses in torch agree with the numpy tier."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pdmu.config import FrontendConfig  # noqa: E402
from pdmu.frontend import compress, frontend_init, frontend_step, mel_energies  # noqa: E402
from pdmu.metrics import clip_scores  # noqa: E402
from pdmu.nn.features import compress_torch  # noqa: E402
from pdmu.nn.losses import clip_loss, smoothed, step_loss  # noqa: E402


@pytest.mark.parametrize("compression", ["pcen", "log"])
@pytest.mark.parametrize("frames", [0, 1, 63, 64, 65, 400])
def test_compression_equals_numpy(compression: str, frames: int) -> None:
    """In float32 over 14 orders of magnitude; the bound is a tenth of one Q9 count."""
    cfg = FrontendConfig(compression=compression, n_mels=12)  # type: ignore[arg-type]
    energies = 10 ** np.random.default_rng(0).uniform(0, 14, (2, frames, 12))
    energies[:, : frames // 3] = 0
    wanted = np.stack([compress(cfg, e) for e in energies])
    made = compress_torch(cfg, torch.from_numpy(energies.astype(np.float32))).numpy()
    assert made.shape == wanted.shape
    assert np.abs(made - wanted).max(initial=0) < 0.1 / 512


def test_training_features_are_the_integer_front_ends() -> None:
    cfg = FrontendConfig(n_mels=20)
    pcm = np.random.default_rng(3).normal(0, 1500, 32000).astype(np.int16)
    pcm[:9000] //= 100
    _, law = frontend_step(cfg, frontend_init(cfg), pcm)
    made = compress_torch(cfg, torch.from_numpy(mel_energies(cfg, pcm).astype(np.float32))[None])[0].numpy()
    assert np.abs(made - law / 512).max() < 0.02


def test_gradient_of_compression() -> None:
    energies = (10 ** torch.rand(1, 70, 3, dtype=torch.float64) * 5000).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: compress_torch(FrontendConfig(n_mels=3), e), energies, atol=1e-8)


@pytest.mark.parametrize(("head", "pooling"), [("sigmoid", "max"), ("softmax", "max"), ("softmax", "mean_logit")])
def test_clip_loss_pools_as_evaluation_does(head: str, pooling: str) -> None:
    logits = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0.0, 1.0, 0.0]])
    steps = torch.sigmoid(logits) if head == "sigmoid" else torch.softmax(logits, -1)
    pooled = clip_scores((steps[0] * 32768).round().clamp(max=32767).numpy(), {"clip_pooling": pooling})
    each_label, right_label = -np.log([1 - pooled[0], pooled[1], 1 - pooled[2]]).mean(), -np.log(pooled[1])
    wanted = each_label if pooling == "max" else right_label
    assert clip_loss(logits, target, head, pooling).item() == pytest.approx(wanted, abs=2e-3)  # type: ignore[arg-type]


def test_step_loss_leaves_out_undecided_steps() -> None:
    logits, target, weight = torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    logits[0, 2:] = 50.0
    assert step_loss(logits, target, weight, "sigmoid").item() == pytest.approx(np.log(2))
    target[0, :, 0] = 1
    assert step_loss(logits, target, weight, "softmax").item() == pytest.approx(np.log(2))
    assert step_loss(logits, target, 0 * weight, "softmax").item() == 0


def test_smoothing_keeps_distributions() -> None:
    target = torch.eye(4)
    assert smoothed(target, "softmax", 0.1).sum(-1).tolist() == pytest.approx([1.0] * 4)
    assert smoothed(target, "sigmoid", 0.1).unique().tolist() == pytest.approx([0.05, 0.95])
