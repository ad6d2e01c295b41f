"""The spiking DMU of MODEL.md section 5: a PDMU layer whose outputs are spikes, trained over whole sequences, stepped one at a time.

    spikes = "hidden":   s[k] = LIF(norm(W_m vec(m̃[k]) + W_x x[k] + b_h)),        the memory stays analogue
    spikes = "all":      s[k] = LIF(norm(W_m LIF(vec(m̃[k])) + W_x x[k] + b_h)),   u[k] = LIF(W_u x[k] + b_u) is what the memory takes

In the second form the read neurons stand between the delay gate and W_m, so the delay line holds the memory. Given its currents a neuron's
spikes are exactly the law's (:mod:`spiking.lif`) in any form; the currents of whole sequences and of steps are the same sums in another
order (:mod:`pdmu.nn.scan`), so a spike can differ between the two where a potential is within rounding of the threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pdmu.config import LIFConfig, PDMUConfig
from pdmu.nn.delay_gate import DelayState, RouteState
from pdmu.nn.layer import LayerState, PDMULayer
from pdmu.nn.scan import memory_at, memory_parallel, memory_step
from pdmu.tables import lmu_matrices
from spiking.lif import LIFState, lif_step
from spiking.parallel import lif_parallel


class SpikingState(NamedTuple):
    """State of a spiking DMU layer."""

    memory: Tensor  # [B, q, d]
    delay: DelayState | RouteState
    neurons: tuple[LIFState, ...]  # of the outputs [B, H]; with spikes = "all" also of the writes [B, q] and of the reads [B, q·d]


class LIF(nn.Module):
    """A row of leaky integrate-and-fire neurons, each with its own decay and threshold.

    Parameters
    ----------
    config : LIFConfig
        Start values, and which of them are trained; the others are buffers.
    size : int
        Number of neurons.
    """

    beta: Tensor  # [size]; the law clamps it to 0 … 1
    threshold: Tensor  # [size]

    def __init__(self, config: LIFConfig, size: int) -> None:
        super().__init__()
        self.config = config
        for name, learn in (("beta", config.learn_beta), ("threshold", config.learn_threshold)):
            value = torch.full((size,), float(getattr(config, name)))
            if learn:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def init_state(self, batch: int, like: Tensor) -> LIFState:
        """Neurons at rest."""
        return LIFState(like.new_zeros(batch, len(self.beta)))

    def forward(self, current: Tensor, state: LIFState) -> tuple[Tensor, LIFState]:
        """All steps, ``[B, T, size]`` currents → spikes."""
        return lif_parallel(current, self.beta, state, self.threshold, self.config.reset)

    def step(self, current: Tensor, state: LIFState) -> tuple[Tensor, LIFState]:
        """One instant, ``[B, size]``."""
        after, spikes = lif_step(state, current, self.beta, self.threshold, self.config.reset)
        return spikes, after


class SpikingDMULayer(PDMULayer):
    """One spiking DMU layer, ``[B, T, N_x] → [B, T, H]`` of zeros and ones; every gate of `PDMUConfig`.

    Parameters
    ----------
    config : PDMUConfig
        With ``cell = "spiking"``; `spikes` names the form and `lif` the neurons.
    n_inputs : int
        N_x.
    """

    def __init__(self, config: PDMUConfig, n_inputs: int) -> None:
        super().__init__(config, n_inputs)
        self.output_neurons = LIF(config.lif, config.hidden)
        full = config.spikes_inside
        self.write_neurons = LIF(config.lif, config.channels) if full else None
        self.read_neurons = LIF(config.lif, config.channels * config.order) if full else None

    @property
    def delays_memory(self) -> bool:
        """Whether the delay line holds the memory: neurons between the gate and W_m do not commute with it."""
        return super().delays_memory or self.config.spikes_inside

    def init_state(self, batch: int, like: Tensor) -> Any:
        """Empty memory and delay line, neurons at rest."""
        memory, delay = super().init_state(batch, like)
        rows = [n for n in (self.output_neurons, self.write_neurons, self.read_neurons) if n is not None]
        return SpikingState(memory, delay, tuple(n.init_state(batch, like) for n in rows))

    def forward(self, x: Tensor, state: Any, valid: Tensor | None = None) -> tuple[Tensor, Any]:
        """All steps in parallel; equal to `step` repeated (batch normalisation in evaluation mode).

        Parameters
        ----------
        x : Tensor
            ``[B, T, N_x]``.
        state : SpikingState
        valid : Tensor of bool, optional
            ``[B, T]``: steps that belong to their sequence; the others take no part in normalisation statistics.
        """
        pre, after, inner = self._spiking_currents(x, state) if self.write_neurons is not None else self._analogue_currents(x, state)
        spikes, outputs = self.output_neurons(self.normalise(pre, valid), state.neurons[0])
        return spikes, SpikingState(after.memory, after.delay, (outputs, *inner))

    def _analogue_currents(self, x: Tensor, state: SpikingState) -> tuple[Tensor, LayerState, tuple[LIFState, ...]]:
        pre, after = self.currents(x, LayerState(state.memory, state.delay))
        return pre, after, ()

    def _spiking_currents(self, x: Tensor, state: SpikingState) -> tuple[Tensor, LayerState, tuple[LIFState, ...]]:
        """Currents ``[B, T, H]`` by way of write and read neurons, and these neurons' states."""
        c, (_, write, read) = self.config, state.neurons
        assert self.write_neurons is not None and self.read_neurons is not None
        u, write = self.write_neurons(self.write(x), write)
        m = memory_parallel(c.order, c.theta, u, state.memory)
        line, z = self.deliver(state.delay, m, self.gate(x, u, m))
        spikes, read = self.read_neurons(z.flatten(2), read)
        return self.from_memory(spikes) + self.from_input(x), LayerState(m[:, -1], line), (write, read)

    def last(self, x: Tensor, state: Any) -> Tensor:
        """Output ``[B, H]`` of the last step; neurons remember, so every step is run."""
        return self(x, state)[0][:, -1]

    def begin(self, x: Tensor, state: Any) -> Any:
        """State after a sequence ``[B, T, N_x]`` as to its memory and what writes it; the rest is at rest (truncated training)."""
        if self.write_neurons is None:
            return super().begin(x, state)
        fresh = self.init_state(len(x), x)
        u, write = self.write_neurons(self.write(x), state.neurons[1])
        m = memory_at(self.config.order, self.config.theta, u, state.memory, (x.shape[1] - 1,))
        return SpikingState(m[:, 0], fresh.delay, (fresh.neurons[0], write, fresh.neurons[2]))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One instant, ``[B, N_x] → [B, H]``: the definition."""
        if self.write_neurons is None:
            pre, after = self.current_step(x, LayerState(state.memory, state.delay))
            inner: tuple[LIFState, ...] = ()
        else:
            pre, after, inner = self._spiking_current_step(x, state)
        spikes, outputs = self.output_neurons.step(self.norm(pre), state.neurons[0])
        return spikes, SpikingState(after.memory, after.delay, (outputs, *inner))

    def _spiking_current_step(self, x: Tensor, state: SpikingState) -> tuple[Tensor, LayerState, tuple[LIFState, ...]]:
        """Current ``[B, H]`` of one instant by way of write and read neurons, and these neurons' states."""
        c, (_, write, read) = self.config, state.neurons
        writers, readers = cast(LIF, self.write_neurons), cast(LIF, self.read_neurons)
        a_bar, b_bar = (torch.as_tensor(v).to(x) for v in lmu_matrices(c.order, c.theta))
        u, write = writers.step(self.write(x), write)
        m = memory_step(a_bar, b_bar, state.memory, u)
        line, z = self.deliver_step(state.delay, m, self.gate(x, u, m))
        spikes, read = readers.step(z.flatten(1), read)
        return self.from_memory(spikes) + self.from_input(x), LayerState(m, line), (write, read)
