"""The graph of the family `frames`: one step from frame to frame, which reads what is observed and forecasts what is not."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from svg_export.graph_export import EXAMPLE_BATCH, GraphExport
from svg_train.families.frames.layers import Convolution
from svg_train.families.frames.model import FramesModel


class StepGraph(nn.Module):
    """h (B, C, H, W), states -> frame (B, C, H, W) in [0, 1], h_out, states_out.

    h is the last frame, observed, or predicted and not clipped; h_out is the next one, not clipped. In fp16 convolutions are in
    float16, all else in float32.
    """

    def __init__(self, model: FramesModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, h: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        """Frames are fed back as they are, and shown clipped."""
        h_out, states_out = self.model.step(h, states)
        return (h_out.clamp(0, 1), h_out, *states_out)


def fold(model: FramesModel) -> FramesModel:
    """A copy of `model` in evaluation mode: it has no BatchNorm."""
    return copy.deepcopy(model).eval()


def graphs(folded: FramesModel, dtype: torch.dtype, fused: bool) -> dict[str, GraphExport]:
    """The graph `step`. There are no separate ones that `fused` could leave out."""
    model, c = copy.deepcopy(folded), folded.config
    for part in model.modules():
        if isinstance(part, Convolution):
            part.to(dtype)
    names = list(model.state_shapes)
    states = {name: f"{name}_out" for name in ["h", *names]}
    return {
        "step": GraphExport(
            module=StepGraph(model),
            example=(torch.rand(EXAMPLE_BATCH, c.channels, c.height, c.width), model.initial_states(EXAMPLE_BATCH)),
            inputs=list(states),
            outputs=["frame", *states.values()],
            states=states,
        )
    }
