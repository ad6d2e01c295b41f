"""The integer law in plain Python integers, written from MODEL.md word by word: slow, and the oracle for the vectorised law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pdmu.config import FrontendConfig, ModelConfig
from pdmu.int_model import IntModel
from pdmu.tables import exp_table, frontend_tables, sigmoid_table

Grid = list[list[int]]


def rs(v: int, s: int) -> int:
    return v if s == 0 else (v + (1 << (s - 1))) >> s


def sat16(v: int, low: int = -32768) -> int:
    return max(low, min(32767, v))


class Frontend:
    """One frame at a time, from a history of zeros."""

    def __init__(self, cfg: FrontendConfig) -> None:
        self.cfg, self.t = cfg, frontend_tables(cfg)
        self.smoother = [cfg.floor << 8] * cfg.n_mels

    def run(self, pcm: Sequence[int]) -> Grid:
        n, hop = self.cfg.window_samples, self.cfg.hop_samples
        x = [0] * (n - hop) + [int(v) for v in pcm]
        return [self.frame(x[k * hop : k * hop + n]) for k in range(len(pcm) // hop)]

    def frame(self, x: list[int]) -> list[int]:
        return self.compress(self.energies(x))

    def energies(self, x: list[int]) -> list[int]:
        n, t = self.cfg.window_samples, self.t
        half = n // 2
        a = [rs(v * int(w), 8) for v, w in zip(x, t.window_q15, strict=True)]
        z = [(a[2 * int(i)], a[2 * int(i) + 1]) for i in t.bit_reverse]
        length = 1
        while length < half:
            for start in range(0, half, 2 * length):
                for j in range(length):
                    twiddle = j * (half // (2 * length))
                    (ar, ai), (br, bi) = z[start + j], z[start + j + length]
                    if twiddle == 0:
                        tr, ti = br, bi
                    elif twiddle == half // 4:
                        tr, ti = bi, -br
                    else:
                        wr, wi = int(t.twiddle_re_q31[twiddle]), int(t.twiddle_im_q31[twiddle])
                        tr, ti = 2 * rs(wr * br - wi * bi, 32), 2 * rs(wr * bi + wi * br, 32)
                    z[start + j], z[start + j + length] = (ar + tr, ai + ti), (ar - tr, ai - ti)
                    assert max(map(abs, (*z[start + j], *z[start + j + length]))) < 1 << 30, "outside the range MODEL.md proves"
            length *= 2
        power = [rs(z[0][0] + z[0][1], 7) ** 2]
        for k in range(1, half):
            (zr, zi), (mr, mi) = z[k], z[half - k]
            o_r, o_i = zi + mi, -(zr - mr)
            cr, ci = int(t.split_re_q31[k]), int(t.split_im_q31[k])
            re = rs(zr + mr + 2 * rs(cr * o_r - ci * o_i, 32), 8)
            im = rs(zi - mi + 2 * rs(cr * o_i + ci * o_r, 32), 8)
            power.append(re * re + im * im)
        out, at = [], 0
        for first, count in zip(t.mel_first, t.mel_count, strict=True):
            out.append(rs(sum(int(t.mel_q15[at + i]) * power[int(first) + i] for i in range(count)), 15))
            at += int(count)
        return out

    def log2_q12(self, v: int) -> int:
        e = v.bit_length() - 1
        mantissa = (v << (24 - e) if e < 24 else v >> (e - 24)) - (1 << 24)
        i, f, t = mantissa >> 16, mantissa & 0xFFFF, self.t.log2_q16
        return (e << 12) + rs(int(t[i]) * 65536 + (int(t[i + 1]) - int(t[i])) * f, 20)

    def compress(self, energies: list[int]) -> list[int]:
        cfg, out = self.cfg, []
        for b, e in enumerate(energies):
            if cfg.compression == "log":
                out.append(sat16(rs(self.log2_q12(e + cfg.floor) - self.log2_q12(cfg.floor), 3)))
                continue
            self.smoother[b] += rs((e << 8) - self.smoother[b], cfg.pcen_smooth_shift)
            g = rs((self.log2_q12(e + 1) << 15) - self.t.alpha_q15 * self.log2_q12(rs(self.smoother[b], 8) + cfg.floor), 15)
            at = max(0, min(g + 8 * 4096, 24 * 4096))
            i = min(at >> 8, len(self.t.pcen_q9) - 2)
            low, high = int(self.t.pcen_q9[i]), int(self.t.pcen_q9[i + 1])
            out.append(rs(low * 256 + (high - low) * (at - 256 * i), 8))
        return out


def softmax_q15(logits: list[int]) -> list[int]:
    table, e = exp_table(), []
    for logit in logits:
        z = max(logits) - logit
        if z >= 12 * 2048:
            e.append(0)
            continue
        i, f = z // 128, z % 128
        e.append(rs(int(table[i]) * 128 + (int(table[i + 1]) - int(table[i])) * f, 7))
    return [min(32767, (v * 32768 + sum(e) // 2) // sum(e)) for v in e]


def sigmoid_q15(logit: int) -> int:
    table, at = sigmoid_table(), logit + 16 * 2048
    i = min(at // 128, len(table) - 2)
    return rs(int(table[i]) * 128 + (int(table[i + 1]) - int(table[i])) * (at - 128 * i), 7)


def _requant(acc: int, m: int, s: int, low: int = -32768) -> int:
    return sat16(rs(acc * m, s), low)


def run_network(model: IntModel, features: Grid) -> Grid:
    """Scores of every model step, by stepping from zero state."""
    c: ModelConfig = model.config
    x: list[Grid] = [[[v] for v in frame] for frame in features[: len(features) // c.frames_per_step * c.frames_per_step]]
    for index, conv in enumerate(c.conv):
        w, bias, mult, shift = (model[f"conv{index}.{k}"].tolist() for k in ("weight", "bias", "mult", "shift"))
        bins, y = len(x[0]), []
        pad = (conv.kernel_mel - 1) // 2
        for j in range(len(x) // conv.stride_time):
            row = []
            for b in range(-(-bins // conv.stride_mel)):
                cell = []
                for o in range(conv.channels):
                    acc = bias[o]
                    for kt in range(conv.kernel_time):
                        t = j * conv.stride_time + conv.stride_time - conv.kernel_time + kt
                        for kf in range(conv.kernel_mel):
                            f = b * conv.stride_mel - pad + kf
                            if t < 0 or not 0 <= f < bins:
                                continue
                            acc += (
                                w[o][kt][kf][0] * x[t][f][o]
                                if conv.depthwise
                                else sum(p * q for p, q in zip(w[o][kt][kf], x[t][f], strict=True))
                            )
                    cell.append(_requant(acc, mult[o], shift[o], 0))
                row.append(cell)
            y.append(row)
        x = y
    rows: Grid = [[v for cell in frame for v in cell] for frame in x]
    for index in range(len(c.layers)):
        rows = _run_layer(model, index, rows)
    w, bias, mult, shift = (model[f"head.{k}"].tolist() for k in ("weight", "bias", "mult", "shift"))
    logits = [[_requant(_dot(w[i], y) + bias[i], mult[i], shift[i]) for i in range(len(w))] for y in rows]
    return [softmax_q15(row) if c.head == "softmax" else [sigmoid_q15(v) for v in row] for row in logits]


def _dot(a: list[int], b: list[int]) -> int:
    return sum(p * q for p, q in zip(a, b, strict=True))


def _run_layer(model: IntModel, index: int, rows: Grid) -> Grid:
    layer = model.config.layers[index]
    prefix = f"pdmu{index}."
    t = {k.removeprefix(prefix): np.asarray(v).tolist() for k, v in model.tensors.items() if k.startswith(prefix)}
    q, d, hidden, full = layer.channels, layer.order, layer.hidden, layer.spikes_inside
    memory, past, writes, reads, outputs = [[0] * d for _ in range(q)], [], [0] * q, [0] * q * d, [0] * hidden
    arriving = {}  # of a routing gate: instant -> sums
    out: Grid = []
    for k, x in enumerate(rows):
        if full:
            current = [current30(_dot(t["wu"][i], x) + t["bu"][i], t["mu"][i], t["su"][i]) for i in range(q)]
            writes, fired = lif(writes, current, t["beta_u"], layer.lif.reset)
            u = [t["us"][0] * s for s in fired]
        else:
            u = [_requant(_dot(t["wu"][i], x) + t["bu"][i], t["mu"][i], t["su"][i]) for i in range(q)]
        ka = t["ka"][0]
        memory = [[sat16(rs(_dot(t["aq"][i], m) + t["bq"][i] * u[ch], ka)) for i in range(d)] for ch, m in enumerate(memory)]
        flat = [v for m in memory for v in m]
        p = flat if full else [_requant(_dot(t["wm"][h], flat), t["mp"][h], t["sp"][h]) for h in range(hidden)]
        if layer.gate_is_learned:
            logits = [_requant(_dot(t["wg"][i], x) + t["bg"][i], t["mg"][i], t["sg"][i]) for i in range(layer.taps)]
        if layer.routed:
            choice = logits.index(max(logits))
            weight = softmax_q15(logits)[choice]
            total = [a + b for a, b in zip(p, arriving.pop(k, [0] * len(p)), strict=True)]
            to = k + (choice + 1) * layer.dilation
            sent = p if layer.gate == "straight_through" else [rs(weight * v, 15) for v in p]
            arriving[to] = [sat16(a + b) for a, b in zip(arriving.get(to, [0] * len(p)), sent, strict=True)]
        else:
            g = softmax_q15(logits) if layer.gate == "softmax" else [min(32767, (32768 + layer.taps // 2) // layer.taps)] * layer.taps
            past.append((p, [] if layer.gate == "off" else g))
            total = [rs(v, 15) for v in _gathered(past, layer.dilation)]
        if full:
            current = [current30(v, t["mz"][j], t["sz"][j]) for j, v in enumerate(total)]
            reads, fired = lif(reads, current, t["beta_r"], layer.lif.reset)
            total = [_dot(row, fired) for row in t["wm"]]
        mixed = [v * t["mt"][h] + (_dot(t["wx"][h], x) + t["bx"][h]) * t["mx"][h] for h, v in enumerate(total)]
        if layer.residual:
            mixed = [v + x[h] * t["mr"][h] for h, v in enumerate(mixed)]
        if layer.spiking:
            outputs, fired = lif(outputs, [current30(v, 1, s) for v, s in zip(mixed, t["sh"], strict=True)], t["beta"], layer.lif.reset)
            out.append(fired)
        else:
            out.append([sat16(rs(v, s), 0) for v, s in zip(mixed, t["sh"], strict=True)])
    return out


def _gathered(past: list[tuple[list[int], list[int]]], dilation: int) -> list[int]:
    """``(p << 15) + sum_i g_i[k - i tau] p[k - i tau]`` at the newest step."""
    p, g = past[-1]
    total = [v << 15 for v in p]
    for i in range(1, len(g) + 1):
        then = len(past) - 1 - i * dilation
        if then >= 0:
            total = [v + past[then][1][i - 1] * w for v, w in zip(total, past[then][0], strict=True)]
    return total


def current30(acc: int, m: int, s: int) -> int:
    return max(-(1 << 30), min(1 << 30, rs(acc * m, s)))


def lif(v: list[int], current: list[int], beta: list[int], reset: str) -> tuple[list[int], list[int]]:
    """Potentials and spikes of one step; potentials count 2^-16 of the threshold."""
    threshold, after = 1 << 16, []
    for before, given, b in zip(v, current, beta, strict=True):
        fired = before > threshold
        kept = 0 if fired and reset == "zero" else before
        taken = threshold if fired and reset == "subtract" else 0
        after.append(max(-(1 << 30), min(1 << 30, rs(b * kept, 15) + given - taken)))
    return after, [int(u > threshold) for u in after]
