"""The graphs of the family `ensemble`. A forecast steps the state alone, and decodes the frames of all steps at once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from svg_export.graph_export import EXAMPLE_BATCH, GraphExport, widened
from svg_train.families.ensemble import EnsembleConfig
from svg_train.families.ensemble.layers import Observed
from svg_train.families.ensemble.model import EnsembleModel

_OBSERVED = Observed._fields


class PrimeGraph(nn.Module):
    """Reads all observed frames, and steps into the moment at which the forecast starts.

    h_seq (n_past, 1 or B, C, S, S), eps (1, B, noise_dim) -> hidden (B, c, s, s), the state, and the parts of
    `Observed` at the batch of h_seq, which all samples and steps share. In fp16 convolutions are in float16, all else in
    float32.
    """

    def __init__(self, model: EnsembleModel) -> None:
        super().__init__()
        self.prime = model.prime
        self.step = model.step

    def forward(self, h_seq: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """A model without encoder: h is the frame itself."""
        state, observed = self.prime(h_seq)
        draw = eps[0]
        repeated = state + 0 * draw[:, :1, None, None]  # an expansion would be computed at run time, on the processor
        return (self.step(repeated, draw), *(widened(part, part.dtype) for part in observed))


class StepGraph(nn.Module):
    """hidden (B, c, s, s), eps (B, noise_dim) -> latent and hidden_out, both the state of the next frame."""

    def __init__(self, model: EnsembleModel) -> None:
        super().__init__()
        self.step = model.step

    def forward(self, hidden: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """One frame on."""
        following = self.step(hidden, eps)
        return following.clone(), following


class DecodeGraph(nn.Module):
    """latent (N, c, s, s), and the parts of `Observed` at batch 1 or N -> frame (N, C, S, S) in [0, 1]."""

    def __init__(self, model: EnsembleModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.dtype = dtype

    def forward(self, latent: Tensor, observed: list[Tensor]) -> Tensor:
        """N may be all samples of all steps."""
        parts = Observed(*observed)
        narrowed = parts._replace(quarter=parts.quarter.to(self.dtype), half=parts.half.to(self.dtype))
        frame: Tensor = self.decoder(latent, narrowed)
        return frame


def fold(model: EnsembleModel) -> EnsembleModel:
    """A copy of `model` in evaluation mode: it has no BatchNorm."""
    return copy.deepcopy(model).eval()


def graphs(folded: EnsembleModel, dtype: torch.dtype, fused: bool) -> dict[str, GraphExport]:
    """All graphs by name. There are no separate ones that `fused` could leave out."""
    model, c = copy.deepcopy(folded), folded.config
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.to(dtype)
    half, quarter = c.decoder_widths
    context = torch.rand(c.n_past, 1, c.channels, c.image_size, c.image_size)
    hidden = _maps(c, c.state_size, 1).repeat(EXAMPLE_BATCH, 1, 1, 1)
    observed = Observed(
        quarter=_maps(c, quarter, 2),
        half=_maps(c, half, 4),
        motion=_maps(c, 2, 4),
        layer=_maps(c, c.channels + 1, 8),
        background=_maps(c, c.channels, 8),
    )
    eps = torch.rand(EXAMPLE_BATCH, c.noise_dim)
    return {
        "prime": GraphExport(
            module=PrimeGraph(model),
            example=(context, eps[None]),
            inputs=["h_seq", "eps"],
            outputs=["hidden", *_OBSERVED],
            shared=("h_seq", *_OBSERVED),
            batch_axes={"h_seq": 1, "eps": 1},
        ),
        "step": GraphExport(
            module=StepGraph(model),
            example=(hidden, eps),
            inputs=["hidden", "eps"],
            outputs=["latent", "hidden_out"],
            states={"hidden": "hidden_out"},
        ),
        "decode": GraphExport(
            module=DecodeGraph(model, dtype),
            example=(hidden, list(observed)),
            inputs=["latent", *_OBSERVED],
            outputs=["frame"],
            shared=_OBSERVED,
        ),
    }


def _maps(config: EnsembleConfig, channels: int, finer: int) -> Tensor:
    """Anything in the shape of maps that are so many times finer than the state."""
    return torch.rand(1, channels, finer * config.map_size, finer * config.map_size)
