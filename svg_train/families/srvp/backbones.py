"""Frame encoders and decoders of SRVP (in the original: `module/conv.py`).

Both backbones go from the frame down to 4x4 in four stages that each halve the side, then through a dense head to h; the
decoder is the mirror image. They differ from those of SVG: no convolution has a bias, the first one of DCGAN has no
BatchNorm, and skips are a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from svg_train.families.srvp.config import SrvpConfig

_WIDTHS = (1, 2, 4, 8)  # channels of the stages in units of nf, finest first
_DEPTHS = {"dcgan": (1, 1, 1, 1), "vgg": (2, 2, 3, 3)}  # convolutions per stage

Convolution = Callable[[int, int], nn.Module]


class Encoder(nn.Module):
    """x (B, C, S, S) -> h (B, nhx) in (-1, 1), and the skips, finest first; none if the decoder takes none.

    dcgan: convolutions k4 s2; vgg: convolutions k3, and 2x2 max-pooling between the stages and before the head.
    skip_i is what comes out of a stage: (B, nf * 2^i, s, s) with s = S / 2^(i+1) for DCGAN and S / 2^i for VGG.
    """

    def __init__(self, config: SrvpConfig) -> None:
        super().__init__()
        strided = config.backbone == "dcgan"
        widths = [config.nf * width for width in _WIDTHS]
        inputs = [config.channels, *widths]
        self.stages = nn.ModuleList()
        for c_in, width, depth in zip(inputs, widths, _DEPTHS[config.backbone], strict=False):
            self.stages.append(nn.Sequential(*_layers(_strided if strided else _plain, c_in, [width] * depth)))
        if strided:
            del cast(nn.Sequential, self.stages[0])[1]  # the first convolution has no BatchNorm
        self.reduce = nn.Identity() if strided else nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.Conv2d(widths[-1], config.nhx, 4, bias=False), nn.BatchNorm2d(config.nhx), nn.Tanh())
        self.skips = config.skips

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode frames in [0, 1]."""
        skips = []
        for stage in self.stages:
            skips.append(stage(x))
            x = self.reduce(skips[-1])
        return self.head(x).flatten(1), skips if self.skips else []


class SplitStage(nn.Module):
    """Layers whose first is a convolution of a concatenation of d and something else, written as from_d(d) + from_cond(other).

    Both forms are exactly equal. `condition` is the half that all samples and frames of a forecast share, computed once.

    Args:
        convolution: makes a convolution without bias of the given channels.
        sizes: channels of d and of what it is concatenated with; 0: d is alone.
        outputs: channels of the layers; 0 at the end stands for the image.
        channels: of the image.
    """

    def __init__(self, convolution: Convolution, sizes: tuple[int, int], outputs: Sequence[int], channels: int) -> None:
        super().__init__()
        first, rest = outputs[0], [c for c in outputs[1:] if c]
        self.upsample = nn.Upsample(scale_factor=2) if convolution is _plain else nn.Identity()
        self.from_d = convolution(sizes[0], first or channels)
        self.from_cond = convolution(sizes[1], first or channels) if sizes[1] else None
        self.finish = nn.Sequential(*_activation(first)) if first else nn.Sigmoid()
        tail = _layers(convolution, first, rest)
        if first and not outputs[-1]:
            tail += [nn.ConvTranspose2d([first, *rest][-1], channels, 3, 1, 1, bias=False), nn.Sigmoid()]
        self.tail = nn.Sequential(*tail)

    def condition(self, other: Tensor) -> Tensor:
        """other (B, c, s, s) -> its share of the first layer's result."""
        assert self.from_cond is not None
        share: Tensor = self.from_cond(other)
        return share

    def forward(self, d: Tensor, cond: Tensor | None) -> Tensor:
        """d (B, c, s, s), and its condition at batch 1 or B -> (B, outputs[-1], s', s')."""
        first = self.from_d(self.upsample(d))
        finer: Tensor = self.tail(self.finish(first if cond is None else first + cond))
        return finer


class Decoder(nn.Module):
    """State y, content w and the conditions of the skips -> frame (B, C, S, S) in [0, 1].

    dcgan: transposed convolutions k4 s2; vgg: nearest upsampling before each stage, convolutions k3, and a last transposed
    convolution k3. The first layer reads [w, y], and the first layer of each stage [d, skip]: these are split.
    """

    def __init__(self, config: SrvpConfig) -> None:
        super().__init__()
        convolution = _transposed if config.backbone == "dcgan" else _plain
        widths = [config.nf * width for width in _WIDTHS]
        self.head = SplitStage(_from_vector, (config.ny, config.inference_size), [widths[-1]], config.channels)
        self.stages = nn.ModuleList()  # finest first, like the skips; the decoder applies them in reverse
        for width, finer, depth in zip(widths, [0, *widths], _DEPTHS[config.backbone], strict=False):
            sizes, outputs = (width, width if config.skips else 0), [width] * (depth - 1) + [finer]
            self.stages.append(SplitStage(convolution, sizes, outputs, config.channels))

    def condition(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """The share of the skips in every stage: skip_i -> cond_i (B, c, s, s), finest first; none without skips."""
        stages = cast("list[SplitStage]", list(self.stages))
        return [stage.condition(skip) for stage, skip in zip(stages, skips, strict=True)] if skips else []

    def forward(self, y: Tensor, w: Tensor, conds: Sequence[Tensor]) -> Tensor:
        """Decode y (N, ny); w (1 or N, inference_size) and `conds` at batch 1 are shared by all of the batch."""
        d: Tensor = self.head(y[:, :, None, None], self.head.condition(w[:, :, None, None]))
        for index in reversed(range(len(self.stages))):
            d = self.stages[index](d, conds[index] if conds else None)
        return d


def init_weights(module: nn.Module) -> None:
    """Initial weights of encoder and decoder: N(0, 0.02) for convolutions, N(1, 0.02) for normalisation gains."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def _strided(c_in: int, c_out: int) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False)


def _transposed(c_in: int, c_out: int) -> nn.Module:
    return nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False)


def _from_vector(c_in: int, c_out: int) -> nn.Module:
    return nn.ConvTranspose2d(c_in, c_out, 4, bias=False)


def _plain(c_in: int, c_out: int) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False)


def _activation(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU(0.2, inplace=True)]


def _layers(convolution: Convolution, c_in: int, outputs: list[int]) -> list[nn.Module]:
    """Convolution, BatchNorm and LeakyReLU per entry of `outputs`."""
    layers: list[nn.Module] = []
    for c_out in outputs:
        layers += [convolution(c_in, c_out), *_activation(c_out)]
        c_in = c_out
    return layers
