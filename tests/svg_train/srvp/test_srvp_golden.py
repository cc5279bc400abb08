"""The original program's checkpoints compute what the original computes: every quantity of the golden files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from svg_train.families.srvp.model import SrvpModel
from svg_train.losses import gaussian_kl
from svg_train.reference.checkpoint import load_any_checkpoint

TOLERANCE = 1e-4  # in float64 the original differs from itself by 7e-6


@dataclass
class Golden:
    model: SrvpModel
    arrays: dict[str, Tensor]

    @property
    def x(self) -> Tensor:
        """Observed frames, the same for each sample: (n, samples, C, H, W)."""
        return self.arrays["frames"][:, None].repeat(1, self.arrays["y_mu"].shape[0], 1, 1, 1)

    @property
    def context_noise(self) -> Tensor:
        """The draw of y of the first frame, then those of z."""
        return torch.cat([self.arrays["y_noise"][None], self.arrays["context_noise"]])

    def check(self, name: str, given: Tensor) -> None:
        torch.testing.assert_close(given, self.arrays[name], atol=TOLERANCE, rtol=0, msg=name)


@pytest.fixture(scope="module", params=["srvp_smmnist_tiny", "srvp_kth_tiny"])
def golden(request, shared_data) -> Golden:
    folder = Path(shared_data) / "golden"
    with np.load(folder / f"{request.param}.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored}
    model = load_any_checkpoint(folder / request.param / "model.pt").build()
    assert isinstance(model, SrvpModel)
    return Golden(model, arrays)


def test_forecasts(golden):
    frames = golden.model.generate(golden.x, golden.arrays["noise"], golden.context_noise)
    golden.check("expected", frames.transpose(0, 1))


@torch.no_grad()
def test_reconstruction(golden):
    model = golden.model
    h, conds = model._read(golden.x)
    observed = model.observe(h, golden.context_noise, model.posterior_z.unrolled(h))
    w = model.content(h[-model.config.nt_inf :])
    frames = [model.decoder(y, w, conds) for y in observed.y]
    golden.check("reconstruction", torch.stack(frames, 1))


@torch.no_grad()
def test_every_state_distribution_and_surprise(golden):
    model, n = golden.model, len(golden.x)
    h, _ = model._read(golden.x)
    # 1) what is observed
    observed = model.observe(h, golden.context_noise, model.posterior_z.unrolled(h))
    primed = model.prime(h, golden.context_noise)
    golden.check("y_mu", observed.first.mu)
    golden.check("y_sigma", observed.first.sigma)
    golden.check("posterior_mu", observed.posterior.mu)
    golden.check("posterior_sigma", observed.posterior.sigma)
    golden.check("w", primed.w)
    # 2) what is forecast: the prior of a frame that was observed is that of a step from the frame before
    states = [*observed.y]
    priors = [model.step(y, draw)[1] for y, draw in zip(states[:-1], golden.context_noise[1:], strict=True)]
    for draw in golden.arrays["noise"]:
        y, prior = model.step(states[-1], draw)
        states.append(y)
        priors.append(prior)
    golden.check("y", torch.stack(states))
    golden.check("prior_mu", torch.stack([prior.mu for prior in priors]))
    golden.check("prior_sigma", torch.stack([prior.sigma for prior in priors]))
    # 3) the surprise, of every pair and as a forecast starts with it
    q, p = observed.posterior, [torch.stack(values) for values in zip(*priors[: n - 1], strict=True)]
    surprise = gaussian_kl(q.mu, q.logvar, p[0], 2 * p[1].log()).sum(-1)
    golden.check("surprise", surprise)
    q, p = primed.posterior, primed.prior
    torch.testing.assert_close(gaussian_kl(q.mu, q.logvar, p.mu, p.logvar).sum(-1), surprise[-1])


def test_observations_at_batch_1_serve_all_samples(golden):
    """As on a device: the encodings and the content once, the states per sample."""
    model = golden.model
    with torch.no_grad():
        whole = model._read(golden.x)[0]
        one, several = model.prime(whole[:, :1], golden.context_noise), model.prime(whole, golden.context_noise)
    assert one.w.shape[0] == one.posterior.mu.shape[0] == 1
    torch.testing.assert_close(one.y, several.y)
    torch.testing.assert_close(one.prior, several.prior)
    torch.testing.assert_close(one.w.expand_as(several.w), several.w)
