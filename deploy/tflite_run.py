"""Run exported graphs over features and return Q15 scores, with numpy and a TFLite runtime alone.

As a program (``python -m deploy.tflite_run GRAPH FEATURES.npy SCORES.npy``) it lets one environment's runtime be compared with another's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdmu.errors import UserError
from pdmu.tables import FEATURE_FRAC_BITS

RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
FEATURE_SCALE = 2.0**-FEATURE_FRAC_BITS


def interpreter_module() -> Any:
    """Return the first TFLite runtime that imports.

    Raises
    ------
    UserError
        If there is none.
    """
    for name in RUNTIMES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UserError("no TFLite runtime is installed: install ai-edge-litert (64-bit), or tflite-runtime with numpy<2 (32-bit)")


class GraphRunner:
    """One graph with its state, fed with integer features.

    Parameters
    ----------
    image : bytes
        Content of a .tflite file.
    """

    def __init__(self, image: bytes) -> None:
        self._interpreter = interpreter_module().Interpreter(model_content=image, num_threads=1)
        self._interpreter.allocate_tensors()
        inputs = {d["name"]: d for d in self._interpreter.get_input_details()}
        outputs = {d["name"]: d for d in self._interpreter.get_output_details()}
        self._features, self._scores = inputs.pop("features"), outputs.pop("scores")
        names = {name.removeprefix("state/"): d["index"] for name, d in inputs.items()}
        self._states = {name: (index, outputs["next/" + name]["index"]) for name, index in names.items()}
        self.frames, self.steps = int(self._features["shape"][0]), int(self._scores["shape"][0])
        self.integer = self._features["dtype"] == np.int16
        self.reset()

    def reset(self) -> None:
        """Return to the state before the first frame."""
        for state, _ in self._states.values():
            self._interpreter.set_tensor(state, np.zeros_like(self._interpreter.get_tensor(state)))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the state by name, in the graph's own units: int16 counts or float32 real values."""
        return {name: self._interpreter.get_tensor(index) for name, (index, _) in self._states.items()}

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from another runner's state, of a graph of the same precision."""
        for name, values in state.items():
            self._interpreter.set_tensor(self._states[name][0], values)

    def run(self, features: NDArray[np.int16]) -> NDArray[np.int16]:
        """Continue over as many whole blocks as `features` holds.

        Parameters
        ----------
        features : ndarray of int16
            ``[frames, n_mels]`` Q9; frames beyond the last whole block are not used.

        Returns
        -------
        ndarray of int16
            ``[blocks · K, n_labels]`` Q15.
        """
        interpreter, integer = self._interpreter, self.integer
        blocks = len(features) // self.frames
        out = np.zeros((blocks * self.steps, int(self._scores["shape"][1])), np.int16)
        for k in range(blocks):
            x = features[k * self.frames : (k + 1) * self.frames]
            interpreter.set_tensor(self._features["index"], x if integer else x.astype(np.float32) * np.float32(FEATURE_SCALE))
            interpreter.invoke()
            y = interpreter.get_tensor(self._scores["index"])
            out[k * self.steps : (k + 1) * self.steps] = y if integer else np.minimum(np.floor(y * 32768 + 0.5), 32767)
            for state, following in self._states.values():
                interpreter.set_tensor(state, interpreter.get_tensor(following))
        return out


def main(arguments: list[str]) -> int:
    """Run GRAPH over FEATURES.npy and write SCORES.npy."""
    if len(arguments) != 3:
        print("usage: python -m deploy.tflite_run GRAPH.tflite FEATURES.npy SCORES.npy", file=sys.stderr)
        return 2
    graph, features, scores = (Path(a) for a in arguments)
    np.save(scores, GraphRunner(graph.read_bytes()).run(np.load(features)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
