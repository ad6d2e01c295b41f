"""Settings: unknown keys offer the nearest name, wrong values say where."""

from __future__ import annotations

import pytest

from pdmu.config import ConvConfig, DetectorConfig, FrontendConfig, ModelConfig, PDMUConfig, from_dict, to_dict
from pdmu.errors import UserError
from pdmu.tables import contract_hash

MODEL = ModelConfig(
    ("a", "b"), (ConvConfig(8, 4, 5, 2, 2), ConvConfig(8, depthwise=True)), (PDMUConfig(32, theta=12), PDMUConfig(32, residual=True))
)


@pytest.mark.parametrize("config", [FrontendConfig(), MODEL, DetectorConfig((5, 6), reject_labels=("b",))])
def test_round_trip(config: object) -> None:
    assert from_dict(type(config), to_dict(config), "x") == config


def test_whole_and_float_numbers_have_one_contract() -> None:
    again = from_dict(ModelConfig, to_dict(MODEL), "x")
    assert contract_hash(FrontendConfig(), MODEL) == contract_hash(FrontendConfig(), again)
    assert contract_hash(FrontendConfig(), MODEL) != contract_hash(FrontendConfig(floor=4095), MODEL)


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (FrontendConfig, {"n_mel": 40}, r"cfg: unknown key 'n_mel'; did you mean 'n_mels'\?"),
        (FrontendConfig, {"n_mels": "40"}, r"cfg\.n_mels: expected int, found '40'"),
        (FrontendConfig, {"n_mels": True}, "expected int"),
        (FrontendConfig, {"compression": "mfcc"}, "'mfcc' is not one of 'pcen', 'log'"),
        (FrontendConfig, {"window_samples": 500}, "power of two"),
        (FrontendConfig, {"f_max_hz": 9000.0}, "f_min_hz < f_max_hz"),
        (ModelConfig, {"labels": ["a"], "layers": [{"hiden": 3}]}, r"cfg\.layers\[0\]: unknown key 'hiden'; did you mean 'hidden'\?"),
        (ModelConfig, {"labels": ["a"], "layers": [{}]}, "'hidden' is missing"),
        (ModelConfig, {"labels": ["a", "a"], "layers": [{"hidden": 3}]}, "each once"),
        (ModelConfig, {"labels": "ab", "layers": [{"hidden": 3}]}, "expected a list"),
        (DetectorConfig, {"threshold_q15": [0]}, "1 to 32767"),
        (DetectorConfig, 5, "expected a table"),
        (FrontendConfig, {"f_min_hz": float("nan")}, r"cfg\.f_min_hz: nan is no setting"),
        (PDMUConfig, {"hidden": 4, "theta": float("inf")}, "inf is no setting"),
    ],
)
def test_bad_settings_say_what_where_and_the_way_out(cls: type, data: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(cls, data, "cfg")


def test_shapes_follow_the_configuration() -> None:
    assert MODEL.frames_per_step == 2
    assert MODEL.conv_shapes(41) == [(41, 1), (21, 8), (21, 8)]
    assert MODEL.layer_inputs(41) == [168, 32, 32]
    with pytest.raises(UserError, match="depthwise convolution has 9 channels over 1"):
        ModelConfig(("a",), (ConvConfig(9, depthwise=True),), (PDMUConfig(4),)).conv_shapes(10)
    with pytest.raises(UserError, match="layer 0 is residual: it needs 4 inputs and has 10"):
        ModelConfig(("a",), (), (PDMUConfig(4, residual=True),)).layer_inputs(10)
