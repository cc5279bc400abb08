"""The reference's networks as its authors named and wired them, at any width: concatenations, LSTM cells, numbered blocks.

`build` makes random ones, `with_weights_of` loads the weights of one of our models, and `generate` is the reference's
generation rule. The tests compare the importer with them; the benchmarks measure them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from svg_train.families.svg.model import SVG
from svg_train.reference.names import map_parameters


class Block(nn.Module):
    """`dcgan_conv`, `dcgan_upconv` and `vgg_layer` of the reference: its layers are in `main`."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.LeakyReLU(0.2, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, s, s) -> (B, c_out, s', s')."""
        return self.main(x)


def widths(image_size: int, nf: int) -> list[int]:
    return [nf, 2 * nf, 4 * nf, 8 * nf] + ([8 * nf] if image_size == 128 else [])


def vgg_blocks(c_in: int, outputs: list[int]) -> list[nn.Module]:
    return [Block(nn.Conv2d(a, b, 3, 1, 1)) for a, b in zip([c_in, *outputs], outputs, strict=False)]


class Encoder(nn.Module):
    """x (B, C, S, S) -> h (B, g_dim) and the skips, finest first."""

    def __init__(self, backbone: str, image_size: int, channels: int, nf: int, g_dim: int) -> None:
        super().__init__()
        self.pooled = backbone == "vgg"
        sizes = widths(image_size, nf)
        for index, (c_in, c_out) in enumerate(zip([channels, *sizes], sizes, strict=False)):
            layers = [c_out] * (2 if index < 2 else 3)
            stage = nn.Sequential(*vgg_blocks(c_in, layers)) if self.pooled else Block(nn.Conv2d(c_in, c_out, 4, 2, 1))
            setattr(self, f"c{index + 1}", stage)
        self.depth = len(sizes)
        setattr(self, f"c{self.depth + 1}", nn.Sequential(nn.Conv2d(sizes[-1], g_dim, 4), nn.BatchNorm2d(g_dim), nn.Tanh()))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode frames in [0, 1]."""
        skips = []
        for index in range(self.depth):
            x = getattr(self, f"c{index + 1}")(x)
            skips.append(x)
            if self.pooled:
                x = nn.functional.max_pool2d(x, 2)
        return getattr(self, f"c{self.depth + 1}")(x).flatten(1), skips


class Decoder(nn.Module):
    """g (B, g_dim) and the skips (B, ...), finest first -> frame: every block reads the concatenation [d, skip]."""

    VGG = {64: [[8, 8, 4], [4, 4, 2], [2, 1]], 128: [[8, 8, 8], [8, 8, 4], [4, 4, 2], [2, 1]]}  # noqa: RUF012

    def __init__(self, backbone: str, image_size: int, channels: int, nf: int, g_dim: int) -> None:
        super().__init__()
        self.pooled = backbone == "vgg"
        sizes = widths(image_size, nf)
        self.depth = len(sizes)
        widest = sizes[-1]
        self.upc1 = nn.Sequential(nn.ConvTranspose2d(g_dim, widest, 4), nn.BatchNorm2d(widest), nn.LeakyReLU(0.2, inplace=True))
        stages = self._vgg(image_size, channels, nf) if self.pooled else self._dcgan(sizes, channels)
        for index, stage in enumerate(stages):
            setattr(self, f"upc{index + 2}", stage)

    def _vgg(self, image_size: int, channels: int, nf: int) -> list[nn.Module]:
        c_in, stages = 8 * nf, []
        for multiples in self.VGG[image_size]:
            stages.append(nn.Sequential(*vgg_blocks(2 * c_in, [nf * multiple for multiple in multiples])))
            c_in = nf * multiples[-1]
        last = vgg_blocks(2 * nf, [nf])[0], nn.ConvTranspose2d(nf, channels, 3, 1, 1), nn.Sigmoid()
        return [*stages, nn.Sequential(*last)]

    def _dcgan(self, sizes: list[int], channels: int) -> list[nn.Module]:
        pairs = list(zip(reversed(sizes), [*reversed(sizes[:-1]), channels], strict=True))
        convolutions = [nn.ConvTranspose2d(2 * c_in, c_out, 4, 2, 1) for c_in, c_out in pairs]
        return [*map(Block, convolutions[:-1]), nn.Sequential(convolutions[-1], nn.Sigmoid())]

    def forward(self, g: Tensor, skips: list[Tensor]) -> Tensor:
        """Decode from the coarsest block to the finest."""
        d = self.upc1(g[:, :, None, None])
        for index, skip in enumerate(reversed(skips)):
            d = nn.functional.interpolate(d, scale_factor=2) if self.pooled else d
            d = getattr(self, f"upc{index + 2}")(torch.cat([d, skip], 1))
        return d


class Lstm(nn.Module):
    """`lstm` of the reference; with `gaussian`, its `gaussian_lstm`, here with noise as an input.

    The state is in the module: `hidden` holds (h, c) of every cell.
    """

    def __init__(self, inputs: int, outputs: int, rnn_size: int, layers: int, gaussian: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, rnn_size)
        self.lstm = nn.ModuleList(nn.LSTMCell(rnn_size, rnn_size) for _ in range(layers))
        self.gaussian = gaussian
        if gaussian:
            self.mu_net = nn.Linear(rnn_size, outputs)
            self.logvar_net = nn.Linear(rnn_size, outputs)
        else:
            self.output = nn.Sequential(nn.Linear(rnn_size, outputs), nn.Tanh())

    def reset(self, batch: int) -> None:
        """Set all states to zero."""
        zeros = self.embed.weight.new_zeros(batch, self.embed.out_features)
        self.hidden = [(zeros, zeros) for _ in self.lstm]

    def forward(self, x: Tensor, eps: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """One step: (B, inputs) -> (B, outputs), or with `gaussian` and eps (B, outputs) -> z, mu, logvar."""
        x, hidden = self.embed(x), []
        for cell, state in zip(self.lstm, self.hidden, strict=True):
            hidden.append(cell(x, state))
            x = hidden[-1][0]
        self.hidden = hidden
        if not self.gaussian:
            return self.output(x)
        mu, logvar = self.mu_net(x), self.logvar_net(x)
        return mu + eps * (0.5 * logvar).exp(), mu, logvar


def build(
    backbone: str = "dcgan", image_size: int = 64, channels: int = 1, nf: int = 2, g_dim: int = 6, z_dim: int = 3,
    rnn_size: int = 8, layers: tuple[int, int, int] = (2, 1, 1), prior: str = "learned", seed: int = 0,
) -> dict[str, nn.Module]:  # fmt: skip
    """Networks of a checkpoint, with weights and statistics for which frames, states and samples differ visibly."""
    torch.manual_seed(seed)
    sizes = (backbone, image_size, channels, nf, g_dim)
    parts: dict[str, nn.Module] = {"encoder": Encoder(*sizes), "decoder": Decoder(*sizes)}
    z = 0 if prior == "none" else z_dim
    parts["frame_predictor"] = Lstm(g_dim + z, g_dim, rnn_size, layers[0], gaussian=False)
    if prior in ("learned", "fixed"):
        parts["posterior"] = Lstm(g_dim, z_dim, rnn_size, layers[1], gaussian=True)
    if prior == "learned":
        parts["prior"] = Lstm(g_dim, z_dim, rnn_size, layers[2], gaussian=True)
    for part in parts.values():
        for module in part.modules():
            randomize(module)
        part.eval()
    return parts


def randomize(module: nn.Module) -> None:
    """Random weights and statistics with which frames, states and samples differ visibly, in our networks and in these.

    Activations keep their size from layer to layer, so that the width does not matter.
    """
    if isinstance(module, nn.ConvTranspose2d):  # without padding it spreads a single value; with it, neighbours overlap
        overlap = module.kernel_size[0] ** 2 / module.stride[0] ** 2 if module.padding[0] else 1
        nn.init.normal_(module.weight, 0, math.sqrt(2 / (module.in_channels * overlap)))
    elif isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0, math.sqrt(2 / module.weight[0].numel()))
    elif isinstance(module, nn.BatchNorm2d):
        module.running_mean.normal_(0, 0.2)
        module.running_var.uniform_(0.3, 1.5)
    elif isinstance(module, (nn.Linear, nn.LSTMCell, nn.LSTM)):
        size = module.in_features if isinstance(module, nn.Linear) else module.hidden_size
        for parameter in module.parameters():
            nn.init.normal_(parameter, 0, 2 / math.sqrt(size))


@torch.no_grad()
def with_weights_of(model: SVG) -> dict[str, nn.Module]:
    """The reference's networks in evaluation mode, which compute what `model` computes: split convolutions are joined."""
    c = model.config
    layers = c.predictor_layers, c.posterior_layers, c.prior_layers
    parts = build(
        backbone=c.backbone,
        image_size=c.image_size,
        channels=c.channels,
        nf=c.nf,
        g_dim=c.g_dim,
        z_dim=c.z_dim,
        rnn_size=c.rnn_size,
        layers=layers,
        prior=c.prior,
    )
    theirs = {name: part.state_dict() for name, part in parts.items()}  # shares the modules' memory
    ours = model.state_dict()
    for name, target in map_parameters(c).items():
        source = target.source
        place = theirs[source.part][source.name]
        if source.dim is not None:
            place = place.narrow(source.dim, source.start, ours[name].shape[source.dim])
        place.copy_(ours[name])
    return parts


@torch.no_grad()
def generate(parts: dict[str, nn.Module], x: Tensor, noise: Tensor, context_noise: Tensor, last_frame_skip: bool) -> Tensor:
    """`generate_svg_lp.py` / `_fp.py`: x (n, B, C, H, W), noise (horizon, B, z), context_noise (n - 1, B, z) -> forecasts."""
    encoder, decoder, predictor, posterior = (parts[name] for name in ("encoder", "decoder", "frame_predictor", "posterior"))
    prior, batch = parts.get("prior"), x.shape[1]
    for part in (predictor, posterior, *([prior] if prior else [])):
        part.reset(batch)
    frames, x_in = [], x[0]
    for step in range(1, len(x) + len(noise)):
        h, new_skips = encoder(x_in)
        if last_frame_skip or step < len(x):
            skips = new_skips
        if step < len(x):
            z, _, _ = posterior(encoder(x[step])[0], context_noise[step - 1])
            if prior:
                prior(h, context_noise[step - 1])
            predictor(torch.cat([h, z], 1))
            x_in = x[step]
        else:
            eps = noise[step - len(x)]
            x_in = decoder(predictor(torch.cat([h, prior(h, eps)[0] if prior else eps], 1)), skips)
            frames.append(x_in)
    return torch.stack(frames)
