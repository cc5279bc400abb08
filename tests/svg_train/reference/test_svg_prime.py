"""Checkpoints of svg-prime, the public re-implementation with spatial latents (Villegas et al. 2019)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svg_train.losses import gaussian_kl
from svg_train.reference.checkpoint import load_any_checkpoint

SAMPLES = 2


@pytest.fixture(scope="module")
def golden(shared_data) -> dict[str, torch.Tensor]:
    """What the original computes, with flat latents."""
    with np.load(shared_data / "golden" / "svgprime_tiny.npz") as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return {name: value.flatten(2) if value.shape[-2:] == (8, 8) else value for name, value in tensors.items()}


@pytest.fixture(scope="module")
def imported(shared_data):
    return load_any_checkpoint(shared_data / "golden" / "svgprime_tiny.pth")


@torch.no_grad()
def gaussians(model, x: torch.Tensor, noise: torch.Tensor, context_noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """mu and logvar of posterior and prior while the frames x are read, then of the prior during the forecast."""
    h, states = model.encoder(x[0])[0], model._initial_states(x.shape[1])
    posterior, prior, frames = [], [], list(model.generate(x, noise, context_noise))
    for index in range(len(x) - 1 + len(frames)):
        prior_now = model.prior.step(h, states.prior)
        prior.append(torch.stack(prior_now[:2]))
        after = [*x, *frames][index + 1]
        if index < len(x) - 1:
            *posterior_now, state = model.posterior.step(model.encoder(after)[0], states.posterior)
            posterior.append(torch.stack(posterior_now))
            states = states._replace(posterior=state)
        states = states._replace(prior=prior_now[2])
        h = model.encoder(after)[0]
    posterior_both, prior_both = torch.stack(posterior, 1), torch.stack(prior, 1)
    return {
        "posterior_mu": posterior_both[0], "posterior_logvar": posterior_both[1],
        "prior_mu": prior_both[0], "prior_logvar": prior_both[1],
        "surprise": gaussian_kl(*posterior_both, *prior_both[:, : len(x) - 1]).sum(-1),
    }  # fmt: skip


def test_golden_checkpoint_gives_the_original_forecast_gaussians_and_surprise(golden, imported):
    model = imported.build()
    x = golden["frames"][:, None].expand(-1, SAMPLES, -1, -1, -1)
    forecast = model.generate(x, golden["noise"], golden["context_noise"]).transpose(0, 1)
    torch.testing.assert_close(forecast, golden["expected"], atol=1e-4, rtol=0)
    for name, value in gaussians(model, x, golden["noise"], golden["context_noise"]).items():
        torch.testing.assert_close(value, golden[name], atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_golden_checkpoint_has_the_expected_configuration(imported):
    model, train = imported.config.model, imported.config.train
    assert (model.latent, model.backbone, model.prior, model.skip_lag) == ("spatial", "vgg", "learned", 1)
    assert (model.nf, model.rnn_size, model.g_dim, model.z_dim, model.noise_dim) == (4, 8, 128, 4, 4 * 8 * 8)
    assert (model.predictor_layers, model.posterior_layers, model.prior_layers) == (2, 1, 1)
    assert (train.lr, train.n_future, imported.config.data.num_digits) == (3e-4, 10, 2)
