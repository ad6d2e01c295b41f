"""Operations of an integer run: the spikes that are counted are those that the law fired."""

from __future__ import annotations

import pytest

from benchmarks.integer_operations import bundle_operations, integer_rates
from benchmarks.operations import operations
from pdmu.bundle import law_stages
from pdmu.golden import golden_pcm
from tests.deploy.random_bundle import form_bundle


def test_an_analogue_bundle_has_no_synaptic_operations_beyond_its_configurations() -> None:
    bundle = form_bundle("softmax", "pdmu")
    assert bundle_operations(bundle, golden_pcm()) == operations(bundle.model, bundle.frontend.n_mels)[0]


def test_spikes_of_a_run_are_counted() -> None:
    bundle = form_bundle("top1", "spiking inside")
    stages = law_stages(bundle, golden_pcm())
    rates = integer_rates(bundle.model, stages)
    first, c = rates.layers[0], bundle.model.layers[0]
    assert first == pytest.approx((stages["pdmu0"].mean(), (stages["pdmu0.u"] > 0).mean(), stages["pdmu0.r"].mean()))
    assert all(0 < r < 1 for r in first if r is not None)
    # the first layer: reads through W_m, writes through B̄; the second: also the first's spikes through W_u, W_x and W_g; the head
    steps, h, q, reads = len(stages["scores"]), c.hidden, c.channels, c.channels * c.order
    triggered = stages["pdmu0.r"].sum() * h + (stages["pdmu0.u"] > 0).sum() * c.order + stages["pdmu0"].sum() * (q + h + c.taps)
    triggered += stages["pdmu1.r"].sum() * h + (stages["pdmu1.u"] > 0).sum() * c.order + stages["pdmu1"].sum() * len(bundle.labels)
    assert reads == stages["pdmu0.r"].shape[1]
    assert bundle_operations(bundle, golden_pcm()).acs == pytest.approx(triggered / steps)
