"""What a model of the family predicts of frames that are known."""

from __future__ import annotations

import torch

from svg_train.families.frames.model import FramesModel


@torch.no_grad()
def one_step(model: FramesModel, x: torch.Tensor) -> torch.Tensor:
    """Each of x_1 ... x_{T-1} predicted from the true ones before: (T, B, C, H, W) -> (T - 1, B, C, H, W), not clipped."""
    states, frames = model.initial_states(x.shape[1]), []
    for frame in x[:-1]:
        predicted, states = model.step(frame, states)
        frames.append(predicted)
    return torch.stack(frames) if frames else x[1:]
