"""How fast the family trains beside torch's recurrent layers: ``python -m benchmarks.speed [--out FILE]``.

Forward and backward of one layer over a whole batch, every output used, d = H, window θ = T. Models take turns within one run, so that
ratios mean something where absolute times do not; the median of the turns counts. ``cpu_ms`` is processor time, all threads together: on
a machine that others use, and with one thread, it is the steadier figure. Memory is the most that one run adds.

Forms that run one step after the other are timed over their first `SEQUENTIAL_STEPS` steps, named so, and compared per step:
``pdmu-sequential`` is this project's own `step` in a loop; ``sdmu-snntorch`` is the spiking layer whose neurons are `snntorch.Leaky` in its
usual loop. ``states:NAME`` and ``projected:NAME`` are the forms of the Legendre memory alone, all states or their projection.

``--profile`` tells where the processor's time goes instead: for each model the shares of torch's operators and of this project's compiled
kernels (``_Layer`` is delay line, W_x, normalisation and ReLU in one), from `torch.profiler`, beside the multiply-adds of the equations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.common import report
from benchmarks.engines import MAX_STATE, turns_of
from benchmarks.lif import added_memory_mib
from pdmu.config import FAMILIES, ModelConfig, PDMUConfig
from pdmu.nn.layers import build_layer
from pdmu.nn.model import PDMUNet
from pdmu.nn.scan import PROJECTED_ENGINES, STATE_ENGINES
from spiking.snn import to_snntorch

STEPS = (784, 4000, 16000)
HIDDEN = (32, 64, 128, 256)
POSITIONS = 32 * 784  # steps of all sequences of a batch together
SEQUENTIAL_STEPS = 784
PROFILED = 12  # operators named in a profile
TAPS = 8
SEQUENTIAL = ("pdmu-sequential", "sdmu-snntorch")
MODELS = (*FAMILIES, *SEQUENTIAL)
ENGINES = (*(f"states:{name}" for name in STATE_ENGINES), *(f"projected:{name}" for name in PROJECTED_ENGINES))


def steps_of(model: str, steps: int) -> int:
    """Return how many of the steps a model is timed over."""
    return min(steps, SEQUENTIAL_STEPS) if model in SEQUENTIAL or model == "states:sequential" else steps


def layer_config(family: str, steps: int, hidden: int) -> PDMUConfig:
    """Return the layer of a family at these sizes."""
    sizes = {"channels": 1, "order": hidden, "theta": float(steps), "hidden": hidden, "taps": TAPS}
    return PDMUConfig(**(sizes | cast(Any, FAMILIES[family])))


def workload(model: str, steps: int, hidden: int, device: torch.device) -> Callable[[], None]:
    """Return forward and backward of a model over a batch.

    Parameters
    ----------
    model : str
        One of `MODELS` or `ENGINES`.
    steps, hidden : int
        T, and H = d.
    """
    batch = max(1, POSITIONS // steps)
    torch.manual_seed(1)
    x = torch.randn(batch, steps_of(model, steps), 1, device=device)
    kind, colon, engine = model.partition(":")
    if colon:
        return _engine(kind, engine, x.requires_grad_(), steps, hidden)
    if model == "sdmu-snntorch":
        net = to_snntorch(PDMUNet(ModelConfig(("y",), layers=(layer_config("sdmu", steps, hidden),)), 1))
        neurons = cast(Any, net.layers[0]).to(device)
        return lambda: neurons(x, neurons.init_state(batch, x))[0].sum().backward()
    layer = cast(Any, build_layer(layer_config(model.removesuffix("-sequential"), steps, hidden), 1).to(device))
    if not model.endswith("-sequential"):
        return lambda: layer(x, layer.init_state(batch, x))[0].sum().backward()

    def stepped() -> None:
        state, outputs = layer.init_state(batch, x), []
        for k in range(x.shape[1]):
            y, state = layer.step(x[:, k], state)
            outputs.append(y)
        torch.stack(outputs, 1).sum().backward()

    return stepped


def _engine(kind: str, name: str, u: torch.Tensor, theta: float, order: int) -> Callable[[], None]:
    """Return forward and backward of one form of the memory."""
    state = u.new_zeros(len(u), 1, order)
    if kind == "states":
        return lambda: STATE_ENGINES[name](order, theta, u, state).sum().backward()
    weight = (torch.randn(order, order, device=u.device) / order).requires_grad_()
    return lambda: PROJECTED_ENGINES[name](order, theta, u, state, weight)[0].sum().backward()


def fits(model: str, steps: int, hidden: int) -> bool:
    """Whether a model can be measured at these sizes.

    The scan that doubles its reach keeps log2(T) copies of all states; one step of one sequence has no batch statistics to normalise with.
    """
    if model == "pdmu-sequential":
        return POSITIONS // steps > 1
    return model != "states:associative" or POSITIONS * hidden * steps.bit_length() <= 2 * MAX_STATE


def measure(models: Sequence[str], steps: int, hidden: int, turns: int, device: torch.device) -> dict[str, Any]:
    """Return one row: time and memory of each model at these sizes."""
    named = [m for m in models if fits(m, steps, hidden)]
    work = {m: workload(m, steps, hidden, device) for m in named}
    times = turns_of(work, turns, device)
    ms = {m: statistics.median(wall for wall, _ in t) for m, t in times.items()}
    cpu = {m: statistics.median(worked for _, worked in t) for m, t in times.items()}
    row: dict[str, Any] = {
        "T": steps,
        "d": hidden,
        "H": hidden,
        "batch": max(1, POSITIONS // steps),
        "timed_steps": {m: steps_of(m, steps) for m in named if steps_of(m, steps) != steps},
        "ms": {m: round(t, 2) for m, t in ms.items()},
        "cpu_ms": {m: round(t, 2) for m, t in cpu.items()},
    }
    if "lstm" in ms:
        for name, values in (("times_lstm", ms), ("times_lstm_cpu", cpu)):
            row[name] = {m: round(values["lstm"] / steps / (values[m] / steps_of(m, steps)), 2) for m in named}
    row["added_mib"] = {m: added_memory_mib(run, device) for m, run in work.items()}
    return row


def multiply_adds(model: str, hidden: int) -> dict[str, int]:
    """Return the multiply-adds of one step that the equations ask for, d = H, by term; empty for models that have no such count here.

    What stands under ``matrices`` is done three times in training: forward, for the weights' gradients and for the inputs'.
    """
    if model in ("lstm", "gru"):
        return {"matrices": (4 if model == "lstm" else 3) * hidden * (hidden + 1)}
    taps = {"lmu": 0, "epdmu": 1, "pdmu": TAPS, "pdmu-uniform": TAPS}
    if model not in taps:
        return {}
    return {"matrices": hidden * (hidden + 1), "memory, step by step": hidden * (hidden + 1), "delay line": taps[model] * hidden}


def profile(models: Sequence[str], steps: int, hidden: int, turns: int) -> dict[str, Any]:
    """Return where the processor's time goes in forward and backward of each model: operator → share, the largest first."""
    row: dict[str, Any] = {"T": steps, "d": hidden, "H": hidden, "batch": max(1, POSITIONS // steps), "models": {}}
    for model in models:
        run = workload(model, steps, hidden, torch.device("cpu"))
        run()  # caches and compiled kernels
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(turns):
                run()
        spent = {e.key: (e.self_cpu_time_total, e.count) for e in profiler.key_averages() if e.self_cpu_time_total > 0}
        total = sum(us for us, _ in spent.values())
        largest = sorted(spent.items(), key=lambda item: -item[1][0])[:PROFILED]
        row["models"][model] = {
            "ms": round(total / 1000 / turns, 2),
            "multiply_adds": multiply_adds(model, hidden),
            "operators": [{"name": n, "share": round(us / total, 3), "calls": count // turns} for n, (us, count) in largest],
        }
    return row


def main() -> None:
    """Measure, and print or keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, metavar="T")
    parser.add_argument("--hidden", type=int, nargs="+", default=HIDDEN, metavar="H")
    known = f"of {', '.join((*MODELS, *ENGINES))} (default: all models, no forms of the memory alone)"
    parser.add_argument("--models", nargs="+", default=MODELS, choices=(*MODELS, *ENGINES), metavar="NAME", help=known)
    parser.add_argument("--engines", action="store_true", help="the forms of the memory alone too")
    parser.add_argument("--profile", action="store_true", help="where the time goes, on the CPU (name a few models and sizes)")
    parser.add_argument("--turns", type=int, default=3, help="times each model runs (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="write the JSON to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    models = [*arguments.models, *(ENGINES if arguments.engines else ())]
    rows = []
    for hidden in arguments.hidden:
        for steps in arguments.steps:
            if arguments.profile:
                rows.append(profile(models, steps, hidden, arguments.turns))
            else:
                rows.append(measure(models, steps, hidden, arguments.turns, device))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    settings = {"taps": TAPS, "sequential_steps": SEQUENTIAL_STEPS, "threads": arguments.threads, "device": device.type}
    what = "speed_profile" if arguments.profile else "speed_forms" if arguments.engines else "speed"
    report(what, {**settings, "turns": arguments.turns, "rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
