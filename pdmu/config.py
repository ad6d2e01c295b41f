"""Frozen configuration of the front end, the model and the detector: every setting is typed once, here.

``to_dict`` gives plain JSON types, ``from_dict`` refuses unknown keys, and ``contract_hash`` in :mod:`pdmu.tables` binds a bundle to
what it was made under.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pdmu.errors import UserError

T = TypeVar("T")
MAX_SMOOTH_STEPS = 1 << 15  # sums of Q15 scores then fit int32
MAX_DELAY_STEPS = 1 << 16  # half an hour of 32 ms steps; a longer line is a mistake, and its memory a danger
MIN_RATE_HZ, MAX_RATE_HZ = 1000, 768_000  # sample rates that a real recording may have; a header that says another is wrong


def to_dict(config: Any) -> dict[str, Any]:
    """Return a frozen configuration as plain JSON types (tuples become lists, whole numbers in float fields become floats)."""
    values = {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    return {f.name: float(values[f.name]) if f.type in ("float", float) else values[f.name] for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def from_dict(cls: type[T], data: Any, where: str) -> T:
    """Build the dataclass `cls` from a mapping, refusing unknown keys and wrong types.

    Parameters
    ----------
    cls : type
        One of the dataclasses here, or another built the same way.
    data : mapping
        As read from TOML or JSON.
    where : str
        What the mapping is, for the error message (``"agent.toml [mqtt]"``).

    Raises
    ------
    UserError
        Unknown key (the nearest valid name is offered), missing key, wrong type, or a value the class refuses.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a table of settings, found {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise UserError(f"{where}: unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(fields)}"))
    for name, f in fields.items():
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: '{name}' is missing")
    values = {key: _parse(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _parse(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _parse(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(repr(a) for a in args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, found {value!r}")
        return tuple(_parse(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a table, found {value!r}")
        return {str(k): _parse(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise UserError(f"{where}: {value} is no setting; it has more than 64 bits")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value} is no setting; give a finite number")
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        raise UserError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


@dataclass(frozen=True)
class FrontendConfig:
    """Streaming log-mel or PCEN front end; lengths in samples, never milliseconds."""

    sample_rate_hz: int = 16000
    window_samples: int = 512  # also the FFT length; a power of two
    hop_samples: int = 256
    n_mels: int = 40
    f_min_hz: float = 60.0
    f_max_hz: float = 7800.0
    compression: Literal["pcen", "log"] = "pcen"
    floor: int = 4096  # mel energy of a quiet microphone, PCM units squared; below it nothing is told apart
    pcen_smooth_shift: int = 5  # smoother coefficient 2^-shift per frame
    pcen_alpha: float = 0.98  # gain-normalisation exponent
    pcen_delta: float = 2.0
    pcen_r: float = 0.5

    def __post_init__(self) -> None:
        n = self.window_samples
        if not MIN_RATE_HZ <= self.sample_rate_hz <= MAX_RATE_HZ:
            raise ValueError(f"sample_rate_hz must be {MIN_RATE_HZ} to {MAX_RATE_HZ}, not {self.sample_rate_hz}")
        if n < 64 or n > 1024 or n & (n - 1):
            raise ValueError(f"window_samples must be a power of two from 64 to 1024, not {n}")
        if not 0 < self.hop_samples <= n:
            raise ValueError(f"hop_samples must be 1 to window_samples ({n}), not {self.hop_samples}")
        if not 0 <= self.f_min_hz < self.f_max_hz <= self.sample_rate_hz / 2:
            raise ValueError(f"need 0 <= f_min_hz < f_max_hz <= {self.sample_rate_hz / 2}")
        if not 1 <= self.n_mels <= 128:
            raise ValueError(f"n_mels must be 1 to 128, not {self.n_mels}")
        if not 1 <= self.floor < 1 << 30:
            raise ValueError(f"floor must be 1 to 2^30, not {self.floor}")
        if not 1 <= self.pcen_smooth_shift <= 12 or not 0 <= self.pcen_alpha <= 1:
            raise ValueError("pcen_smooth_shift must be 1 to 12 and pcen_alpha 0 to 1")
        if not 0 < self.pcen_delta <= 100 or not 0 < self.pcen_r <= 1:
            raise ValueError("pcen_delta must be in (0, 100] and pcen_r in (0, 1]")


@dataclass(frozen=True)
class ConvConfig:
    """One causal convolution over (time, mel), followed by batch normalisation (folded at export) and ReLU."""

    channels: int
    kernel_time: int = 3
    kernel_mel: int = 3
    stride_time: int = 1
    stride_mel: int = 1
    depthwise: bool = False  # `channels` must then equal the input's

    def __post_init__(self) -> None:
        if min(self.channels, self.kernel_time, self.kernel_mel, self.stride_time, self.stride_mel) < 1:
            raise ValueError("convolution sizes and strides must be at least 1")
        if self.kernel_time < self.stride_time:
            raise ValueError("kernel_time must be at least stride_time")


@dataclass(frozen=True)
class LIFConfig:
    """Leaky integrate-and-fire neurons of a spiking layer; the law is `spiking.lif.lif_step`."""

    beta: float = 0.9  # decay a step; the start value where it is learnt
    learn_beta: bool = True  # one decay per neuron, trained
    threshold: float = 1.0
    learn_threshold: bool = False
    reset: Literal["subtract", "zero"] = "subtract"

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1 or self.threshold <= 0:
            raise ValueError("beta must be from 0 to 1 and threshold positive")


Cell = Literal["pdmu", "spiking", "lstm", "gru"]
Gate = Literal["softmax", "sigmoid", "top1", "straight_through", "uniform", "off"]


@dataclass(frozen=True)
class PDMUConfig:
    """One recurrent layer; symbols as in MODEL.md. ``lstm`` and ``gru`` are baselines and read `hidden` alone."""

    hidden: int  # H
    channels: int = 16  # q, memory channels
    order: int = 8  # d, Legendre order
    theta: float = 32.0  # memory window, steps
    taps: int = 8  # n, delayed reads a step
    dilation: int = 2  # tau, steps between taps
    gate: Gate = "softmax"  # top1 and straight_through route to one tap a step (EPDMU); off is the plain LMU
    residual: bool = False  # add the input before the ReLU; needs as many inputs as `hidden`
    cell: Cell = "pdmu"
    gate_input: Literal["x", "xu", "xm"] = "x"  # what the gate sees: the input, with the written value u, or with the memory m
    gate_tanh: bool = False  # squash the gate's logits before the softmax
    gate_per_channel: bool = False  # a gate for each memory channel, not one for all
    first_tap: int = 1  # delays are first_tap … first_tap + n - 1 taps; 0 as in the DMU
    write: Literal["identity", "relu"] = "identity"  # f_u, on what is written into the memory
    bidirectional: bool = False  # a second layer over the reversed sequence (Bi-PDMU): no streaming, no export
    spikes: Literal["hidden", "all"] = "hidden"  # of a spiking layer: its outputs, or also what is written into and read from the memory
    lif: LIFConfig = field(default_factory=LIFConfig)
    gumbel_temperature: tuple[float, ...] = (1.0, 0.1)  # of the straight_through gate, at the start and the end of training

    def __post_init__(self) -> None:
        if min(self.hidden, self.channels, self.order, self.taps, self.dilation) < 1 or self.theta < 1:
            raise ValueError("PDMU sizes must be at least 1")
        if self.taps > 64:
            raise ValueError("taps must be at most 64")
        if self.first_tap not in (0, 1):
            raise ValueError("first_tap must be 0 or 1")
        if self.delay_steps > MAX_DELAY_STEPS:
            raise ValueError(f"the delay line has {self.delay_steps} steps, at most {MAX_DELAY_STEPS} fit; use fewer taps or less dilation")
        if len(self.gumbel_temperature) != 2 or min(self.gumbel_temperature) <= 0:
            raise ValueError("gumbel_temperature must be two positive numbers, at the start and the end of training")
        if self.gate == "uniform" and (self.gate_input != "x" or self.gate_per_channel or self.gate_tanh):
            raise ValueError("a uniform gate reads nothing: leave gate_input, gate_per_channel and gate_tanh out")
        if self.residual and (self.cell != "pdmu" or self.bidirectional):
            kind = "bidirectional" if self.bidirectional else self.cell
            raise ValueError(f"a {kind} layer can't be residual; set residual = false")

    @property
    def delay_steps(self) -> int:
        """Length of the delay line, steps."""
        return 0 if self.gate == "off" or self.cell in ("lstm", "gru") else (self.taps + self.first_tap - 1) * self.dilation

    @property
    def outputs(self) -> int:
        """Width of the layer's output."""
        return self.hidden * (2 if self.bidirectional else 1)

    @property
    def routed(self) -> bool:
        """Whether each step goes to one tap only (EPDMU)."""
        return self.gate in ("top1", "straight_through")

    @property
    def gate_is_learned(self) -> bool:
        """Whether the gate has weights."""
        return self.gate not in ("uniform", "off")

    @property
    def spiking(self) -> bool:
        """Whether the outputs are spikes."""
        return self.cell == "spiking"

    @property
    def spikes_inside(self) -> bool:
        """Whether what is written into and read from the memory are spikes too; the delay line then holds the memory."""
        return self.spiking and self.spikes == "all"

    @property
    def line_width(self) -> int:
        """Values a step that a causal layer's delay line holds: the projected memory, or the memory where its reads are spikes."""
        return self.channels * self.order if self.spikes_inside else self.hidden

    def law(self) -> dict[str, Any]:
        """Return the settings the integer law reads; those of spiking layers appear in spiking layers only."""
        whole = to_dict(self)
        settings = ("hidden", "channels", "order", "theta", "taps", "dilation", "gate", "residual")
        out = {name: whole[name] for name in settings}
        return out | ({"cell": self.cell, "spikes": self.spikes, "lif": {"reset": self.lif.reset}} if self.spiking else {})

    def outside_contract(self) -> str | None:
        """Return which setting the integer law (pdmu.contract/1) does not cover, in words, or None where a bundle can hold the layer."""
        if self.bidirectional:
            return "it is bidirectional"
        if self.cell not in ("pdmu", "spiking"):
            return f"its cell is {self.cell}"
        covered = {"gate_input": "x", "gate_tanh": False, "gate_per_channel": False, "first_tap": 1, "write": "identity"}
        if self.gate == "sigmoid":
            return 'its gate is "sigmoid"; every other one is covered'
        changed = [f"{k} = {getattr(self, k)!r}" for k, v in covered.items() if getattr(self, k) != v]
        return f"it has {', '.join(changed)}" if changed else None


# The models of the family by name: what each changes in the layers of a recipe. Outputs that are spikes, of two directions or of torch's
# own layers are not added to inputs.
FAMILIES: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm", "residual": False},
    "gru": {"cell": "gru", "residual": False},
    "lmu": {"gate": "off"},
    "pdmu-uniform": {"gate": "uniform"},
    "pdmu": {"gate": "softmax"},
    "epdmu": {"gate": "top1"},
    "epdmu-st": {"gate": "straight_through"},
    "bi-pdmu": {"gate": "softmax", "bidirectional": True, "residual": False},
    "sdmu": {"cell": "spiking", "spikes": "hidden", "residual": False},
    "sdmu-full": {"cell": "spiking", "spikes": "all", "residual": False},
}


@dataclass(frozen=True)
class ModelConfig:
    """Convolutions, PDMU layers and head over `n_mels` features a frame."""

    labels: tuple[str, ...]
    conv: tuple[ConvConfig, ...] = ()
    layers: tuple[PDMUConfig, ...] = field(default_factory=tuple)
    head: Literal["softmax", "sigmoid"] = "softmax"
    readout: Literal["step", "last", "mean", "leaky"] = "step"  # logits of every step, of the last, or their mean over time, leaky or not
    readout_decay: float = 0.8  # a step, of the leaky mean's weights into the past

    def __post_init__(self) -> None:
        if not 0 < self.readout_decay < 1:
            raise ValueError("readout_decay must be between 0 and 1")
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be given, each once")
        if unprintable := [label for label in self.labels if not label or not label.isprintable()]:
            raise ValueError(f"label {unprintable[0]!r} can't be printed; use letters, digits, signs and spaces")
        if not self.layers:
            raise ValueError("at least one PDMU layer is needed")

    @property
    def frames_per_step(self) -> int:
        """Front-end frames one model step consumes (S)."""
        s = 1
        for c in self.conv:
            s *= c.stride_time
        return s

    @property
    def decides(self) -> bool:
        """Whether a layer makes hard decisions: spikes, or routes of an EPDMU."""
        return any(layer.spiking or layer.routed for layer in self.layers)

    def conv_shapes(self, n_mels: int) -> list[tuple[int, int]]:
        """Return (bins, channels) before each convolution and after the last."""
        shapes = [(n_mels, 1)]
        for c in self.conv:
            bins, channels = shapes[-1]
            if c.depthwise and c.channels != channels:
                raise UserError(f"depthwise convolution has {c.channels} channels over {channels}: they must be equal")
            shapes.append((-(-bins // c.stride_mel), c.channels))
        return shapes

    def layer_inputs(self, n_mels: int) -> list[int]:
        """Return the input width of each PDMU layer, then of the head."""
        bins, channels = self.conv_shapes(n_mels)[-1]
        widths = [bins * channels] + [layer.outputs for layer in self.layers]
        for i, layer in enumerate(self.layers):
            if layer.residual and widths[i] != layer.hidden:
                raise UserError(f"PDMU layer {i} is residual: it needs {layer.hidden} inputs and has {widths[i]}")
        return widths

    def law(self) -> dict[str, Any]:
        """Return the settings the integer law reads, as a bundle holds and hashes them; what they leave out `check_contract` refuses.

        A form of layer has its own settings here, so that one added later leaves the contracts of the others as they were.
        """
        whole = to_dict(self)
        return {name: whole[name] for name in ("labels", "conv", "head")} | {"layers": [layer.law() for layer in self.layers]}

    def check_streams(self, what: str) -> None:
        """Refuse a model that can't run one step at a time.

        Raises
        ------
        UserError
            A layer is bidirectional.
        """
        for i, layer in enumerate(self.layers):
            if layer.bidirectional:
                raise UserError(
                    f"{what}: layer {i} is bidirectional: it needs the end of a sequence before its beginning, which no stream has; "
                    "train a causal model of the family instead (--set model.family=pdmu)"
                )

    def check_contract(self, what: str) -> None:
        """Refuse a model that a bundle can't hold.

        Raises
        ------
        UserError
            A layer, or the readout, lies outside the integer law.
        """
        self.check_streams(what)
        for i, layer in enumerate(self.layers):
            if reason := layer.outside_contract():
                raise UserError(
                    f"{what}: layer {i} is outside the integer law: {reason}; train a model it covers (--family pdmu, epdmu, lmu, sdmu, …)"
                )
        if self.readout != "step":
            raise UserError(f'{what}: the readout is "{self.readout}", and the integer law gives the scores of every "step"')


@dataclass(frozen=True)
class DetectorConfig:
    """How scores become events; times in model steps, scores in Q15 (0 … 32767)."""

    threshold_q15: tuple[int, ...]  # per label: an event begins when the smoothed score reaches it
    release_ratio: float = 0.6  # it ends when the score falls under this part of the threshold (hysteresis)
    smooth_steps: int = 3  # moving average over this many steps
    min_steps: int = 1  # shorter events are rejected
    max_steps: int = 320  # longer ones are cut and begun anew
    refractory_steps: int = 4  # quiet time of a label after its event
    reject_labels: tuple[str, ...] = ()  # labels that never make events ("other")

    def __post_init__(self) -> None:
        if any(not 1 <= t <= 32767 for t in self.threshold_q15):
            raise ValueError("threshold_q15 must be 1 to 32767 for every label")
        if not 0 < self.release_ratio <= 1:
            raise ValueError("release_ratio must be in (0, 1]")
        if self.smooth_steps < 1 or self.min_steps < 1 or self.max_steps < self.min_steps or self.refractory_steps < 0:
            raise ValueError("need smooth_steps >= 1, 1 <= min_steps <= max_steps, refractory_steps >= 0")
        if self.smooth_steps > MAX_SMOOTH_STEPS or max(self.max_steps, self.refractory_steps) >= 1 << 31:
            raise ValueError(f"smooth_steps is at most {MAX_SMOOTH_STEPS}, other numbers of steps below 2^31")
