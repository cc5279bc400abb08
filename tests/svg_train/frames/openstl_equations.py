"""OpenSTL's six recurrent models, restated from their equations as functions of a state_dict with OpenSTL's own names.

Nothing is shared with the product: patches by slicing, three-dimensional convolutions, a history that grows, no batch of gates
that would be left out. Weights are random, large enough that forecasts move.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, sigmoid, tanh

Weights = dict[str, Tensor]


def patches(frame: Tensor, p: int) -> Tensor:
    """Channel (py * p + px) * C + c."""
    return torch.cat([frame[:, :, py::p, px::p] for py in range(p) for px in range(p)], dim=1)


def picture(maps: Tensor, p: int, channels: int) -> Tensor:
    frame = maps.new_zeros(maps.shape[0], channels, maps.shape[2] * p, maps.shape[3] * p)
    for index in range(p * p):
        frame[:, :, index // p :: p, index % p :: p] = maps[:, index * channels : (index + 1) * channels]
    return frame


def gates(w: Weights, name: str, x: Tensor, parts: int, stride: int = 1) -> tuple[Tensor, ...]:
    if f"{name}.0.conv3d.weight" in w:
        kernel = w[f"{name}.0.conv3d.weight"]
        y = F.conv3d(x, kernel, stride=stride, padding=(0, kernel.shape[3] // 2, kernel.shape[4] // 2))
        y = F.interpolate(y, size=x.shape[-3:], mode="nearest")
    else:
        kernel = w[f"{name}.0.weight"]
        y = F.conv2d(x, kernel, padding=kernel.shape[2] // 2)
    if f"{name}.1.weight" in w:
        y = F.layer_norm(y, y.shape[1:], w[f"{name}.1.weight"], w[f"{name}.1.bias"])
    return y.chunk(parts, dim=1)


def convlstm(w: Weights, old: bool, stride: int) -> Callable[[Tensor], Tensor]:
    h, c = {}, {}

    def step(x: Tensor) -> Tensor:
        layer = 0
        while f"cell_list.{layer}.conv_x.0.weight" in w:
            name = f"cell_list.{layer}"
            zero = x.new_zeros(x.shape[0], w[f"{name}.conv_last.weight"].shape[0], *x.shape[2:])
            i, f, g, o = (
                a + b
                for a, b in zip(
                    gates(w, f"{name}.conv_x", x, 4), gates(w, f"{name}.conv_h", h.get(layer, zero), 4), strict=True
                )
            )
            c[layer] = sigmoid(f) * c.get(layer, zero) + sigmoid(i) * tanh(g)
            x = h[layer] = sigmoid(o) * tanh(g if old else c[layer])
            layer += 1
        return F.conv2d(x, w["conv_last.weight"])

    return step


def st_lstm(w: Weights, name: str, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ix, fx, gx, ix2, fx2, gx2, ox = gates(w, f"{name}.conv_x", x, 7)
    ih, fh, gh, oh = gates(w, f"{name}.conv_h", h, 4)
    im, fm, gm = gates(w, f"{name}.conv_m", m, 3)
    c = sigmoid(fx + fh + 1) * c + sigmoid(ix + ih) * tanh(gx + gh)
    m = sigmoid(fx2 + fm + 1) * m + sigmoid(ix2 + im) * tanh(gx2 + gm)
    both = torch.cat([c, m], 1)
    o = sigmoid(ox + oh + gates(w, f"{name}.conv_o", both, 1)[0])
    return o * tanh(F.conv2d(both, w[f"{name}.conv_last.weight"])), c, m


def predrnn(w: Weights, old: bool, stride: int) -> Callable[[Tensor], Tensor]:
    h, c, memory = {}, {}, {}

    def step(x: Tensor) -> Tensor:
        zero = x.new_zeros(x.shape[0], w["cell_list.0.conv_last.weight"].shape[0], *x.shape[2:])
        m, layer = memory.get("m", zero), 0
        while f"cell_list.{layer}.conv_x.0.weight" in w:
            x, c[layer], m = st_lstm(w, f"cell_list.{layer}", x, h.get(layer, zero), c.get(layer, zero), m)
            h[layer] = x
            layer += 1
        memory["m"] = m
        return F.conv2d(x, w["conv_last.weight"])

    return step


def causal_lstm(w: Weights, name: str, x: Tensor, h: Tensor, c: Tensor, m: Tensor, old: bool) -> tuple[Tensor, Tensor, Tensor]:
    ix, fx, gx, ix2, fx2, gx2, ox = gates(w, f"{name}.conv_x", x, 7)
    ih, fh, gh, oh = gates(w, f"{name}.conv_h", h, 4)
    ic, fc, gc = gates(w, f"{name}.conv_c", m if old else c, 3)
    im, fm, mm = gates(w, f"{name}.conv_m", m, 3)
    c = sigmoid(fx + fh + fc + 1) * c + sigmoid(ix + ih + ic) * tanh(gx + gh + gc)
    i2, g2, f2, o2 = gates(w, f"{name}.conv_c2m", c, 4)
    m = sigmoid(fx2 + fm + f2 + 1) * tanh(mm) + sigmoid(ix2 + im + i2) * tanh(gx2 + g2)
    o = tanh(ox + oh + o2 + gates(w, f"{name}.conv_om", m, 1)[0])
    return o * tanh(F.conv2d(torch.cat([c, m], 1), w[f"{name}.conv_last.weight"])), c, m


def predrnnpp(w: Weights, old: bool, stride: int) -> Callable[[Tensor], Tensor]:
    h, c, memory = {}, {}, {}

    def step(x: Tensor) -> Tensor:
        zero = x.new_zeros(x.shape[0], w["cell_list.0.conv_last.weight"].shape[0], *x.shape[2:])
        m, layer = memory.get("m", zero), 0
        while f"cell_list.{layer}.conv_x.0.weight" in w:
            x, c[layer], m = causal_lstm(w, f"cell_list.{layer}", x, h.get(layer, zero), c.get(layer, zero), m, old)
            h[layer] = x
            if layer == 0:
                z = memory.get("z", zero)
                px, ux = gates(w, "gradient_highway.x_concat", x, 2)
                pz, uz = gates(w, "gradient_highway.z_concat", z, 2)
                x = memory["z"] = sigmoid(ux + uz) * tanh(px + pz) + (1 - sigmoid(ux + uz)) * z
            layer += 1
        memory["m"] = m
        return F.conv2d(x, w["conv_last.weight"])

    return step


def peephole_lstm(w: Weights, name: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    ih, gh, fh, oh = gates(w, f"{name}.conv_h_concat", h, 4)
    ix, gx, fx, ox = gates(w, f"{name}.conv_x_concat", x, 4)
    ic, fc = (c.repeat(1, 2, 1, 1) * w[f"{name}.ct_weight"]).chunk(2, 1)
    c = sigmoid(fh + fx + fc + 1) * c + sigmoid(ih + ix + ic) * tanh(gh + gx)
    return sigmoid(oh + ox + c * w[f"{name}.oc_weight"]) * tanh(c), c


def mim(w: Weights, old: bool, stride: int) -> Callable[[Tensor], Tensor]:
    h, c, s, d, e, memory = {}, {}, {}, {}, {}, {}

    def step(x: Tensor) -> Tensor:
        zero = x.new_zeros(x.shape[0], w["stlstm_layer.0.conv_last.weight"].shape[0], *x.shape[2:])
        before = h.get(0, zero)
        x, c[0], m = st_lstm(w, "stlstm_layer.0", x, before, c.get(0, zero), memory.get("m", zero))
        first_step, h[0], layer = "m" not in memory, x, 1
        while f"stlstm_layer.{layer}.conv_x_cc.0.weight" in w:
            name = f"stlstm_layer.{layer}"
            if first_step:
                difference = zero
            else:
                changed = x - before if layer == 1 else d[layer - 1]
                d[layer], e[layer] = peephole_lstm(
                    w, f"stlstm_layer_diff.{layer - 1}", changed, d.get(layer, zero), e.get(layer, zero)
                )
                difference = d[layer]
            it, gt, ot = gates(w, f"{name}.conv_t_cc", h.get(layer, zero), 3)
            is_, gs, fs, os_ = gates(w, f"{name}.conv_s_cc", m, 4)
            ix, gx, fx, ox = gates(w, f"{name}.conv_x_cc", x, 4)
            m = sigmoid(fx + fs + 1) * m + sigmoid(ix + is_) * tanh(gx + gs)
            kept, s[layer] = peephole_lstm(w, name, difference, c.get(layer, zero), s.get(layer, zero))
            c[layer] = kept + sigmoid(ix + it) * tanh(gx + gt)
            both = torch.cat([c[layer], m], 1)
            x = h[layer] = sigmoid(ox + ot + os_) * tanh(F.conv2d(both, w[f"{name}.conv_last.weight"]))
            layer += 1
        memory["m"] = m
        return F.conv2d(x, w["conv_last.weight"])

    return step


def attend(query: Tensor, keys: Tensor) -> Tensor:
    batch, hidden, _, height, width = query.shape
    q, k = query.reshape(batch, -1, hidden), keys.reshape(batch, -1, hidden)
    weights = torch.softmax(torch.einsum("bxc,byc->bxy", q, k), dim=2)
    return torch.einsum("bxy,byc->bxc", weights, k).reshape(batch, hidden, 2, height, width)


def e3d_lstm(w: Weights, old: bool, stride: int) -> Callable[[Tensor], Tensor]:
    h, c, history, memory = {}, {}, {}, {}

    def step(x: Tensor) -> Tensor:
        hidden = w["cell_list.0.conv_last.conv3d.weight"].shape[0]
        zero = x.new_zeros(x.shape[0], hidden, 2, *x.shape[2:])
        previous, memory["x"], layer = memory.get("x", torch.zeros_like(x)), x, 0
        x = torch.stack([previous, x], 2)
        while f"cell_list.{layer}.conv_x.0.conv3d.weight" in w:
            name = f"cell_list.{layer}"
            cell = c.get(layer, zero)
            history[layer] = torch.cat([history[layer], cell], 1) if layer in history else cell
            ix, gx, rx, ox, ix2, gx2, fx2 = gates(w, f"{name}.conv_x", x, 7, stride)
            ih, gh, rh, oh = gates(w, f"{name}.conv_h", h.get(layer, zero), 4, stride)
            im, fm, gm, mm = gates(w, f"{name}.conv_gm", zero, 4, stride)
            norm = w[f"{name}._norm_c_t.weight"], w[f"{name}._norm_c_t.bias"]
            cell = F.layer_norm(cell + attend(sigmoid(rx + rh), history[layer]), cell.shape[1:], *norm)
            cell = cell + sigmoid(ix + ih) * tanh(gx + gh)
            m = sigmoid(fx2 + fm + 1) * tanh(mm) + sigmoid(ix2 + im) * tanh(gx2 + gm)
            o = tanh(
                ox
                + oh
                + gates(w, f"{name}.conv_new_cell", cell, 1, stride)[0]
                + gates(w, f"{name}.conv_new_gm", m, 1, stride)[0]
            )
            mixed = F.conv3d(torch.cat([cell, m], 1), w[f"{name}.conv_last.conv3d.weight"])
            x = h[layer] = sigmoid(o) * tanh(mixed)
            c[layer] = cell
            layer += 1
        return F.conv3d(x, w["conv_last.weight"]).squeeze(2)

    return step


STEPS = {
    "convlstm": convlstm, "predrnn": predrnn, "predrnnv2": predrnn, "predrnnpp": predrnnpp, "mim": mim, "e3dlstm": e3d_lstm,
}  # fmt: skip


def forecast(method: str, weights: Weights, frames: Tensor, horizon: int, patch: int, old: bool, stride: int) -> Tensor:
    """The predictions of frames 1 ... n - 1 from the true ones, and of `horizon` later ones; frames (n, B, C, H, W)."""
    step, made = STEPS[method](weights, old, stride), []
    for index in range(len(frames) + horizon - 1):
        given = frames[index] if index < len(frames) else made[-1]
        made.append(picture(step(patches(given, patch)), patch, frames.shape[2]))
    return torch.stack(made)


def random_weights(method: str, channels: int, plane: tuple[int, int], hidden: tuple[int, ...], k: int, norm: bool) -> Weights:
    """A state_dict of OpenSTL; `channels` is that of a patch."""
    rng = torch.Generator().manual_seed(len(hidden) + channels)
    w: Weights = {}

    def add(name: str, *shape: int, gain: float = 1.0) -> None:
        fan_in = max(1, int(torch.tensor(shape[1:]).prod()))
        w[name] = torch.randn(*shape, generator=rng) * gain * 1.5 / fan_in**0.5

    def add_gates(name: str, inputs: int, outputs: int) -> None:
        solid = method == "e3dlstm"
        add(f"{name}.0.{'conv3d.' if solid else ''}weight", outputs, inputs, *([2] if solid else []), k, k)
        if norm:
            add_norm(f"{name}.1", outputs)

    def add_norm(name: str, outputs: int) -> None:
        shape = (outputs, *([2] if method == "e3dlstm" else []), *plane)
        w[f"{name}.weight"] = 1 + 0.3 * torch.randn(*shape, generator=rng)
        w[f"{name}.bias"] = 0.5 * torch.randn(*shape, generator=rng)

    def add_peepholes(name: str, c: int) -> None:
        w[f"{name}.ct_weight"] = torch.randn(2 * c, *plane, generator=rng)
        w[f"{name}.oc_weight"] = torch.randn(c, *plane, generator=rng)
        add_gates(f"{name}.conv_h_concat", c, 4 * c)
        add_gates(f"{name}.conv_x_concat", c, 4 * c)
        add(f"{name}.conv_last.weight", c, 2 * c, 1, 1)

    for layer, (x, c) in enumerate(zip((channels, *hidden), hidden, strict=False)):
        name = f"{'stlstm_layer' if method == 'mim' else 'cell_list'}.{layer}"
        if method == "mim" and layer:
            for part, size in (("conv_t_cc", 3), ("conv_s_cc", 4), ("conv_x_cc", 4)):
                add_gates(f"{name}.{part}", c, size * c)
            add_peepholes(name, c)
            add_peepholes(f"stlstm_layer_diff.{layer - 1}", c)
            continue
        spatiotemporal = {"conv_x": (x, 7), "conv_h": (c, 4), "conv_m": (c, 3), "conv_o": (2 * c, 1)}
        parts: dict[str, tuple[int, int]] = {
            "convlstm": {"conv_x": (x, 4), "conv_h": (c, 4), "conv_o": (2 * c, 1)},
            "predrnnpp": {**spatiotemporal, "conv_c": (c, 3), "conv_c2m": (c, 4), "conv_om": (c, 1)},
            "e3dlstm": {"conv_x": (x, 7), "conv_h": (c, 4), "conv_gm": (c, 4), "conv_new_cell": (c, 1), "conv_new_gm": (c, 1)},
        }.get(method, spatiotemporal)
        for part, (inputs, size) in parts.items():
            add_gates(f"{name}.{part}", inputs, size * c)
        if method == "e3dlstm":
            add_norm(f"{name}._norm_c_t", c)
            add(f"{name}.conv_last.conv3d.weight", c, 2 * c, 1, 1, 1)
        else:
            add(f"{name}.conv_last.weight", c, 2 * c, 1, 1)
    if method == "predrnnpp":
        for part in ("z_concat", "x_concat"):
            add_gates(f"gradient_highway.{part}", hidden[0], 2 * hidden[0])
    if method == "predrnnv2":
        add("adapter.weight", hidden[0], hidden[0], 1, 1)
    planes = [2, 1, 1] if method == "e3dlstm" else [1, 1]
    add("conv_last.weight", channels, hidden[-1], *planes, gain=1.5)
    return w
