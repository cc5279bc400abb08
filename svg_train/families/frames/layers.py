"""Building blocks of all cells: convolutions, layer normalization, frames as patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svg_train.families.frames.config import FramesConfig


class Convolution(nn.Conv2d):
    """A convolution of the same size, without bias. Input and output keep their type, whatever that of the weight.

    So a model in reduced precision has these weights in it, and all else (gates, norms, states, attention) in float32.
    """

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), or smaller by the stride."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class Gates(nn.Module):
    """The convolution of several gates at once, and the layer normalization over all of its output, if there is one."""

    def __init__(self, inputs: int, hidden: int, parts: int, config: FramesConfig) -> None:
        super().__init__()
        self.conv = Convolution(inputs, hidden * parts, config.filter_size)
        self.norm = nn.LayerNorm([hidden * parts, *config.plane]) if config.layer_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, hidden * parts, H, W)."""
        gates: Tensor = self.conv(x)
        return gates if self.norm is None else self.norm(gates)


class PlaneNorm(nn.Module):
    """Layer normalization of a map whose two time planes are equal, with weights that differ between them.

    Its mean and variance over one plane are those over both.
    """

    def __init__(self, channels: int, plane: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 2, *plane))
        self.bias = nn.Parameter(torch.zeros(channels, 2, *plane))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, 1, H, W) -> (B, channels, 2, H, W)."""
        return F.layer_norm(x, x.shape[1:]) * self.weight + self.bias


class PlaneGates(nn.Module):
    """Gates of E3D-LSTM: a convolution over time and space, (2, k, k), as one over twice the channels.

    The original pads space only, so one plane comes out, which it repeats by nearest interpolation; with a stride the same
    interpolation restores height and width. Without layer normalization the repetition is left to broadcasting.
    """

    def __init__(self, inputs: int, hidden: int, parts: int, config: FramesConfig) -> None:
        super().__init__()
        self.conv = Convolution(2 * inputs, hidden * parts, config.filter_size, config.stride)
        self.norm = PlaneNorm(hidden * parts, config.plane) if config.layer_norm else None
        self._stride = config.stride
        self._plane = config.plane

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 * inputs, H, W), the planes of a channel beside each other -> (B, hidden * parts, 1 or 2, H, W)."""
        gates: Tensor = self.conv(x)
        if self._stride > 1:
            gates = self._enlarged(gates)
        gates = gates.unsqueeze(2)
        return gates if self.norm is None else self.norm(gates)

    def _enlarged(self, gates: Tensor) -> Tensor:
        """To the size of the input. Where the stride divides it, a constant factor keeps sizes out of an exported graph."""
        if all(side % self._stride == 0 for side in self._plane):
            return F.interpolate(gates, scale_factor=float(self._stride), mode="nearest")
        return F.interpolate(gates, size=self._plane, mode="nearest")


def both_planes(x: Tensor) -> Tensor:
    """(B, C, 1 or 2, H, W) -> (B, C, 2, H, W)."""
    return x if x.shape[2] == 2 else torch.cat([x, x], dim=2)


def to_patches(frame: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, patch * patch * C, H / patch, W / patch); the channel is (row * patch + column) * C + c.

    That is ONNX's SpaceToDepth. PyTorch's pixel_unshuffle has another order, which differs with more than one channel.
    """
    _, channels, height, width = frame.shape
    rows, columns = height // patch, width // patch
    blocks = frame.reshape(-1, channels, rows, patch, columns, patch).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(-1, patch * patch * channels, rows, columns)


def to_frame(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `to_patches`."""
    _, depth, rows, columns = patches.shape
    channels = depth // patch**2
    blocks = patches.reshape(-1, patch, patch, channels, rows, columns).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(-1, channels, rows * patch, columns * patch)
