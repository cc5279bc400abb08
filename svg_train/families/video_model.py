"""The interface of every family's network: the training forward, and the generation rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from svg_train.families.base import FamilyConfig


class TrainingOutput(NamedTuple):
    """Result of the training forward. T frames give T - 1 targets x_1 ... x_{T-1}.

    The loss is mse + beta * kl + auxiliary.
    """

    frames: Tensor  # (T - 1, B, C, H, W) predictions of the targets
    mse: Tensor  # scalar: sum over targets of the mean squared error
    kl: Tensor  # scalar: sum over targets of KL(posterior || prior) / B, nats; 0 without latents
    auxiliary: Tensor | None = None  # scalar: further terms of the family's loss


class Latents(NamedTuple):
    """Means and log-variances of z while a forecast is made. Of a fixed prior there are none."""

    posterior_mu: Tensor  # (B, size) of z leading to the last observed frame
    posterior_logvar: Tensor
    prior_mu: Tensor | None  # of the same z
    prior_logvar: Tensor | None
    mu: Tensor | None  # (horizon, B, size) of the prior of z leading to each forecast frame
    logvar: Tensor | None


class VideoModel(nn.Module, ABC):
    """A network that observes n_past frames and forecasts the next ones. Noise is always an argument."""

    channels_last: bool = False  # whether training is faster in that layout (benchmarks/test_training.py -k recipe)
    config: FamilyConfig

    @abstractmethod
    def forward(self, x: Tensor, noise: Tensor, step: int = 0) -> TrainingOutput:
        """One training pass.

        Args:
            x: (T, B, C, H, W) in [0, 1].
            noise: (*config.training_noise(T) with the batch between them): (draws, B, size), standard normal.
            step: number of the optimizer step, for schedules such as scheduled sampling.
        """

    @abstractmethod
    def generate(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """Forecast by the generation rule.

        Args:
            x: (n_past, B, C, H, W) observed frames.
            noise: (horizon, B, noise_dim) standard normal draws of the prior, one per forecast frame.
            context_noise: (context_draws, B, noise_dim) draws while the context is read.

        Returns:
            (horizon, B, C, H, W) forecasts in [0, 1]. To draw several futures of one sequence, repeat it along B.
        """

    @torch.no_grad()
    def latents(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Latents | None:
        """The Gaussians of the forecast that `generate` makes of the same arguments; None in a deterministic model."""
        return None

    @abstractmethod
    def reconstruct(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """Forecast with latents from the posterior of each true next frame; a deterministic model forecasts as always.

        Args:
            x: (n_past + horizon, B, C, H, W) true frames.
            noise: (horizon, B, noise_dim) standard normal draws of the posterior.
            context_noise: (context_draws, B, noise_dim) draws while the context is read.

        Returns:
            (horizon, B, C, H, W) in [0, 1].
        """
