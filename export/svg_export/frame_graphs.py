"""The graphs of encoders and of skips, which are the same in every family that has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from svg_export.graph_export import widened


class EncoderGraph(nn.Module):
    """frame (B, C, S, S) float32 in [0, 1] -> h (B, ...) float32, skip_0 ... skip_{n-1}, finest first."""

    def __init__(self, encoder: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = encoder.to(dtype)
        self.dtype = dtype

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """Frame and encoding are float32 in every variant; skips have the variant's type."""
        h, skips = self.encoder(frame.to(self.dtype))
        return widened(h, self.dtype), *skips


class SkipGraph(nn.Module):
    """skip_* (B, c, s, s) -> cond_*: the share of the skips in the decoder, which a forecast computes once."""

    def __init__(self, decoder: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder: Any = decoder.to(dtype)

    def forward(self, skips: list[Tensor]) -> tuple[Tensor, ...]:
        """Skips and conditions have the variant's type."""
        return tuple(self.decoder.condition(skips))
