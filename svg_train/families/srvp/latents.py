"""The parts of SRVP without pictures: content w, state y and latent z, from encodings h of frames."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_SIGMA = 1e-8


class Gaussian(NamedTuple):
    """A diagonal Gaussian, (..., size) each."""

    mu: Tensor
    sigma: Tensor

    @property
    def logvar(self) -> Tensor:
        """2 log sigma, as all families say a variance."""
        return 2 * self.sigma.log()

    def draw(self, eps: Tensor) -> Tensor:
        """mu + sigma * eps with the first entries of eps (..., size or more), standard normal."""
        return self.mu + self.sigma * eps[..., : self.mu.shape[-1]]

    def at(self, times: int | slice) -> Gaussian:
        """That of some entries of the first axis."""
        return Gaussian(self.mu[times], self.sigma[times])


def gaussian(parameters: Tensor) -> Gaussian:
    """[mu, raw] (..., 2 * size) -> the Gaussian with sigma = softplus(raw) + 1e-8."""
    mu, raw = parameters.chunk(2, -1)
    # The optimizer of torch.onnx drops a sum with 1e-8 as if that were zero, and log(0) would follow.
    return Gaussian(mu, (_softplus(raw) / MIN_SIGMA + 1) * MIN_SIGMA)


def _softplus(raw: Tensor) -> Tensor:
    """log(1 + exp(raw)). Engines compute ONNX's Softplus so that small values are lost, and ONNX has no log1p, but atanh."""
    if not torch.compiler.is_exporting():
        return functional.softplus(raw)
    t = (-raw.abs()).exp()
    return functional.relu(raw) + 2 * torch.atanh(t / (t + 2))


def perceptron(inputs: int, hidden: int, outputs: int, layers: int) -> nn.Sequential:
    """`layers` linear layers with ReLU between them."""
    sizes = [inputs, *[hidden] * (layers - 1), outputs]
    made: list[nn.Module] = []
    for given, wanted in pairwise(sizes):
        made += [nn.ReLU(), nn.Linear(given, wanted)]
    return nn.Sequential(*made[1:])


class Content(nn.Module):
    """What does not move: w = tanh(mix(sum over frames of ReLU(project(h)))), the same for any order of the frames."""

    def __init__(self, nhx: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(nhx, size)
        self.mix = nn.Linear(size, size)

    def forward(self, h: Tensor) -> Tensor:
        """h (nt_inf, B, nhx) -> w (B, size)."""
        return torch.tanh(self.mix(functional.relu(self.project(h)).sum(0)))


class LatentPosterior(nn.Module):
    """Posterior of z of each frame from the encodings of the frames up to it: an LSTM and a linear layer."""

    def __init__(self, nhx: int, size: int, nz: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(nhx, size)
        self.head = nn.Linear(size, 2 * nz)

    def sequence(self, h: Tensor) -> Gaussian:
        """h (T, B, nhx), from the first frame of a sequence on -> Gaussians of z, (T, B, nz)."""
        return gaussian(self.head(self.lstm(h)[0]))

    def unrolled(self, h: Tensor) -> Gaussian:
        """The same, written out in matrix products for graphs."""
        lstm: Any = self.lstm
        inputs = functional.linear(h, lstm.weight_ih_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0)
        i, _, g, o = inputs[0].chunk(4, -1)  # of the first frame: hidden and cell are zero
        c = torch.sigmoid(i) * torch.tanh(g)
        hidden = [torch.sigmoid(o) * torch.tanh(c)]
        for frame in inputs[1:]:
            i, f, g, o = (frame + functional.linear(hidden[-1], lstm.weight_hh_l0)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            hidden.append(torch.sigmoid(o) * torch.tanh(c))
        return gaussian(self.head(torch.stack(hidden)))


class Dynamics(nn.Module):
    """Residual steps of the state: y <- y + f(y, z) / n, n times per frame with the same z (paper, section 3.1)."""

    def __init__(self, ny: int, nz: int, hidden: int, layers: int, steps: int) -> None:
        super().__init__()
        self.f = perceptron(ny + nz, hidden, ny, layers)
        self.steps = steps

    def forward(self, y: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """y (B, ny) of a frame, z (B, nz) leading to the next -> y of that, and the n residuals (B, ny)."""
        residuals = []
        for _ in range(self.steps):
            residuals.append(self.f(torch.cat([y, z], -1)) / self.steps)
            y = y + residuals[-1]
        return y, residuals
