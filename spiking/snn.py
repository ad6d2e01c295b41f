"""snnTorch both ways: a network whose neurons are `snntorch.Leaky`, and back, with the same spikes.

`to_snntorch` copies a network and puts a `snntorch.Leaky` in the place of every row of neurons; memory, delay gate and normalisation stay
the torch modules that they were, so nothing else is computed. Such a network trains in anyone's loop, with any surrogate of
`snntorch.surrogate`; `from_snntorch` takes its weights back, into layers that train by scans.

The neuron is the same law on both sides (:mod:`spiking.lif`): a decay and a threshold per neuron, strict comparison, the delayed reset of
snnTorch's default, no gradient through it. snnTorch's spikes are float32 whatever goes in; they are brought back to the type of the
currents, and thresholds are given as vectors, for with a scalar one snnTorch would subtract it rounded to float32 (spikes times a scalar
keep the type of the spikes).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

from pdmu.config import FrontendConfig, LIFConfig, ModelConfig
from pdmu.errors import UserError
from pdmu.nn.model import PDMUNet
from spiking.lif import LIFState
from spiking.sdmu import LIF
from spiking.surrogate import ATAN_ALPHA

Surrogate = Callable[[Tensor], Tensor]  # as the functions in snntorch.surrogate return: u to spikes, with a gradient


class SnnTorchLIF(nn.Module):
    """A row of `snntorch.Leaky` neurons under the interface of `spiking.sdmu.LIF`.

    Parameters
    ----------
    neurons : LIF
        What to copy: decays, thresholds, which of them are trained, the reset.
    spike_grad : callable
        Surrogate gradient.
    """

    def __init__(self, neurons: LIF, spike_grad: Surrogate) -> None:
        super().__init__()
        c = neurons.config
        self.config = c
        self.leaky = snntorch.Leaky(
            beta=neurons.beta.detach().clone(),
            threshold=neurons.threshold.detach().clone(),
            spike_grad=spike_grad,
            learn_beta=c.learn_beta,
            learn_threshold=c.learn_threshold,
            reset_mechanism=c.reset,
        )
        self.size = len(neurons.beta)

    def init_state(self, batch: int, like: Tensor) -> LIFState:
        """Neurons at rest."""
        return LIFState(like.new_zeros(batch, self.size))

    def step(self, current: Tensor, state: LIFState) -> tuple[Tensor, LIFState]:
        """One instant, ``[B, size]`` currents → spikes of the same type."""
        spikes, v = self.leaky(current, state.v)
        self.leaky.mem = v.new_zeros(0)  # the state is the caller's; a graph kept in the module could not be copied or pickled
        return spikes.to(current.dtype), LIFState(v)

    def forward(self, current: Tensor, state: LIFState) -> tuple[Tensor, LIFState]:
        """All steps ``[B, T, size]``, one after the other: snnTorch has no exact parallel form of a neuron with a reset."""
        spikes = []
        for now in current.unbind(1):
            s, state = self.step(now, state)
            spikes.append(s)
        return torch.stack(spikes, 1), state


def to_snntorch(net: PDMUNet, spike_grad: Surrogate | None = None) -> PDMUNet:
    """Return a copy of a spiking network whose neurons are `snntorch.Leaky`; the same spikes, step by step.

    Parameters
    ----------
    net : PDMUNet
        With at least one layer of ``cell = "spiking"``; it is left as it is.
    spike_grad : callable, optional
        Any surrogate of `snntorch.surrogate`; ours, the arc tangent of width 2, when absent.

    Returns
    -------
    PDMUNet
        With `step` as before, ``[B, S, n_inputs]`` and a state → logits and the next state; over whole sequences its neurons run step by
        step. Each row's neuron is ``layers[i].output_neurons.leaky`` (with ``spikes = "all"`` also ``write_neurons`` and ``read_neurons``).

    Raises
    ------
    UserError
        The network has no spiking neurons.

    Notes
    -----
    In training, batch normalisation takes its statistics from what it is given: over all steps of a sequence where the network is called
    on it, as ours do, but over one step's batch where the loop calls `step`.

    Examples
    --------
    >>> from pdmu.config import LIFConfig, PDMUConfig
    >>> layer = PDMUConfig(hidden=4, channels=2, order=3, theta=8, cell="spiking", lif=LIFConfig(reset="zero"))
    >>> net = to_snntorch(PDMUNet(ModelConfig(("a", "b"), layers=(layer,)), 5).eval())
    >>> x, state = torch.randn(1, 20, 5), net.init_state(1, torch.zeros(1))
    >>> for k in range(20):
    ...     logits, state = net.step(x[:, k : k + 1], state)
    >>> net.layers[0].output_neurons.leaky.reset_mechanism
    'zero'
    """
    if not any(isinstance(m, LIF) for m in net.modules()):
        cells = ", ".join(sorted({layer.cell for layer in net.config.layers}))
        raise UserError(
            f"to_snntorch: the network's layers ({cells}) have no spiking neurons; train a spiking model of the family instead "
            "(--set model.family=sdmu, or sdmu-full)"
        )
    copied = copy.deepcopy(net)
    for name, row in _rows(copied, LIF).items():
        like = cast(LIF, row)
        swapped = SnnTorchLIF(like, spike_grad or surrogate.atan(alpha=ATAN_ALPHA)).to(like.beta).train(like.training)
        parent, _, child = name.rpartition(".")
        setattr(copied.get_submodule(parent), child, swapped)
    return copied


def from_snntorch(module: nn.Module, model: ModelConfig | None = None, frontend: FrontendConfig | int | None = None) -> PDMUNet:
    """Return a network of ours with the weights of one that `to_snntorch` made and anyone trained; the same spikes.

    Parameters
    ----------
    module : Module
        With `to_snntorch`'s names. Its neurons may have been put in anew, with one decay or threshold for all of a row.
    model : ModelConfig, optional
        What to build; `module`'s own when absent. It says which of decays and thresholds train on.
    frontend : FrontendConfig or int, optional
        `module`'s own when absent.

    Returns
    -------
    PDMUNet
        In the mode (training or evaluation), on the device and of the type of `module`; its surrogate is ours, which changes no spike.

    Raises
    ------
    UserError
        A neuron does what ours do not, or names or shapes differ from the configuration's.
    """
    model = model or getattr(module, "config", None)
    frontend = frontend if frontend is not None else getattr(module, "frontend", None)
    if model is None or frontend is None:
        raise UserError(f"from_snntorch: {type(module).__name__} does not say what it is: give the model's configuration and its front end")
    net = PDMUNet(model, frontend, getattr(getattr(module, "dropout", None), "p", 0.0))
    weights = module.state_dict()
    for name, row in _rows(net, LIF).items():
        neurons = cast(LIF, row)
        try:
            leaky = module.get_submodule(f"{name}.leaky")
        except AttributeError:
            raise UserError(f"from_snntorch: no neurons at {name}.leaky; give a network that to_snntorch made") from None
        _check_law(f"{name}.leaky", leaky, neurons.config)
        weights = {k: v for k, v in weights.items() if not k.startswith(f"{name}.leaky.")}
        for key in ("beta", "threshold"):
            value = cast(Tensor, getattr(leaky, key)).detach()
            if value.numel() not in (1, len(neurons.beta)):
                raise UserError(f"from_snntorch: {name}.leaky has {value.numel()} values of {key} for {len(neurons.beta)} neurons")
            weights[f"{name}.{key}"] = value.reshape(-1).expand(len(neurons.beta)).clone()
    like = next(module.parameters())
    net.to(like)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split("\n\t")[1:]) or str(error)
        raise UserError(f"from_snntorch: the weights are not those of the configuration: {detail}") from None
    return net.train(module.training)


def _rows(net: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    """Return the rows of neurons below `net` by name."""
    return {name: m for name, m in net.named_modules() if isinstance(m, kind)}


def _check_law(where: str, leaky: Any, config: LIFConfig) -> None:
    """Refuse a neuron whose spikes ours would not give."""
    if not isinstance(leaky, snntorch.Leaky):
        raise UserError(f"from_snntorch: {where} is a {type(leaky).__name__}; our neurons are snntorch.Leaky's alone")
    if leaky.reset_mechanism != config.reset:
        raise UserError(
            f'from_snntorch: {where} resets by "{leaky.reset_mechanism}" and the configuration by "{config.reset}"; '
            "give a configuration whose layers have it under lif.reset (subtract or zero)"
        )
    foreign = {
        "inhibition": leaky.inhibition,
        "state_quant": leaky.state_quant,
        "graded_spikes_factor": not bool((leaky.graded_spikes_factor == 1).all()),
        # subtracting at once takes β V away, a step later V; to zero it is the same either way
        'reset_delay=False with reset "subtract"': not leaky.reset_delay and config.reset == "subtract",
    }
    if found := [name for name, there in foreign.items() if there]:
        raise UserError(f"from_snntorch: {where} has {', '.join(found)}, which our neurons lack; build the neuron without it")
