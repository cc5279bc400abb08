"""The networks of svg-prime as its author named and wired them, at any width: 3x3 convolutions over maps, concatenations.

`generate` of `benchmarks.reference_networks` runs them: the rule is the reference's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reference_networks import randomize, vgg_blocks


def conv(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, 1, 1)


class Encoder(nn.Module):
    """x (B, C, S, S) -> h (B, g_dim, S / 8, S / 8) and three skips, finest first."""

    def __init__(self, channels: int, nf: int, g_dim: int) -> None:
        super().__init__()
        self.c1 = nn.Sequential(*vgg_blocks(channels, [nf] * 2))
        self.c2 = nn.Sequential(*vgg_blocks(nf, [2 * nf] * 2))
        self.c3 = nn.Sequential(*vgg_blocks(2 * nf, [4 * nf] * 3))
        self.c4 = conv(4 * nf, g_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for stage in (self.c1, self.c2, self.c3):
            skips.append(stage(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        return self.c4(x), skips


class Decoder(nn.Module):
    """g (B, g_dim, S / 8, S / 8) and the skips -> frame."""

    def __init__(self, channels: int, nf: int, g_dim: int) -> None:
        super().__init__()
        self.upc1 = conv(g_dim, 4 * nf)
        self.upc2 = nn.Sequential(*vgg_blocks(8 * nf, [4 * nf, 4 * nf, 2 * nf]))
        self.upc3 = nn.Sequential(*vgg_blocks(4 * nf, [2 * nf, nf]))
        self.upc4 = nn.Sequential(*vgg_blocks(2 * nf, [nf]), nn.ConvTranspose2d(nf, channels, 3, 1, 1), nn.Sigmoid())

    def forward(self, g: Tensor, skips: list[Tensor]) -> Tensor:
        d = self.upc1(g)
        for stage, skip in zip((self.upc2, self.upc3, self.upc4), reversed(skips), strict=True):
            d = stage(torch.cat([nn.functional.interpolate(d, scale_factor=2), skip], 1))
        return d


class Cell(nn.Module):
    """Gates in the order i, f, o, g of one convolution over [x, h]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = conv(2 * size, 4 * size)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.conv(torch.cat([x, state[0]], 1)).chunk(4, 1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ConvLstm(nn.Module):
    """`ConvLSTM`; with `gaussian`, `ConvGaussianLSTM`, here with noise as an input."""

    def __init__(self, inputs: int, outputs: int, size: int, layers: int, side: int, gaussian: bool) -> None:
        super().__init__()
        self.embed = conv(inputs, size)
        self.lstm = nn.ModuleList(Cell(size) for _ in range(layers))
        self.side, self.gaussian = side, gaussian
        if gaussian:
            self.mu_net = conv(size, outputs)
            self.logvar_net = conv(size, outputs)
        else:
            self.output = nn.Sequential(conv(size, outputs), nn.Tanh())

    def reset(self, batch: int) -> None:
        zeros = self.embed.weight.new_zeros(batch, self.embed.out_channels, self.side, self.side)
        self.hidden = [(zeros, zeros) for _ in self.lstm]

    def forward(self, x: Tensor, eps: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        x = self.embed(x)
        for index, cell in enumerate(self.lstm):
            self.hidden[index] = cell(x, self.hidden[index])
            x = self.hidden[index][0]
        if not self.gaussian:
            return self.output(x)
        mu, logvar = self.mu_net(x), self.logvar_net(x)
        return mu + eps * (0.5 * logvar).exp(), mu, logvar


def build(
    image_size: int = 64, channels: int = 1, nf: int = 2, g_dim: int = 6, z_dim: int = 3, size: int = 8,
    layers: tuple[int, int, int] = (2, 1, 1), prior: str = "learned", a_dim: int = 0, says_size: bool = False,
) -> dict[str, nn.Module]:  # fmt: skip
    """K = nf / 64, M = size / 512, with weights for which frames and samples differ visibly.

    With `says_size` the predictor keeps the size of its maps, as the original's does.
    """
    torch.manual_seed(0)
    side = image_size // 8
    z = 0 if prior == "none" else z_dim
    parts: dict[str, nn.Module] = {"encoder": Encoder(channels, nf, g_dim), "decoder": Decoder(channels, nf, g_dim)}
    parts["frame_predictor"] = ConvLstm(g_dim + z + a_dim, g_dim, size, layers[0], side, gaussian=False)
    if says_size:
        parts["frame_predictor"].image_size = (side, side)
    if prior != "none":
        parts["posterior"] = ConvLstm(g_dim, z_dim, size, layers[1], side, gaussian=True)
    if prior == "learned":
        parts["prior"] = ConvLstm(g_dim, z_dim, size, layers[2], side, gaussian=True)
    for part in parts.values():
        for module in part.modules():
            randomize(module)
        part.eval()
    return parts


def options(**given: Any) -> dict[str, Any]:
    """The Namespace of its training program for the defaults of `build`, with what is `given`."""
    values = {
        "model": "shallow_vgg", "image_width": 64, "channels": 1, "g_dim": 6, "z_dim": 3, "a_dim": 0, "rnn_size": 512,
        "M": 1 / 64, "K": 1 / 32, "predictor_rnn_layers": 2, "posterior_rnn_layers": 1, "prior_rnn_layers": 1,
        "n_past": 3, "n_future": 7, "last_frame_skip": False, "beta": 1e-4, "lr": 3e-4, "batch_size": 100,
        "dataset": "perceptual_metrics", "seed": 1,
    }  # fmt: skip
    return {**values, **given}
