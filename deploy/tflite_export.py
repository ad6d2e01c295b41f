"""A bundle's network as .tflite graphs: float32 and int16x8, one step an invoke for live audio and a block of steps for files.

State is explicit: every ``state/<name>`` input has a ``next/<name>`` output of the same shape and type, zero at the start. States have the
same shapes in every graph of one precision, so that a stream may change between them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.tflite_layer import LOGIT_SCALE, recurrent_layer, scale_of
from deploy.tflite_ops import Graph, Precision, Value, Weights
from pdmu.bundle import Bundle
from pdmu.config import ConvConfig, to_dict
from pdmu.errors import UserError
from pdmu.files import write_bytes

MARKER = "pdmu-bundle-sha256:"  # followed by the 64 hex digits; readers without a flatbuffer parser look for it in the file's bytes
BLOCK_STEPS = 16


@dataclass(frozen=True)
class GraphFile:
    """One of the files a bundle is exported to."""

    precision: Precision
    steps: int  # model steps an invoke computes

    def name(self, stem: str) -> str:
        """File name beside ``<stem>.pdmu``."""
        return f"{stem}.{self.precision}{'' if self.steps == 1 else '.block'}.tflite"


GRAPHS = tuple(GraphFile(precision, steps) for precision in ("int16x8", "float32") for steps in (1, BLOCK_STEPS))


def export_tflite(bundle: Bundle, out_dir: Path, stem: str) -> list[Path]:
    """Write the four graphs of a bundle and return their paths.

    Parameters
    ----------
    bundle : Bundle
        As read from or written to a file, so that it has its SHA-256.
    out_dir : Path
        Made when missing.
    stem : str
        The bundle's file name without its suffix; the agent finds the graphs by it.

    Raises
    ------
    UserError
        If the bundle was never written, or a file cannot be.
    """
    images = {out_dir / g.name(stem): build_graph(bundle, g.precision, g.steps) for g in GRAPHS}
    return [write_bytes(path, image) for path, image in images.items()]


def build_graph(bundle: Bundle, precision: Precision, steps: int) -> bytes:
    """Return one graph as a .tflite file image.

    Parameters
    ----------
    bundle : Bundle
    precision : {"float32", "int16x8"}
    steps : int
        Model steps an invoke computes, at least 1.

    Raises
    ------
    UserError
        If the bundle was never written, or its network lies outside the integer law.
    """
    bundle.model.check_contract("TFLite export")
    if not bundle.sha256:
        raise UserError("the bundle has no SHA-256 yet: write it to a file before exporting graphs of it")
    config, tensors = bundle.model, bundle.tensors
    g = Graph(precision)
    x = g.input("features", (steps * config.frames_per_step, bundle.frontend.n_mels), scale_of(bundle, "in.scale"))
    if config.conv:
        x = g.reshape("features/image", x, (1, *x.shape, 1))
        for i, conv in enumerate(config.conv):
            x = _conv(g, bundle, f"conv{i}", conv, x)
        x = g.reshape("conv/flat", x, (steps, x.shape[2] * x.shape[3]))
    for i, layer in enumerate(config.layers):
        x = recurrent_layer(g, bundle, f"pdmu{i}", layer, x)
    head = Weights(tensors["head.weight"], tensors["head.wscale"], tensors["head.bias"].astype(np.int64) * x.refined)
    g.output(g.squash("scores", g.affine("logits", x, head, LOGIT_SCALE), config.head))
    return g.to_bytes({"pdmu": _metadata(bundle, precision, steps)}, f"PDMU network, {precision}, {steps} steps an invoke")


def _metadata(bundle: Bundle, precision: str, steps: int) -> bytes:
    parts = {"frontend": to_dict(bundle.frontend), "model": bundle.model.law(), "detector": to_dict(bundle.detector)}
    document = {"bundle": MARKER + bundle.sha256, "contract": bundle.contract, "precision": precision, "steps": steps, "info": bundle.info}
    return json.dumps(document | parts, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()


def _conv(g: Graph, bundle: Bundle, name: str, conv: ConvConfig, x: Value) -> Value:
    """One causal convolution over ``[1, frames, mel, C]``: the kept frames are joined in front, the mel edges padded with zeros."""
    t = bundle.tensors
    kept = conv.kernel_time - conv.stride_time
    if kept:
        _, _, bins, channels = x.shape
        x = g.concat(f"{name}/joined", [g.input(f"state/{name}", (1, kept, bins, channels), x.scale), x], axis=1)
        g.output(g.last(f"next/{name}", x, kept, axis=1))
    bins_out = -(-x.shape[2] // conv.stride_mel)
    before = (conv.kernel_mel - 1) // 2
    after = max(0, (bins_out - 1) * conv.stride_mel + conv.kernel_mel - before - x.shape[2])
    values = t[f"{name}.weight"]
    axis = 0
    if conv.depthwise:
        values, axis = values.transpose(3, 1, 2, 0), 3  # [C, K_t, K_f, 1] -> [1, K_t, K_f, C]
    weights = Weights(values, t[f"{name}.wscale"], t[f"{name}.bias"], axis)
    return g.conv(name, g.pad_mel(f"{name}/padded", x, before, after), weights, conv, scale_of(bundle, f"{name}.scale"))
