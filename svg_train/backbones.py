"""Frame encoders and decoders. A backbone is data (channels per stage) for one builder.

DCGAN (DESIGN of the reference, `models/dcgan_64.py`): strided convolutions down to 4x4, a dense head to g_dim, and the
mirror image up again with a skip connection at every resolution.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from svg_train.config import ModelConfig


def dcgan_channels(image_size: int, nf: int) -> list[int]:
    """Channels of the encoder's stages, finest first: each halves the side, the last one ends at 4x4."""
    stages = image_size.bit_length() - 3  # 64 -> 4 stages: 32, 16, 8, 4
    return [nf * min(2**stage, 8) for stage in range(stages)]


class Encoder(nn.Module):
    """x (B, C, S, S) -> h (B, g_dim) and the skips, finest first: skip_i (B, channels_i, S / 2^(i+1), S / 2^(i+1))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = dcgan_channels(config.image_size, config.nf)
        inputs = [config.channels, *channels[:-1]]
        self.stages = nn.ModuleList(_down(c_in, c_out) for c_in, c_out in zip(inputs, channels, strict=True))
        self.head = nn.Sequential(nn.Conv2d(channels[-1], config.g_dim, 4), nn.BatchNorm2d(config.g_dim), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode frames in [0, 1]."""
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return self.head(x).flatten(1), skips


class SkipStage(nn.Module):
    """A transposed convolution of the concatenation [d, skip], written as conv_d(d) + conv_s(skip).

    The two are exactly equal; `condition` is the half that only depends on the skip, computed once per observed frame.
    """

    def __init__(self, c_in: int, c_skip: int, c_out: int, last: bool) -> None:
        super().__init__()
        self.from_d = nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)
        self.from_skip = nn.ConvTranspose2d(c_skip, c_out, 4, 2, 1, bias=False)
        self.finish = nn.Sigmoid() if last else nn.Sequential(nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True))

    def condition(self, skip: Tensor) -> Tensor:
        """skip (B, c_skip, s, s) -> cond (B, c_out, 2s, 2s)."""
        return self.from_skip(skip)

    def forward(self, d: Tensor, cond: Tensor) -> Tensor:
        """d (B, c_in, s, s) and cond (1 or B, c_out, 2s, 2s) -> (B, c_out, 2s, 2s)."""
        return self.finish(self.from_d(d) + cond)


class Decoder(nn.Module):
    """g (B, g_dim) and the conditions of the skips -> frame (B, C, S, S) in [0, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = dcgan_channels(config.image_size, config.nf)
        outputs = [config.channels, *channels[:-1]]
        self.head = nn.Sequential(
            nn.ConvTranspose2d(config.g_dim, channels[-1], 4), nn.BatchNorm2d(channels[-1]), nn.LeakyReLU(0.2, inplace=True)
        )
        # Finest first, like the skips; the decoder walks it backwards.
        self.stages = nn.ModuleList(
            SkipStage(c, c, c_out, last=index == 0) for index, (c, c_out) in enumerate(zip(channels, outputs, strict=True))
        )

    def condition(self, skips: list[Tensor]) -> list[Tensor]:
        """Skip half of every stage: skip_i (B, c_i, s_i, s_i) -> cond_i (B, c_{i-1}, 2 s_i, 2 s_i), finest first."""
        stages = cast("list[SkipStage]", list(self.stages))
        return [stage.condition(skip) for stage, skip in zip(stages, skips, strict=True)]

    def forward(self, g: Tensor, cond: list[Tensor]) -> Tensor:
        """Decode; `cond` at batch 1 is shared by all of the batch."""
        d = self.head(g[:, :, None, None])
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


def _down(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 4, 2, 1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True))
