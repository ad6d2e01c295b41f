"""The leaky integrate-and-fire neuron over whole sequences: the law of :mod:`spiking.lif`, spike for spike, many steps at once.

Reset makes the neuron nonlinear, yet given its spikes it is an affine recurrence. *Fixed point* (any reset): the sequence is cut into n
chunks of C steps, whose first states are guessed. A pass runs the law itself inside all chunks at once; the spikes it finds make the end
of a chunk affine in its start, with slope ``β^C`` (0 after a spike that resets to zero), so one affine scan over the chunks corrects the
guesses; and so on until every chunk starts, bit for bit, where the one before it ended. With C = 1 this is the fixed point of affine scans
over all steps. *Pointer jumping* (reset to zero): a spike forgets the past, so each step points to the spike that follows one at that step;
following the pointers gives all first states at once, up to rounding, and passes settle the rest.

**Exactness.** Potentials are only ever computed by the law in its own order of operations, from its own earlier potentials, and the passes
end when nothing is left of the guesses. So they equal `lif_sequential`'s in every bit, near the threshold too, whatever a guess was worth;
a bad one costs passes alone. The first p chunks are final after p passes, so n passes always do; where neurons forget within a chunk or
two, 2 to 4. They forget by spikes that reset to zero, else by β alone, to the last bit: with reset by subtraction and β = 0.99 that takes
2000 steps, and a silent neuron under an unchanging current may not forget at all. Then the passes are as many steps as the sequence has.

**Memory.** Passes work on blocks of a bounded number of steps, from the exact state in which the block before ended, so what they hold
beside the potentials does not grow with T.

**Gradient.** Given potentials, ``dv[k] = ds[k] σ'(v[k] − V) + β (1 − s[k]) dv[k+1]`` (without ``1 − s`` by subtraction): one affine scan
backwards; the gradients of currents, β, V and the first state are sums over it.

Shapes: current, potentials and spikes ``[B, T, H]``, state ``[B, H]``, β and V ``[H]``; in chunks ``[B, n, C, H]``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pdmu.nn.engines import fastest
from spiking import kernels
from spiking.lif import LIFState, Reset, lif_sequential
from spiking.surrogate import derivative, reverse_scan_

LANES = {"cpu": 2**13, "cuda": 2**20}  # neurons of all chunks beyond which one operation on twice as many takes twice as long
POINTERS = 2**17  # steps of all neurons whose pointers are found together

Potentials = Callable[[Tensor, Tensor, Tensor, Tensor, Reset], Tensor]
Guess = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def chunk_steps(batch: int, steps: int, hidden: int, device: str) -> int:
    """Return C for ``[B, T, H]``: long enough to forget in, about ``2 √T``; longer where chunks would be more than the device can use."""
    enough = math.ceil(batch * steps * hidden / LANES.get(device, max(LANES.values())))
    return max(2 ** max(0, round(math.log2(2 * math.sqrt(steps)))), enough)


def _run(current: Tensor, beta: Tensor, threshold: Tensor, start: Tensor, reset: Reset, out: Tensor) -> None:
    """Run the law over dimension 2 of ``[B, n, C, H]`` from `start` ``[B, n, H]``, into `out`.

    Each operation rounds as the law's own does: what is multiplied by a spike is multiplied exactly.
    """
    v, fired = start, torch.empty_like(start, dtype=torch.bool if reset == "zero" else start.dtype)
    for given, after in zip(current.unbind(2), out.unbind(2), strict=True):
        torch.gt(v, threshold, out=fired)
        torch.mul(v, beta, out=after)
        if reset == "zero":
            after.masked_fill_(fired, 0.0).add_(given)
        else:
            after.add_(given).addcmul_(fired, threshold, value=-1.0)
        v = after


def _scan_chunks(residual: Tensor, slope: Tensor) -> Tensor:
    """Return ``d[j] = residual[j] + slope[j] d[j-1]`` along dimension 1, ``d[-1] = 0`` (Hillis & Steele 1986)."""
    d, factor, reach = residual, slope, 1
    while reach < d.shape[1]:
        d = torch.cat([d[:, :reach], d[:, reach:] + factor[:, reach:] * d[:, :-reach]], 1)
        factor = torch.cat([factor[:, :reach], factor[:, reach:] * factor[:, :-reach]], 1)
        reach *= 2
    return d


def _settle(current: Tensor, beta: Tensor, threshold: Tensor, start: Tensor, reset: Reset) -> Tensor:
    """Return the potentials ``[B, n, C, H]`` from guessed first states of the chunks ``[B, n, H]``, the first of which is exact."""
    v = torch.empty_like(current)
    _run(current, beta, threshold, start, reset, v)
    decay = beta ** current.shape[2]
    for done in range(1, current.shape[1]):  # chunks that are final
        ends, old = v[:, done - 1 : -1, -1], start[:, done:]
        if torch.equal(ends, old):
            break
        slope = decay.expand_as(old[:, 1:])
        if reset == "zero":
            spiked = (old[:, :-1] > threshold) | (v[:, done:-1, :-1] > threshold).any(2)
            slope = slope.masked_fill(spiked, 0.0)
        moved_by = _scan_chunks(ends - old, torch.cat([torch.zeros_like(old[:, :1]), slope], 1))
        # a chunk whose start does not move hands on its end as it is, so that what is left of a guess vanishes
        new = torch.cat([ends[:, :1], ends[:, 1:] + slope * moved_by[:, :-1]], 1)
        b, j, h = (new != old).nonzero(as_tuple=True)
        start = torch.cat([start[:, :done], new], 1)
        if 2 * len(b) > new.numel():
            _run(current[:, done:], beta, threshold, new, reset, v[:, done:])
            continue
        again = current[b, j + done, :, h].T[None, None].contiguous()  # [1, 1, C, N]
        result = torch.empty_like(again)
        _run(again, beta[h], threshold[h], new[b, j, h][None, None], reset, result)
        v[b, j + done, :, h] = result[0, 0].T
    return v


def _at_rest(current: Tensor, beta: Tensor, threshold: Tensor, state: Tensor) -> Tensor:
    """Guess that all chunks but the first start at rest."""
    return torch.cat([state[:, None], state.new_zeros(len(state), current.shape[1] - 1, state.shape[1])], 1)


def _by_pointers(current: Tensor, beta: Tensor, threshold: Tensor, state: Tensor) -> Tensor:
    """Find the chunks' first states ``[B, n, H]`` by pointers from each step to the next spike after it; reset to zero, float64.

    With U the potential without reset from the chunk's start, a neuron that spiked at t has ``v[t'] = U[t'] − β^(t'−t) U[t]``, and one that
    started with w and did not spike yet ``v[t'] = U[t'] + β^(t'+1) w``, t = 0 … C-1.
    """
    chunk = current.shape[2]
    # beyond 1e300 the powers of a β that forgets at once would overflow; a guess need not be right
    decay, limit = beta.double().clamp(min=10.0 ** (-300 / chunk)), threshold.double()
    u = torch.empty_like(current, dtype=torch.float64)
    _run(current.double(), decay, torch.full_like(limit, math.inf), torch.zeros_like(u[:, :, 0]), "zero", u)
    powers = decay ** torch.arange(1, chunk + 1, device=u.device)[:, None]  # [C, H]
    group = max(1, POINTERS // u[:, 0].numel())
    starts = [state.double()]
    for part in u.split(group, 1):
        a, own = (part - limit) / powers, part / powers
        last = _last_spikes(a, own)
        # a neuron with state w spikes first where A > -w, and last where the pointers from there end
        for j in range(part.shape[1]):
            kept = starts[-1].masked_fill(starts[-1] > limit, 0.0)
            fires = a[:, j, :-1] > -kept[:, None] if chunk > 1 else a[:, j] > math.inf
            spike = last[:, j].gather(1, fires.int().argmax(1, keepdim=True))
            forgotten = own[:, j].gather(1, spike)[:, 0]
            starts.append(part[:, j, -1] + powers[-1] * torch.where(fires.any(1), -forgotten, kept))
    return torch.cat([state[:, None], torch.stack(starts[1:-1], 1).to(state)], 1) if len(starts) > 2 else state[:, None]


def _last_spikes(a: Tensor, own: Tensor) -> Tensor:
    """Return where the pointers from each step end: the chunk's last spike ``[B, n, C, H]`` of a neuron that spiked at that step.

    The neuron that spiked at t spikes next at the first t' with ``A[t'] > own[t]``, where ``A[t] = (U[t] − V) β^-(t+1)`` and
    ``own[t] = U[t] β^-(t+1)``. The largest A of the next 1, 2, 4 … steps are tabled, and the way to t' is walked in such strides. The
    chunk's last step does not count: what it resets is the next chunk's.
    """
    chunk = a.shape[2]
    tables, reach = [torch.nn.functional.pad(a[:, :, 1:], (0, 0, 0, 1), value=-math.inf)], 1
    while 2 * reach < chunk:
        later = torch.nn.functional.pad(tables[-1][:, :, reach:], (0, 0, 0, reach), value=-math.inf)
        tables.append(torch.maximum(tables[-1], later))
        reach *= 2
    steps = torch.arange(chunk, device=a.device)[:, None]
    at = steps.expand(a.shape).clone()
    for table in reversed(tables):
        at.add_(table.gather(2, at) <= own, alpha=reach).clamp_(max=chunk - 1)
        reach //= 2
    last = torch.where(at + 1 < chunk - 1, at + 1, steps)
    for _ in range((chunk - 1).bit_length()):
        last = last.gather(2, last)
    return last


def _by_blocks(
    current: Tensor, beta: Tensor, threshold: Tensor, state: Tensor, reset: Reset, *, guess: Guess, block: int, chunk: int | None = None
) -> Tensor:
    """Return the potentials ``[B, T, H]``, one block of chunks after the other."""
    batch, steps, hidden = current.shape
    chunk = min(chunk or chunk_steps(batch, min(steps, block), hidden, current.device.type), steps)
    block = max(1, block // chunk) * chunk
    out = torch.empty_like(current, memory_format=torch.contiguous_format)
    for begin in range(0, steps, block):
        part = current[:, begin : begin + block]
        length = part.shape[1]
        padding = -length % chunk
        by_chunk = torch.nn.functional.pad(part, (0, 0, 0, padding)) if padding else part
        by_chunk = by_chunk.reshape(batch, -1, chunk, hidden)
        v = _settle(by_chunk, beta, threshold, guess(by_chunk, beta, threshold, state), reset)
        out[:, begin : begin + length] = v.flatten(1, 2)[:, :length]
        state = out[:, begin + length - 1]
    return out


class _Parallel(torch.autograd.Function):
    """Spikes and the last potential of a form of the forward pass; the gradient of all forms."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, beta: Tensor, state: Tensor, threshold: Tensor, reset: Reset, potentials: Potentials
    ) -> tuple[Tensor, Tensor]:
        v = potentials(current, beta, threshold, state, reset)
        ctx.save_for_backward(v, beta, state, threshold)
        ctx.reset = reset
        return (v > threshold).to(v.dtype), v[:, -1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        v, beta, state, threshold = ctx.saved_tensors
        d_spikes, d_end = gradients
        to_zero = ctx.reset == "zero"
        direct = derivative(v - threshold).mul_(d_spikes)
        d_threshold = -direct.sum((0, 1))
        direct[:, -1] += d_end
        dv = reverse_scan_(beta * (v <= threshold) if to_zero else beta, direct, torch.zeros_like(state))
        kept, d_state = torch.cat([state[:, None], v[:, :-1]], 1), beta * dv[:, 0]
        if to_zero:
            kept.masked_fill_(kept > threshold, 0.0)
            d_state.masked_fill_(state > threshold, 0.0)
        elif ctx.needs_input_grad[3]:
            d_threshold -= (dv * (kept > threshold)).sum((0, 1))
        return dv, kept.mul_(dv).sum((0, 1)), d_state, d_threshold, None, None


def _rows(current: Tensor, beta: Tensor, state: LIFState | None, threshold: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Return β and V ``[H]`` and the first potential ``[B, H]``, as the law takes them."""
    hidden = current.shape[2:]
    limit = torch.as_tensor(threshold, dtype=current.dtype, device=current.device)
    v = current.new_zeros(current[:, 0].shape) if state is None else state.v.to(current).expand_as(current[:, 0])
    return beta.clamp(0, 1).to(current).expand(hidden), v, limit.expand(hidden)


def _neurons(
    potentials: Potentials, current: Tensor, beta: Tensor, state: LIFState | None, threshold: Tensor | float, reset: Reset
) -> tuple[Tensor, LIFState]:
    spikes, end = _Parallel.apply(current, *_rows(current, beta, state, threshold), reset, potentials)
    return spikes, LIFState(end)


def lif_fixed_point(
    current: Tensor,
    beta: Tensor,
    state: LIFState | None = None,
    threshold: Tensor | float = 1.0,
    reset: Reset = "subtract",
    *,
    block: int = 4096,
    chunk: int | None = None,
) -> tuple[Tensor, LIFState]:
    """Return what `lif_sequential` does, by the fixed point of affine scans.

    Parameters
    ----------
    current, beta, state, threshold, reset
        As for `lif_sequential`.
    block : int
        Steps that are settled together: the bound on memory.
    chunk : int, optional
        C; by default `chunk_steps` of the block.
    """
    return _neurons(functools.partial(_by_blocks, guess=_at_rest, block=block, chunk=chunk), current, beta, state, threshold, reset)


def lif_pointer(
    current: Tensor,
    beta: Tensor,
    state: LIFState | None = None,
    threshold: Tensor | float = 1.0,
    reset: Reset = "zero",
    *,
    block: int = 1024,
    chunk: int | None = None,
) -> tuple[Tensor, LIFState]:
    """Return what `lif_sequential` does, by pointer jumping; parameters as for `lif_fixed_point`.

    Raises
    ------
    ValueError
        The reset is not to zero: after a subtraction the past matters, and no step points to the next spike.
    """
    if reset != "zero":
        raise ValueError(f'pointer jumping needs reset = "zero", not "{reset}"; lif_fixed_point takes any reset')
    return _neurons(functools.partial(_by_blocks, guess=_by_pointers, block=block, chunk=chunk), current, beta, state, threshold, reset)


def lif_fused(
    current: Tensor, beta: Tensor, state: LIFState | None = None, threshold: Tensor | float = 1.0, reset: Reset = "subtract"
) -> tuple[Tensor, LIFState]:
    """Return what `lif_sequential` does, by the kernel that is compiled for a CPU; parameters as there, float32."""
    spikes, end = kernels.lif(current, *_rows(current, beta, state, threshold), reset)
    return spikes, LIFState(end)


Neurons = Callable[[Tensor, Tensor, LIFState | None, Tensor | float, Reset], tuple[Tensor, LIFState]]
LIF_ENGINES: Mapping[str, Neurons] = {  # the first that can run is taken where nothing was measured
    "fused": lif_fused,
    "fixed-point": lif_fixed_point,
    "pointer": lif_pointer,
    "sequential": lif_sequential,
}


def able_engines(current: Tensor, reset: Reset) -> tuple[str, ...]:
    """Return the names of the forms that can run on such currents with such a reset."""
    unable = {"pointer": reset != "zero", "fused": not kernels.usable(current)}
    return tuple(name for name in LIF_ENGINES if not unable.get(name, False))


def lif_parallel(
    current: Tensor, beta: Tensor, state: LIFState | None = None, threshold: Tensor | float = 1.0, reset: Reset = "subtract"
) -> tuple[Tensor, LIFState]:
    """Return what `lif_sequential` does, by the form that was measured fastest at such sizes; parameters as there."""
    sizes = (("T", current.shape[1]), ("H", current.shape[2]))
    name = fastest(f"lif-{reset}", current.device.type, able_engines(current, reset), sizes)
    return LIF_ENGINES[name](current, beta, state, threshold, reset)
