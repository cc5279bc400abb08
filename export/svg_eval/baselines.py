"""Forecasts that need no model: the last frame repeated, repeated with noise, and moved on along the optical flow.

What a practitioner would try first. A model that is not better is not worth its computation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from svg_common.errors import UsageError
from svg_eval.models import ModelInfo
from svg_runtime.forecast.optical_flow import optical_flow


def simple_baselines(like: ModelInfo) -> dict[str, Baseline]:
    """All baselines for the frames of the model `like`, by their names in the JSON."""
    return {"repeat": RepeatLastFrame(like), "repeat_noise": RepeatWithNoise(like), "optical_flow": OpticalFlow(like)}


class Baseline(ABC):
    """An `EvaluatedModel` on the CPU without latents: forecasts one sequence in `_sequence`."""

    device = torch.device("cpu")
    label: str
    description: str

    def __init__(self, like: ModelInfo) -> None:
        self.info = replace(
            like, label=self.label, description=self.description, z_dim=0, context_draws=0, has_posterior=False, history=0
        )

    def forecast(self, context: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """As `EvaluatedModel.forecast`."""
        return torch.stack([self._sequence(past, eps) for past, eps in zip(context, noise, strict=True)])

    @abstractmethod
    def _sequence(self, past: Tensor, noise: Tensor) -> Tensor:
        """Observed frames (n_past, C, H, W) and noise (horizon, S, z_dim) -> (S, horizon, C, H, W)."""

    def reconstruct(self, sequence: Tensor) -> Tensor:
        """Refused: `info.has_posterior` is False.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"'{self.label}' has no latents, and so no posterior of them\n  use forecast()")

    def close(self) -> None:  # noqa: B027 - there is nothing to free
        """Do nothing."""


class RepeatLastFrame(Baseline):
    """Nothing moves."""

    label, description = "repeat last frame", "the last observed frame repeated"

    def _sequence(self, past: Tensor, noise: Tensor) -> Tensor:
        return past[-1].expand(1, len(noise), -1, -1, -1)


class RepeatWithNoise(Baseline):
    """The last frame with Gaussian noise of each pixel's climatology: how much it changed within the observed frames.

    The standard deviation at lead t is the root mean square difference of observed frames t steps apart, or as far apart as
    there are, over the channels of a pixel. It is taken from the sequence itself, not from training data: another camera's
    movement says nothing about this one's, and what stands still must get no noise. The result is clipped to [0, 1].
    """

    label, description = "repeat + noise", "the last frame with noise as large as each pixel's observed changes at that lead"

    def __init__(self, like: ModelInfo) -> None:
        super().__init__(like)
        self.info = replace(self.info, z_dim=like.channels * like.height * like.width)  # a draw for every value

    def _sequence(self, past: Tensor, noise: Tensor) -> Tensor:
        deviations = torch.stack([_change(past, min(lead, len(past) - 1)) for lead in range(1, len(noise) + 1)])
        eps = noise.transpose(0, 1).unflatten(-1, past.shape[1:])  # (S, horizon, C, H, W)
        futures: Tensor = past[-1] + deviations * eps
        return futures.clamp_(0, 1)


class OpticalFlow(Baseline):
    """The last frame moved on by the motion between the last two, as if it went on at constant speed.

    Backward warping: dense flow from the last frame to the one before (DIS, Kroeger et al. 2016, in OpenCV) says where each
    pixel came from, and is applied once per step. What enters the picture repeats its border.
    """

    label, description = "optical flow", "the last frame warped on along the optical flow (DIS) of the last two"

    def _sequence(self, past: Tensor, noise: Tensor) -> Tensor:
        before, frame = (np.ascontiguousarray(each.movedim(0, -1).numpy()) for each in past[-2:])
        height, width, channels = frame.shape
        flow = optical_flow(frame, before)
        y, x = np.mgrid[:height, :width].astype(np.float32) + flow.transpose(2, 0, 1)[::-1]  # where each pixel came from
        frames = []
        for _ in range(len(noise)):
            frame = cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            frames.append(frame.reshape(height, width, channels))  # OpenCV drops the axis of a single channel
        return torch.from_numpy(np.stack(frames)).movedim(-1, 1)[None]


def _change(past: Tensor, steps: int) -> Tensor:
    """(1, H, W) root mean square difference of frames `steps` apart."""
    return (past[steps:] - past[:-steps]).square().mean(dim=(0, 1))[None].sqrt()
