"""Quantisation: the integer network follows the float one, and refuses what it cannot hold."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from deploy.quantize import calibrate, quantize  # noqa: E402
from pdmu.bundle import Bundle, int_model  # noqa: E402
from pdmu.config import DetectorConfig, FrontendConfig  # noqa: E402
from pdmu.errors import UserError  # noqa: E402
from pdmu.frontend import compress, frontend_init, frontend_step, mel_energies  # noqa: E402
from pdmu.int_model import model_init, model_trace  # noqa: E402
from pdmu.nn.model import PDMUNet  # noqa: E402
from tests.deploy.networks import DECIDING, NETWORKS, golden_features, layer_outputs, make_net, with_weights_of  # noqa: E402
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


def _quantised(name: str) -> tuple[PDMUNet, Bundle]:
    net = make_net(DECIDING[name], seed=1)
    labels = len(net.config.labels)
    return net, quantize(net, [golden_features(net.frontend) / 512], DetectorConfig((16384,) * labels), {"name": name})  # type: ignore[arg-type]


def _law(bundle: Bundle) -> dict[str, np.ndarray]:
    model = int_model(bundle)
    return model_trace(model, model_init(model), golden_features(bundle.frontend))[2]


@pytest.mark.parametrize("name", DECIDING)
def test_the_law_decides_as_the_float_network_of_the_same_weights(name: str) -> None:
    """Activations of 15 bits and potentials of 16 below the threshold: a decision within a rounding of its threshold is rare."""
    _, bundle = _quantised(name)
    law, found = _law(bundle), layer_outputs(with_weights_of(bundle), golden_features(bundle.frontend))
    for i, layer in enumerate(bundle.model.layers):
        if layer.spiking:
            assert 0.02 < law[f"pdmu{i}"].mean() < 0.9, "neurons that never or always fire test nothing"
            assert (law[f"pdmu{i}"] == found[i]).mean() > 0.995
    off = np.abs(law["logits"] / 2048 - found[-1])
    assert np.median(off) < 0.002  # counts of a logit are 2^-11; some steps follow a decision that fell otherwise


@pytest.mark.parametrize("name", DECIDING)
def test_integer_spikes_and_logits_follow_the_float_network(name: str) -> None:
    """Here the int8 weights differ too: a few spikes of a hundred, more in the second layer than in the first."""
    net, bundle = _quantised(name)
    law, found = _law(bundle), layer_outputs(net, golden_features(bundle.frontend))
    for i, layer in enumerate(bundle.model.layers):
        if layer.spiking:
            assert (law[f"pdmu{i}"] == found[i]).mean() > 0.85
    if not any(layer.spiking for layer in bundle.model.layers):
        assert np.abs(law["logits"] / 2048 - found[-1]).mean() < 0.05 * found[-1].std()


def test_neurons_are_clamped_or_refused() -> None:
    net = make_net(DECIDING["spiking"])
    features = [golden_features(net.frontend) / 512]  # type: ignore[arg-type]
    with torch.no_grad():
        net.layers[0].output_neurons.beta[:2] = torch.tensor([1.3, -0.2])  # type: ignore[union-attr,index]
    bundle = quantize(net, features, DetectorConfig((1, 1, 1)), {})
    assert bundle.tensors["pdmu0.beta"][:2].tolist() == [32768, 0]  # type: ignore[index]
    with torch.no_grad():
        net.layers[1].output_neurons.threshold[3] = 0.0  # type: ignore[union-attr,index]
    with pytest.raises(UserError, match="pdmu1 has a threshold of 0.*learn_threshold"):
        quantize(net, features, DetectorConfig((1, 1, 1)), {})
    with torch.no_grad():
        net.layers[1].output_neurons.threshold[3] = 1e-9  # type: ignore[union-attr,index]
    with pytest.raises(UserError, match="pdmu1 has outputs, or a threshold, too small"):
        quantize(net, features, DetectorConfig((1, 1, 1)), {})
