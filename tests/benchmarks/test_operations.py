"""Operation counts against what can be counted by hand, and spike rates against spikes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.operations import Counts, Rates, layer_operations, operations, spike_rates
from pdmu.config import FAMILIES, ConvConfig, ModelConfig, PDMUConfig
from pdmu.errors import UserError
from pdmu.nn.model import PDMUNet

N, H, Q, D, TAPS = 3, 10, 2, 4, 5
NONE = (None, None, None)
DENSE = N * Q + N * H + Q * D * D + Q * D + Q * D * H  # W_u, W_x, Ā, B̄, W_m


def layer(family: str, **changes: Any) -> PDMUConfig:
    sizes: dict[str, Any] = {"hidden": H, "channels": Q, "order": D, "theta": 9.0, "taps": TAPS, "dilation": 2}
    return PDMUConfig(**(sizes | FAMILIES[family] | changes))


@pytest.mark.parametrize(
    ("family", "macs", "acs", "reads", "writes"),
    [
        ("lstm", 4 * H * (N + H) + 3 * H, 0, 0, 0),
        ("gru", 3 * H * (N + H) + 3 * H, 0, 0, 0),
        ("lmu", DENSE, 0, 0, 0),
        ("pdmu-uniform", DENSE + TAPS * H, 0, TAPS * H, H),
        ("pdmu", DENSE + N * TAPS + TAPS * H, 0, TAPS * H, H),
        ("epdmu", DENSE + N * TAPS + H, 0, H, H),
        ("epdmu-st", DENSE + N * TAPS, H, H, H),
        ("bi-pdmu", 2 * (DENSE + N * TAPS + TAPS * H), 0, 2 * TAPS * H, 2 * H),
    ],
)
def test_dense_layers(family: str, macs: int, acs: int, reads: int, writes: int) -> None:
    assert layer_operations(layer(family), N, None, NONE) == Counts(macs, acs, reads, writes)


def test_hidden_spikes_leave_the_memory_dense_and_drive_the_next_layer() -> None:
    own = layer_operations(layer("sdmu"), N, None, (0.25, None, None))
    assert own == Counts(DENSE + N * TAPS + TAPS * H + H, 0, TAPS * H, H)
    above = layer_operations(layer("pdmu"), H, 0.25, NONE)
    assert above.acs == 0.25 * H * (Q + H + TAPS)  # W_u, W_x, W_g
    assert above.macs == Q * D * D + Q * D + Q * D * H + TAPS * H


def test_every_product_of_a_fully_spiking_layer_but_the_memorys_is_driven_by_spikes() -> None:
    found = layer_operations(layer("sdmu-full"), N, 0.5, (0.1, 0.2, 0.3))
    assert found.acs == pytest.approx(0.5 * N * (Q + H + TAPS) + 0.2 * Q * D + 0.3 * Q * D * H)
    assert found.macs == Q * D * D + TAPS * Q * D + Q + Q * D + H  # Ā, the delayed memory, and a β per neuron
    assert found.delay_reads == TAPS * Q * D


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"gate_input": "xu"}, Q * TAPS),
        ({"gate_input": "xm"}, Q * D * TAPS),
        ({"gate_per_channel": True}, (Q - 1) * N * TAPS + TAPS * (Q * D - H)),
    ],
)
def test_gates_that_see_or_do_more(changes: dict[str, Any], more: int) -> None:
    plain, other = (layer_operations(layer("pdmu", **c), N, None, NONE).macs for c in ({}, changes))
    assert other - plain == more


def test_the_head_counts_where_it_is_read_every_step() -> None:
    net = ModelConfig(("a", "b"), layers=(layer("pdmu"),))
    assert operations(net, N)[0].macs - layer_operations(layer("pdmu"), N, None, NONE).macs == operations(net, N)[1].macs == 2 * H
    last = ModelConfig(("a", "b"), layers=(layer("sdmu"),), readout="last")
    step, head = operations(last, N, Rates(None, ((0.5, None, None),)))
    assert head == Counts(acs=0.5 * 2 * H) and step.acs == 0


def test_convolutions_count_their_outputs_of_a_model_step() -> None:
    conv = (ConvConfig(4, stride_time=2, stride_mel=2), ConvConfig(4, depthwise=True))
    net = ModelConfig(("a",), conv=conv, layers=(layer("lmu"),))
    dense = operations(net, 8)[0].macs - layer_operations(layer("lmu"), 16, None, NONE).macs - H
    assert dense == 4 * 4 * 9 + 4 * 4 * 9  # 4 bins, 4 channels, 3 x 3, one input channel each


def test_energy_is_the_sum_of_both_kinds() -> None:
    assert Counts(macs=1000, acs=1000).energy_nj == pytest.approx(5.5)


def test_spikes_without_rates_are_refused() -> None:
    with pytest.raises(UserError, match="spike rates"):
        operations(ModelConfig(("a",), layers=(layer("sdmu"),)), N)


def test_rates_are_the_mean_of_the_spikes_of_valid_steps() -> None:
    torch.manual_seed(1)
    net = PDMUNet(ModelConfig(("a",), layers=(layer("sdmu-full"), layer("sdmu")), readout="last"), N)
    x, lengths = 3 * torch.randn(2, 20, N), torch.tensor([20, 12])
    found = spike_rates(net, x, lengths, inputs_spike=False)
    with torch.no_grad():
        first: Any = net.layers[0]
        spikes, _ = first(x, first.init_state(2, x))
    inside = torch.cat([spikes[0], spikes[1, :12]])
    assert found.layers[0][0] == pytest.approx(float(inside.mean())) and found.inputs is None
    assert all(r is not None for r in found.layers[0]) and found.layers[1][1:] == (None, None)
    assert operations(net.config, N, found)[0].acs > 0
