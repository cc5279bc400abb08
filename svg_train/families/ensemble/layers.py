"""The parts of the network, s being the side of the state: an eighth of the frame's.

    prime    the observed frames -> state, and what all leads are made of: what moves in the last frame, how, and a background
    step     state, noise -> state of the next frame
    decoder  state -> how each pixel moves, what is new, and how both are mixed -> frame

What moves is cut out of the last frame and moved together with its outline, over the background: a flow need not have the sharp
edges that keep what stands still beside it where it is (layers as in Wang and Adelson 1994, "Representing moving images with
layers").

All convolutions have the variant's type in a reduced precision; frames, flows and states stay float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from svg_train.families.ensemble.config import EnsembleConfig

_SLOPE = 0.1  # of LeakyReLU
_FLOW_PIXELS = 8.0  # that an output of 1 stands for
_FRAMES_GAIN = 4.0  # steps of observed motion that an output of 1 stands for
_MIXED = 3  # what a pixel is mixed of: what moves, the background, and new content
_MIX_AT_FIRST = (2.0, 0.0, -2.0)  # a new network repeats the last frame
_LAST_AT_FIRST = 2.0  # of the logits that weigh the frames of the background
_SHARPNESS = 4.0  # of logits: a pixel is soon either one or the other
_SEEN_TO_MOVE = 0.06  # change of a pixel; from there on it is opaque, as far as the network does not know better
_OPACITY_GAIN = 60.0  # logits per change, up to twice that change


class Observed(NamedTuple):
    """What a forecast takes from the observed frames; the same for all samples and leads."""

    quarter: Tensor  # (1 or B, decoder_widths[1], 2 s, 2 s)
    half: Tensor  # (1 or B, decoder_widths[0], 4 s, 4 s)
    motion: Tensor  # (1 or B, 2, 4 s, 4 s) from the last frame to the one before it, in pixels, as a flow for `warp`
    layer: Tensor  # (1 or B, C + 1, 8 s, 8 s) what moves in the last frame: its pixels times its opacity, and the opacity
    background: Tensor  # (1 or B, C, 8 s, 8 s) a mean of all frames with a weight for each pixel


class Residual(nn.Module):
    """x + conv(act(conv(act(x)))), which starts as x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = _conv(channels, channels)
        _scale(self.second, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> the same."""
        changed = self.second(_act(self.first(_act(_narrowed(x, self.first)))))
        y: Tensor = x + changed.to(x.dtype)
        return y


class Prime(nn.Module):
    """Reads all observed frames at once, so that it sees motion at full resolution."""

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        half, quarter, eighth = config.widths
        self.down_half = _down(config.channels * config.n_past, half)
        self.down_quarter = _down(half, quarter)
        self.down_eighth = _down(quarter, eighth)
        self.at_half = _residuals(half, config.blocks)
        self.at_quarter = _residuals(quarter, config.blocks)
        self.at_eighth = _residuals(eighth, config.blocks)
        self.state = _conv(eighth, config.state_size)
        self.to_half = _conv(half, config.decoder_widths[0])
        self.to_quarter = _conv(quarter, config.decoder_widths[1])
        self.up_quarter = nn.Conv2d(eighth, quarter, 1)
        self.up_half = nn.Conv2d(quarter, half, 1)
        self.merged_quarter = Residual(quarter)
        self.merged_half = Residual(half)
        self.weights = nn.Conv2d(half, 4 * config.n_past, 1)  # of every frame at each of the 2 x 2 pixels
        self.opacity = nn.Conv2d(half, 4, 1)
        self.motion = _conv(half, 2)
        for layer in (self.weights, self.opacity):
            _scale(layer, 0.1)
        for layer in (self.up_quarter, self.up_half, self.motion):
            _scale(layer, 0.0)
        with torch.no_grad():
            assert self.weights.bias is not None
            self.weights.bias[-4:] = _LAST_AT_FIRST

    def forward(self, x: Tensor) -> tuple[Tensor, Observed]:
        """x (n_past, B, C, 8 s, 8 s) -> state (B, state_size, s, s) before the noise, and the rest."""
        half = self.at_half(self.down_half(_narrowed(torch.cat(x.unbind(), 1) - 0.5, self.down_half)))
        quarter = self.at_quarter(self.down_quarter(_act(half)))
        eighth = self.at_eighth(self.down_eighth(_act(quarter)))
        state = torch.tanh(_widened(self.state(_act(eighth))))
        # back to fine resolution, which alone would see too little around a pixel
        quarter = self.merged_quarter(quarter + _upsampled(self.up_quarter(_act(eighth))))
        half = self.merged_half(half + _upsampled(self.up_half(_act(quarter))))
        weights = _shares(_shuffled(self.weights(half)))
        background = (x.transpose(0, 1) * weights[:, :, None]).sum(1)
        seen = _OPACITY_GAIN * (_change(x).clamp(max=2 * _SEEN_TO_MOVE) - _SEEN_TO_MOVE)
        opacity = (_SHARPNESS * _shuffled(self.opacity(half)) + seen).sigmoid()
        layer = torch.cat([opacity * x[-1], opacity], 1)
        motion = _FLOW_PIXELS * _widened(self.motion(half))
        return state, Observed(
            quarter=self.to_quarter(quarter), half=self.to_half(half), motion=motion, layer=layer, background=background
        )


class Step(nn.Module):
    """A convolutional GRU (Ballas et al. 2016) whose input is noise. The state stays in (-1, 1), however long a forecast is."""

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        self.noise_maps = config.noise_maps
        self.map_size = config.map_size
        size, noise = config.state_size, config.noise_maps + config.noise_vector
        self.gates = _conv(size + noise, 2 * size)
        self.candidate = _conv(size + noise, size)
        self.residual = Residual(size)

    def forward(self, state: Tensor, eps: Tensor) -> Tensor:
        """State (B, state_size, s, s) and eps (B, noise_dim) -> the next state."""
        noise = self.as_maps(eps)
        update, reset = torch.sigmoid(self._convolved(self.gates, state, noise)).chunk(2, 1)
        candidate = torch.tanh(self.residual(self._convolved(self.candidate, reset * state, noise)))
        following: Tensor = (1 - update) * state + update * candidate
        return following

    @staticmethod
    def _convolved(layer: nn.Conv2d, state: Tensor, noise: Tensor) -> Tensor:
        return _widened(layer(_narrowed(torch.cat([state, noise], 1), layer)))

    def as_maps(self, eps: Tensor) -> Tensor:
        """Flat noise (B, noise_dim) -> (B, noise_maps + noise_vector, s, s)."""
        s, values = self.map_size, self.noise_maps * self.map_size**2
        maps, vector = eps[:, :values].unflatten(1, (self.noise_maps, s, s)), eps[:, values:, None, None]
        return torch.cat([maps, vector.expand(-1, -1, s, s)], 1)


class Decoder(nn.Module):
    """A state and what was observed -> one frame."""

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        half, quarter = config.decoder_widths
        self.channels = config.channels
        self.to_quarter = _conv(config.state_size, quarter)
        self.at_quarter = Residual(quarter)
        self.to_half = _conv(quarter, half)
        self.at_half = Residual(half)
        self.flow = _conv(half, 2 + 1)  # and how many steps of the observed motion it is added to
        self.head = _conv(half, 4 * (config.channels + _MIXED))  # of each of the 2 x 2 pixels
        _scale(self.flow, 0.1)
        _scale(self.head, 0.1)
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias[4 * config.channels :] = torch.tensor(_MIX_AT_FIRST).repeat_interleave(4) / _SHARPNESS

    def forward(self, state: Tensor, observed: Observed) -> Tensor:
        """State (B, state_size, s, s) -> frame (B, C, 8 s, 8 s) in [0, 1]."""
        x = self.to_quarter(_narrowed(state, self.to_quarter))
        x = self.at_quarter(_act(_upsampled(x) + observed.quarter))
        x = self.at_half(_act(_upsampled(self.to_half(_act(x))) + observed.half))
        x = _act(x)
        maps, flow = _shuffled(self.head(x)), _widened(self.flow(x))
        with torch.autocast(maps.device.type, enabled=False):  # half precision cannot tell neighbouring pixels apart
            own, steps = flow.split([2, 1], 1)
            return self._compose(maps, full_flow(_in_pixels(own) + _FRAMES_GAIN * steps * observed.motion), observed)

    def _compose(self, maps: Tensor, flow: Tensor, observed: Observed) -> Tensor:
        content, mixed = maps.split([self.channels, _MIXED], 1)
        front, _, new = _shares(_SHARPNESS * mixed).split(1, 1)
        moved, opacity = warp(observed.layer, flow).split([self.channels, 1], 1)
        behind = 1 - front * opacity - new
        frame: Tensor = front * moved + behind * observed.background + new * torch.sigmoid(4 * content)
        return frame


def _shares(logits: Tensor) -> Tensor:
    """The softmax of the channels, lowered for engines, whose own is made for long last dimensions."""
    if not torch.compiler.is_exporting():
        return logits.softmax(1)
    odds = (logits - logits.amax(1, keepdim=True)).exp()
    return odds / odds.sum(1, keepdim=True)


def _change(x: Tensor) -> Tensor:
    """Frames (T, B, C, H, W) -> (B, 1, H, W), how far a pixel or one beside it was from the last frame, in any channel."""
    change = (x[:-1] - x[-1]).abs().amax(dim=(0, 2))[:, None]
    return functional.max_pool2d(change, 5, stride=1, padding=2)


def _in_pixels(flow: Tensor) -> Tensor:
    """Flow as the network gives it -> pixels.

    Much smaller than a pixel it is squared: looking up between two pixels blurs, and what stands still must not.
    """
    pixels = _FLOW_PIXELS * flow
    return pixels * pixels.abs() / (pixels.abs() + 1)


def full_flow(flow: Tensor) -> Tensor:
    """A flow in pixels at half of the resolution (B, 2, H / 2, W / 2) -> at all of it, as `warp` takes it: (B, H, W, 2).

    Bilinear interpolation as a convolution with constant weights, which is faster in some engines.
    """
    taps = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]], device=flow.device, dtype=flow.dtype)
    kernel = taps[:, None, :, None] * taps[None, :, None, :]  # (2, 2, 3, 3): of each of the 2 x 2 pixels
    both = torch.eye(2, device=flow.device, dtype=flow.dtype)[:, :, None, None]
    weight = (kernel[:, :, None, None] * both).flatten(0, 2)
    padded = functional.pad(flow, (1, 1, 1, 1), mode="replicate")
    fine = functional.conv2d(padded, weight).unflatten(1, (2, 2, 2))
    full: Tensor = fine.permute(0, 4, 1, 5, 2, 3).flatten(3, 4).flatten(1, 2)
    return full


def warp(frame: Tensor, flow: Tensor) -> Tensor:
    """Move the pixels of a frame: each is looked up where its flow points, bilinearly; beyond the border, at the border.

    Args:
        frame: (1 or B, C, H, W).
        flow: (B, H, W, 2), right and down, in pixels.

    Returns:
        (B, C, H, W).
    """
    height, width = flow.shape[1:3]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], -1).to(flow)
    size = torch.tensor([width, height]).to(flow).expand(height, width, 2)
    # [-1, 1] from the outer border of the first pixel to that of the last one
    grid = flow * (2 / size) + ((2 * pixels + 1) / size - 1)
    repeated = frame + 0 * flow[:, :1, :1, :1]  # an expansion would be computed at run time, on the processor
    return functional.grid_sample(repeated, grid, "bilinear", "border", align_corners=False)


def _shuffled(x: Tensor) -> Tensor:
    """(B, 4 c, h, w) in any type -> (B, c, 2 h, 2 w), widened."""
    return functional.pixel_shuffle(_widened(x), 2)


def _narrowed(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """In the type of a layer that is in reduced precision; under autocast, which casts by itself, as it is."""
    narrower = torch.promote_types(x.dtype, layer.weight.dtype) != layer.weight.dtype
    return x.to(layer.weight.dtype) if narrower else x


def _widened(x: Tensor) -> Tensor:
    """In float32, or the wider type that the model has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _residuals(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(channels) for _ in range(count)))


def _conv(c_in: int, c_out: int) -> nn.Conv2d:
    return _initialized(nn.Conv2d(c_in, c_out, 3, padding=1))


def _down(c_in: int, c_out: int) -> nn.Conv2d:
    return _initialized(nn.Conv2d(c_in, c_out, 4, 2, 1))


def _initialized(layer: nn.Conv2d) -> nn.Conv2d:
    """He et al. 2015. There are no normalizations, and with PyTorch's smaller weights noise would hardly reach a frame."""
    nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _upsampled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def _act(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, _SLOPE)


@torch.no_grad()
def _scale(layer: nn.Conv2d, factor: float) -> None:
    for parameter in layer.parameters():
        parameter.mul_(factor)
