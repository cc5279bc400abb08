"""Tiny random SRVP models and their inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from svg_train.families.srvp import SrvpConfig
from svg_train.families.srvp.model import SrvpModel

TINY: dict[str, Any] = {
    "nf": 2, "nhx": 6, "ny": 5, "nz": 3, "nt_inf": 2, "n_past": 4, "inference_size": 8, "residual_size": 10,
}  # fmt: skip


def random_srvp(seed: int = 0, **sizes: Any) -> SrvpModel:
    """A model with weights large enough that frames, states and samples differ visibly, in evaluation mode."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = SrvpModel(SrvpConfig(**{**TINY, **sizes}))
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, 0.2)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 1.5)
        elif isinstance(module, (nn.LSTM, nn.Linear)):
            for parameter in module.parameters():
                nn.init.normal_(parameter, 0, 0.4)
    return model.eval()


def inputs(model: SrvpModel, frames: int | None = None, batch: int = 2, horizon: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """x (frames or n_past, batch, C, 64, 64), noise of a forecast, and noise while the context is read."""
    c, rng = model.config, torch.Generator().manual_seed(1)
    x = torch.rand(frames or c.n_past, batch, c.channels, 64, 64, generator=rng)
    noise = torch.randn(horizon, batch, c.noise_dim, generator=rng)
    return x, noise, torch.randn(c.context_draws, batch, c.noise_dim, generator=rng)
