"""Quantisation: the integer network follows the float one, and refuses what it cannot hold."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from deploy.quantize import calibrate, quantize  # noqa: E402
from pdmu.bundle import int_model  # noqa: E402
from pdmu.config import DetectorConfig, FrontendConfig  # noqa: E402
from pdmu.errors import UserError  # noqa: E402
from pdmu.frontend import compress, frontend_init, frontend_step, mel_energies  # noqa: E402
from pdmu.int_model import model_init, model_trace  # noqa: E402
from pdmu.nn.model import PDMUNet  # noqa: E402
from tests.deploy.networks import NETWORKS  # noqa: E402
from tests.nn.test_model import _trained_statistics  # noqa: E402


def _pcm() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(0, 800, 48000) * (1 + 8 * (np.arange(48000) // 4000 % 3 == 0))).clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize("name", NETWORKS)
def test_integer_logits_follow_the_float_network(name: str) -> None:
    torch.manual_seed(1)
    net = PDMUNet(NETWORKS[name], FrontendConfig())
    _trained_statistics(net)
    net.eval()
    pcm = _pcm()
    features = compress(net.frontend, mel_energies(net.frontend, pcm))
    bundle = quantize(net, [features], DetectorConfig((16384,) * len(net.config.labels)), {"name": name})
    _, integer = frontend_step(bundle.frontend, frontend_init(bundle.frontend), pcm)
    model = int_model(bundle)
    _, _, trace = model_trace(model, model_init(model), integer)
    with torch.no_grad():
        logits = net(torch.as_tensor(features, dtype=torch.float32)[None])[0].numpy()
    spread = logits.std()
    # int8 weights: 1/127 of a row's peak each, over tens to hundreds of them; 5 % of the logits' spread holds with room
    assert np.abs(trace["logits"] / 2048 - logits).max() < 0.05 * max(spread, 0.5)


def test_activations_have_room_above_the_calibrated_peak() -> None:
    torch.manual_seed(2)
    net = PDMUNet(NETWORKS["residual stack"], FrontendConfig()).eval()
    features = compress(net.frontend, mel_energies(net.frontend, _pcm()))
    ranges = calibrate(net, [features])
    bundle = quantize(net, [features], DetectorConfig((1, 1, 1)), {})
    for name, peak in ranges.items():
        scale = float(bundle.tensors[f"{name}_scale" if "." in name else f"{name}.scale"][0])  # type: ignore[arg-type]
        assert 32767 * scale == pytest.approx(1.25 * peak, rel=1e-3), name


def test_no_calibration_audio_and_diverged_weights_are_refused() -> None:
    net = PDMUNet(NETWORKS["residual stack"], FrontendConfig()).eval()
    for clips in ([], [np.zeros((1, 40), np.float32)]):  # none, and one shorter than a model step
        with pytest.raises(UserError, match="no calibration audio"):
            quantize(net, clips, DetectorConfig((1, 1, 1)), {})
    with torch.no_grad():
        net.head.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"head\.weight.*diverged"):
        quantize(net, [np.zeros((9, 40))], DetectorConfig((1, 1, 1)), {})
