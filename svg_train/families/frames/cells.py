"""One layer and one step of each recurrent cell. All maps are (B, C, H, W); sigma is the logistic function.

The equations and the order of the gates are those of OpenSTL (https://github.com/chengtan9907/OpenSTL). Gates with a 2 in their
names belong to the second memory, m, that papers mark with a prime.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svg_train.families.frames.config import FramesConfig
from svg_train.families.frames.layers import Convolution, Gates, PlaneGates, both_planes

# Added to an attention score of -3e4, exp is 0 in any precision, and float16 still holds it.
_NEVER = 3e4


class ConvLstmCell(nn.Module):
    """ConvLSTM (Shi et al. 2015) without peepholes: c' = sigma(f) c + sigma(i) tanh(g), h' = sigma(o) tanh(c')."""

    state_names = ("h", "c")

    def __init__(self, inputs: int, hidden: int, config: FramesConfig) -> None:
        super().__init__()
        self.conv_x = Gates(inputs, hidden, 4, config)
        self.conv_h = Gates(hidden, hidden, 4, config)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """x (B, inputs, H, W), h, c (B, hidden, H, W) -> h, c of the next step."""
        i, f, g, o = (self.conv_x(x) + self.conv_h(h)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class MemorylessConvLstmCell(nn.Module):
    """ConvLSTM as OpenSTL had it before 1.0: h' = sigma(o) tanh(g).

    c never reaches its output, and without layer normalization over all four gates, neither do i and f: they are left out.
    """

    state_names = ("h",)

    def __init__(self, inputs: int, hidden: int, config: FramesConfig) -> None:
        super().__init__()
        self._parts = 4 if config.layer_norm else 2
        self.conv_x = Gates(inputs, hidden, self._parts, config)
        self.conv_h = Gates(hidden, hidden, self._parts, config)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """x (B, inputs, H, W), h (B, hidden, H, W) -> h of the next step."""
        *_, g, o = (self.conv_x(x) + self.conv_h(h)).chunk(self._parts, dim=1)
        return (o.sigmoid() * g.tanh(),)


class SpatioTemporalCell(nn.Module):
    """PredRNN's cell (Wang et al. 2017, ST-LSTM): beside c, a memory m that climbs through the layers."""

    def __init__(self, inputs: int, hidden: int, config: FramesConfig) -> None:
        super().__init__()
        self.conv_x = Gates(inputs, hidden, 7, config)
        self.conv_h = Gates(hidden, hidden, 4, config)
        self.conv_m = Gates(hidden, hidden, 3, config)
        self.conv_o = Gates(2 * hidden, hidden, 1, config)
        self.conv_last = Convolution(2 * hidden, hidden)

    def forward(
        self, x: Tensor, h: Tensor, c: Tensor, m: Tensor, increments: list[tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, inputs, H, W), h, c, m (B, hidden, H, W) -> h, c, m; appends what it adds to c and m to `increments`."""
        i_x, f_x, g_x, i2_x, f2_x, g2_x, o_x = self.conv_x(x).chunk(7, dim=1)
        i_h, f_h, g_h, o_h = self.conv_h(h).chunk(4, dim=1)
        i2_m, f2_m, g2_m = self.conv_m(m).chunk(3, dim=1)
        to_c = (i_x + i_h).sigmoid() * (g_x + g_h).tanh()
        to_m = (i2_x + i2_m).sigmoid() * (g2_x + g2_m).tanh()
        c = (f_x + f_h + 1).sigmoid() * c + to_c
        m = (f2_x + f2_m + 1).sigmoid() * m + to_m
        if increments is not None:
            increments.append((to_c, to_m))
        memories = torch.cat([c, m], dim=1)
        o = (o_x + o_h + self.conv_o(memories)).sigmoid()
        return o * self.conv_last(memories).tanh(), c, m


class CausalCell(nn.Module):
    """PredRNN++'s cell (Wang et al. 2018, Causal LSTM): m is updated from c', one after the other.

    Before OpenSTL 1.0, `conv_c` read m instead of c.
    """

    def __init__(self, inputs: int, hidden: int, config: FramesConfig) -> None:
        super().__init__()
        self.conv_x = Gates(inputs, hidden, 7, config)
        self.conv_h = Gates(hidden, hidden, 4, config)
        self.conv_c = Gates(hidden, hidden, 3, config)
        self.conv_m = Gates(hidden, hidden, 3, config)
        self.conv_c2m = Gates(hidden, hidden, 4, config)
        self.conv_om = Gates(hidden, hidden, 1, config)
        self.conv_last = Convolution(2 * hidden, hidden)
        self._reads_m = config.dialect == "openstl-0.3"

    def forward(
        self, x: Tensor, h: Tensor, c: Tensor, m: Tensor, increments: list[tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, inputs, H, W), h, c, m (B, hidden, H, W) -> h, c, m. `increments` stays as it is."""
        i_x, f_x, g_x, i2_x, f2_x, g2_x, o_x = self.conv_x(x).chunk(7, dim=1)
        i_h, f_h, g_h, o_h = self.conv_h(h).chunk(4, dim=1)
        i_c, f_c, g_c = self.conv_c(m if self._reads_m else c).chunk(3, dim=1)
        i2_m, f2_m, g2_m = self.conv_m(m).chunk(3, dim=1)
        c = (f_x + f_h + f_c + 1).sigmoid() * c + (i_x + i_h + i_c).sigmoid() * (g_x + g_h + g_c).tanh()
        i2_c, g2_c, f2_c, o_c = self.conv_c2m(c).chunk(4, dim=1)
        m = (f2_x + f2_m + f2_c + 1).sigmoid() * g2_m.tanh() + (i2_x + i2_m + i2_c).sigmoid() * (g2_x + g2_c).tanh()
        o = (o_x + o_h + o_c + self.conv_om(m)).tanh()
        h = o * self.conv_last(torch.cat([c, m], dim=1)).tanh()
        return h, c, m


class GradientHighway(nn.Module):
    """PredRNN++'s gradient highway unit: z' = sigma(u) tanh(p) + (1 - sigma(u)) z."""

    def __init__(self, hidden: int, config: FramesConfig) -> None:
        super().__init__()
        self.x_concat = Gates(hidden, hidden, 2, config)
        self.z_concat = Gates(hidden, hidden, 2, config)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x, z (B, hidden, H, W) -> z of the next step."""
        p, u = (self.x_concat(x) + self.z_concat(z)).chunk(2, dim=1)
        share = u.sigmoid()
        z_next: Tensor = share * p.tanh() + (1 - share) * z
        return z_next


class PeepholeCell(nn.Module):
    """An LSTM whose gates also see its cell, pixel by pixel: MIM's modules for differences and for what is stationary."""

    def __init__(self, hidden: int, config: FramesConfig) -> None:
        super().__init__()
        self.conv_x_concat = Gates(hidden, hidden, 4, config)
        self.conv_h_concat = Gates(hidden, hidden, 4, config)
        self.ct_weight = nn.Parameter(torch.zeros(2 * hidden, *config.plane))
        self.oc_weight = nn.Parameter(torch.zeros(hidden, *config.plane))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """x, h, c (B, hidden, H, W) -> h, c of the next step."""
        i, g, f, o = (self.conv_x_concat(x) + self.conv_h_concat(h)).chunk(4, dim=1)
        i_weight, f_weight = self.ct_weight.chunk(2, dim=0)
        c_next = (f + f_weight * c + 1).sigmoid() * c + (i + i_weight * c).sigmoid() * g.tanh()
        return (o + self.oc_weight * c_next).sigmoid() * c_next.tanh(), c_next


class MimBlock(nn.Module):
    """MIM's cell from layer 2 on (Wang et al. 2019): an ST-LSTM whose forget gate of c is an LSTM on differences."""

    def __init__(self, hidden: int, config: FramesConfig) -> None:
        super().__init__()
        self.conv_t_cc = Gates(hidden, hidden, 3, config)
        self.conv_s_cc = Gates(hidden, hidden, 4, config)
        self.conv_x_cc = Gates(hidden, hidden, 4, config)
        self.stationary = PeepholeCell(hidden, config)
        self.conv_last = Convolution(2 * hidden, hidden)

    def forward(self, x: Tensor, d: Tensor, h: Tensor, c: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        """All (B, hidden, H, W): x, the difference d, h, c, m and the stationary module's cell s -> h, c, m, s."""
        i_t, g_t, o_t = self.conv_t_cc(h).chunk(3, dim=1)
        i_s, g_s, f_s, o_s = self.conv_s_cc(m).chunk(4, dim=1)
        i_x, g_x, f_x, o_x = self.conv_x_cc(x).chunk(4, dim=1)
        m = (f_x + f_s + 1).sigmoid() * m + (i_x + i_s).sigmoid() * (g_x + g_s).tanh()
        kept, s = self.stationary(d, c, s)
        c = kept + (i_x + i_t).sigmoid() * (g_x + g_t).tanh()
        o = (o_x + o_t + o_s).sigmoid()
        return o * self.conv_last(torch.cat([c, m], dim=1)).tanh(), c, m, s


class EideticCell(nn.Module):
    """E3D-LSTM's cell (Wang et al. 2019) over two time planes, which lie beside each other: channel c * 2 + plane.

    Its global memory is never passed on in OpenSTL: it is zero at every step. Then, without layer normalization, its
    convolution and the forget gate drop out exactly; with it, the bias of the norm is what is left of the convolution.
    """

    def __init__(self, inputs: int, hidden: int, config: FramesConfig) -> None:
        super().__init__()
        self._parts = 7 if config.layer_norm else 6
        self.conv_x = PlaneGates(inputs, hidden, self._parts, config)
        self.conv_h = PlaneGates(hidden, hidden, 4, config)
        self.conv_new_cell = PlaneGates(hidden, hidden, 1, config)
        self.conv_new_gm = PlaneGates(hidden, hidden, 1, config)
        self.conv_last = Convolution(2 * hidden, hidden)
        self.norm_c = nn.LayerNorm([2 * hidden, *config.plane])
        self.gm_bias = nn.Parameter(torch.zeros(4 * hidden, 2, *config.plane)) if config.layer_norm else None
        self._shape = (-1, hidden, 2, *config.plane)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, history: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            x: (B, 2 * inputs, H, W).
            h: (B, 2 * hidden, H, W).
            c: (B, 2 * hidden, H, W).
            history: (B, K, 2 * H * W, hidden) cells up to and with c, oldest first.
            filled: (B, K) 1 where the history has an entry, else 0.

        Returns:
            h, c of the next step.
        """
        i_x, g_x, r_x, o_x, *second = self.conv_x(x).chunk(self._parts, dim=1)
        i_h, g_h, r_h, o_h = self.conv_h(h).chunk(4, dim=1)
        recalled = self._attend((r_x + r_h).sigmoid(), history, filled)
        added = (i_x + i_h).sigmoid() * (g_x + g_h).tanh()
        cell = self.norm_c(c + recalled).reshape(self._shape) + added
        memory = both_planes(self._global_memory(second))
        o = (o_x + o_h + self.conv_new_cell(cell.flatten(1, 2)) + self.conv_new_gm(memory.flatten(1, 2))).tanh()
        h_next = o.sigmoid() * self._mixed(cell, memory).tanh()
        return h_next.flatten(1, 2), cell.flatten(1, 2)

    def _attend(self, query: Tensor, history: Tensor, filled: Tensor) -> Tensor:
        """softmax(r K^T) K over the history. As in the original, (C, 2, H, W) becomes (2HW, C) without transposing.

        A query of one plane stands for two that are equal. Their answers are equal as well, unless a row has parts of both.
        """
        _, hidden, _, height, width = self._shape
        if height * width % hidden:
            query = both_planes(query)
        planes = query.shape[2]
        asked = query.reshape(-1, planes * height * width, hidden)
        recalled = _recall_while_training(asked, history, filled) if self.training else _recall(asked, history, filled)
        return both_planes(recalled.reshape(-1, hidden, planes, height, width)).reshape(-1, 2 * hidden, height, width)

    def _global_memory(self, gates: list[Tensor]) -> Tensor:
        """The new global memory (B, hidden, 1 or 2, H, W), from one of zeros."""
        if self.gm_bias is None:
            i2, g2 = gates
            return i2.sigmoid() * g2.tanh()
        i2, g2, f2 = gates
        i_m, f_m, g_m, m_m = self.gm_bias.chunk(4, dim=0)
        return (f2 + f_m + 1).sigmoid() * m_m.tanh() + (i2 + i_m).sigmoid() * (g2 + g_m).tanh()

    def _mixed(self, cell: Tensor, memory: Tensor) -> Tensor:
        """The 1x1x1 convolution of [c', m'], both planes below each other."""
        _, hidden, _, height, width = self._shape
        mixed: Tensor = self.conv_last(torch.cat([cell, memory], dim=1).reshape(-1, 2 * hidden, 2 * height, width))
        return mixed.reshape(self._shape)


def _recall(asked: Tensor, history: Tensor, filled: Tensor) -> Tensor:
    """softmax(r K^T) K for rows (B, R, C), in operators that every runtime has."""
    _, length, rows, hidden = history.shape
    keys = history.reshape(-1, length * rows, hidden)
    scores = asked @ keys.transpose(1, 2)
    mask = (filled - 1) * _NEVER
    masked = scores.reshape(-1, asked.shape[1], length, rows) + mask.reshape(-1, 1, length, 1)
    weights = masked.reshape(-1, asked.shape[1], length * rows).softmax(dim=2)
    recalled: Tensor = weights @ keys
    return recalled


def _recall_while_training(asked: Tensor, history: Tensor, filled: Tensor) -> Tensor:
    """The same without the entries that are still empty, and without keeping all weights for the gradient.

    In training all sequences of a batch begin together, so the first one tells how many entries there are.
    """
    used = int(filled[0].sum())
    keys = history[:, -used:].flatten(1, 2).unsqueeze(1)
    return F.scaled_dot_product_attention(asked.unsqueeze(1), keys, keys, scale=1.0).squeeze(1)
