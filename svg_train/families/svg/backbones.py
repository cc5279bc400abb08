"""Frame encoders and decoders. A backbone is data (the channels of every stage) for one builder.

Both backbones go from the frame down to 4x4 in stages that each halve the side, then through a dense head to g_dim; the decoder
is the mirror image, with a skip connection at every resolution (in the reference: `models/{dcgan,vgg}_{64,128}.py`).

For spatial latents VGG stops after three stages, at an eighth of the side, and its heads are 3x3 convolutions alone: h has
neither BatchNorm nor Tanh (Villegas et al. 2019, and `shallow_vgg.py` of s-tian/svg-prime).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from svg_train.families.svg import SvgConfig

Kind = Literal["strided", "pooled"]


@dataclass(frozen=True)
class Stage:
    """One resolution. `encoder` and `decoder` list the output channels of its layers in the order in which they are applied.

    The decoder's first layer reads the concatenation of what comes from the coarser stage and the skip of this one.
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]


@dataclass(frozen=True)
class Backbone:
    """Stages, finest first, and how they change the resolution.

    strided (DCGAN): convolutions k4 s2 down, transposed ones up; the skip is what comes out of a stage.
    pooled (VGG): convolutions k3, 2x2 max-pooling down, nearest upsampling up; the skip is what goes into the pooling.
    """

    kind: Kind
    stages: tuple[Stage, ...]


def describe_backbone(config: SvgConfig) -> Backbone:
    """The backbone that `config` names, for its image size and nf."""
    count = 3 if config.latent == "spatial" else config.image_size.bit_length() - 3  # 64 -> 4 stages: 32, 16, 8, 4
    widths = [config.nf * min(2**index, 8) for index in range(count)]
    narrower = [0, *widths[:-1]]
    if config.backbone == "dcgan":
        return Backbone("strided", tuple(Stage((c,), (below,)) for c, below in zip(widths, narrower, strict=True)))
    # Two layers in the two finest stages, three in the others. The finest decoder stage ends in the image instead.
    depths = [min(index // 2 + 2, 3) for index in range(count)]
    decoders = [(*[c] * (depth - 1), below) for c, below, depth in zip(widths, narrower, depths, strict=True)]
    return Backbone("pooled", tuple(Stage((c,) * n, d) for c, n, d in zip(widths, depths, decoders, strict=True)))


class Encoder(nn.Module):
    """x (B, C, S, S) -> h (B, g_dim), or (B, g_dim, S / 8, S / 8) for spatial latents, and the skips, finest first.

    skip_i is (B, channels_i, s, s) with s = S / 2^(i+1) for DCGAN and S / 2^i for VGG.
    """

    def __init__(self, config: SvgConfig) -> None:
        super().__init__()
        backbone = describe_backbone(config)
        conv = _strided if backbone.kind == "strided" else _plain
        inputs = [config.channels, *(stage.encoder[-1] for stage in backbone.stages)]
        self.stages = nn.ModuleList(
            nn.Sequential(*_layers(conv, c_in, stage.encoder)) for c_in, stage in zip(inputs, backbone.stages, strict=False)
        )
        self.reduce = nn.MaxPool2d(2) if backbone.kind == "pooled" else nn.Identity()
        self.head = nn.Sequential(*_encoder_head(config, inputs[-1]))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode frames in [0, 1]."""
        skips = []
        for stage in self.stages:
            skips.append(stage(x))
            x = self.reduce(skips[-1])
        return self.head(x), skips


class SkipStage(nn.Module):
    """A stage whose first layer is a convolution of the concatenation [d, skip], written as conv_d(d) + conv_s(skip).

    Both forms are exactly equal. `condition` is the half that depends on the skip alone, computed once per observed frame.

    Args:
        kind: how the resolution doubles: in the (transposed) convolutions, or by nearest upsampling of d before them.
        c_in: channels of d and of the skip, each.
        outputs: channels of the layers; 0 at the end stands for the image.
        channels: of the image.
    """

    def __init__(self, kind: Kind, c_in: int, outputs: tuple[int, ...], channels: int) -> None:
        super().__init__()
        conv = _transposed if kind == "strided" else _plain
        self.upsample = nn.Upsample(scale_factor=2) if kind == "pooled" else nn.Identity()
        first, rest = outputs[0], [c for c in outputs[1:] if c]
        self.from_d = conv(c_in, first or channels)
        self.from_skip = conv(c_in, first or channels, bias=False)
        self.finish = nn.Sequential(*_activation(first)) if first else nn.Sigmoid()
        tail = _layers(conv, first, tuple(rest))
        if first and not outputs[-1]:
            tail += [nn.ConvTranspose2d([first, *rest][-1], channels, 3, 1, 1), nn.Sigmoid()]
        self.tail = nn.Sequential(*tail)

    def condition(self, skip: Tensor) -> Tensor:
        """skip (B, c_in, s, s) -> cond at the stage's output resolution."""
        cond: Tensor = self.from_skip(skip)
        return cond

    def forward(self, d: Tensor, cond: Tensor) -> Tensor:
        """d (B, c_in, s, s) and cond (1 or B, c, 2s, 2s) -> (B, outputs[-1], 2s, 2s)."""
        finer: Tensor = self.tail(self.finish(self.from_d(self.upsample(d)) + cond))
        return finer


class Decoder(nn.Module):
    """g, shaped as h, and the conditions of the skips -> frame (B, C, S, S) in [0, 1]."""

    def __init__(self, config: SvgConfig) -> None:
        super().__init__()
        backbone = describe_backbone(config)
        self.head = nn.Sequential(*_decoder_head(config, backbone.stages[-1].encoder[-1]))
        # Finest first, like the skips; the decoder applies them in reverse.
        self.stages = nn.ModuleList(
            SkipStage(backbone.kind, stage.encoder[-1], stage.decoder, config.channels) for stage in backbone.stages
        )

    def condition(self, skips: list[Tensor]) -> list[Tensor]:
        """Skip half of every stage: skip_i -> cond_i (B, c, s, s), finest first."""
        stages = cast("list[SkipStage]", list(self.stages))
        return [stage.condition(skip) for stage, skip in zip(stages, skips, strict=True)]

    def forward(self, g: Tensor, cond: list[Tensor]) -> Tensor:
        """Decode; `cond` at batch 1 is shared by all of the batch."""
        d: Tensor = self.head(g if g.dim() == 4 else g[:, :, None, None])
        for stage, stage_cond in zip(reversed(list(self.stages)), reversed(cond), strict=True):
            d = stage(d, stage_cond)
        return d


def init_weights(module: nn.Module) -> None:
    """Initial weights of the reference (DCGAN): N(0, 0.02) for convolutions, N(1, 0.02) for normalisation gains."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _encoder_head(config: SvgConfig, c_in: int) -> list[nn.Module]:
    """From the last stage, pooled, to h."""
    if config.latent == "spatial":
        return [_plain(c_in, config.g_dim)]
    return [nn.Conv2d(c_in, config.g_dim, 4), nn.BatchNorm2d(config.g_dim), nn.Tanh(), nn.Flatten()]


def _decoder_head(config: SvgConfig, c_out: int) -> list[nn.Module]:
    """From g to the input of the first stage."""
    if config.latent == "spatial":
        return [_plain(config.g_dim, c_out)]
    return [nn.ConvTranspose2d(config.g_dim, c_out, 4), *_activation(c_out)]


def _strided(c_in: int, c_out: int) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 4, 2, 1)


def _transposed(c_in: int, c_out: int, bias: bool = True) -> nn.Module:
    return nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=bias)


def _plain(c_in: int, c_out: int, bias: bool = True) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 3, 1, 1, bias=bias)


def _activation(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU(0.2, inplace=True)]


def _layers(conv: Any, c_in: int, outputs: tuple[int, ...]) -> list[nn.Module]:
    """Convolution, BatchNorm and LeakyReLU per entry of `outputs`."""
    layers: list[nn.Module] = []
    for c_out in outputs:
        layers += [conv(c_in, c_out), *_activation(c_out)]
        c_in = c_out
    return layers
