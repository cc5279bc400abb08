"""Every backbone, size, channel count and prior: trains, exports with parity, and forecasts as PyTorch does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from svg_export.parity import TOLERANCE_FP32
from svg_runtime import Forecaster
from svg_train.losses import gaussian_kl
from tests.conftest import export_model, random_model, save_model

SAMPLES, HORIZON, N_PAST = 2, 3, 2
TINY = {"nf": 2, "g_dim": 8, "rnn_size": 12, "n_past": N_PAST}


def layers(index: int, prior: str) -> dict[str, int]:
    """1, 2 or 3 LSTM layers in every part that the model has, in turn."""
    parts = {"learned": ("predictor", "posterior", "prior"), "fixed": ("predictor", "posterior"), "none": ("predictor",)}[prior]
    return {f"{part}_layers": 1 + (index + offset) % 3 for offset, part in enumerate(parts)}


MATRIX = [
    {"backbone": backbone, "image_size": size, "channels": channels, "prior": prior, "last_frame_skip": index % 2 == 1,
     "skip_lag": index // 2 % 2, **layers(index, prior)}
    for index, (backbone, size, channels, prior) in enumerate(
        itertools.product(("dcgan", "vgg"), (64, 128), (1, 3), ("learned", "fixed", "none"))
    )
]  # fmt: skip


def name(model: dict[str, object]) -> str:
    return "-".join(str(model[key]) for key in ("backbone", "image_size", "channels", "prior"))


@pytest.mark.parametrize("model", MATRIX, ids=name)
def test_trains_exports_and_forecasts(model, tmp_path):
    svg = random_model(**{**TINY, **model})
    c = svg.config
    frames = torch.rand(N_PAST + HORIZON, 1, c.channels, c.image_size, c.image_size)
    _train_one_step(svg, frames)
    checkpoint = save_model(tmp_path / "ckpt.pt", svg, data={"name": "digits" if c.channels == 1 else "video"})
    fused = c.image_size == 64 and c.channels == 1  # every backbone and prior; neither size nor channels concern the fusing
    bundle = export_model(checkpoint, tmp_path / "ckpt.svgb", fused=fused)
    noise, past = torch.randn(HORIZON, SAMPLES, c.z_dim), torch.randn(N_PAST - 1, SAMPLES, c.z_dim)
    for use_fused in {False, fused}:
        _check_forecast(bundle, svg, frames, noise, past, use_fused)


def _check_forecast(bundle, svg, frames, noise, past, use_fused):
    c = svg.config
    with Forecaster.open(bundle, samples=SAMPLES, horizon=HORIZON, fused=use_fused) as forecaster:
        assert forecaster.fused == use_fused
        for frame in frames[:N_PAST, 0]:
            observation = forecaster.observe(frame.permute(1, 2, 0).numpy())
        futures = forecaster.forecast(noise=noise.numpy(), context_noise=past.numpy())
        guided = forecaster.reconstruct(
            frames[N_PAST:, 0].permute(0, 2, 3, 1).numpy(), noise=noise[:, :1].numpy(), context_noise=past[:, :1].numpy()
        )
    context = frames[:N_PAST].repeat(1, SAMPLES, 1, 1, 1)
    expected = svg.generate(context, noise, past).permute(1, 0, 3, 4, 2).numpy()
    assert np.abs(futures - expected).max() < TOLERANCE_FP32
    expected = svg.reconstruct(frames, noise[:, :1], past[:, :1])[:, 0].permute(0, 2, 3, 1).numpy()
    assert np.abs(guided - expected).max() < TOLERANCE_FP32
    assert (np.abs(futures[0] - futures[1]).max() > 1e-4) == bool(c.z_dim)  # only a deterministic model has one future
    surprise = _surprise(svg, frames[:N_PAST])
    assert observation.surprise == (None if surprise is None else pytest.approx(surprise, rel=1e-3))


def _train_one_step(svg, frames):
    optimizer = torch.optim.SGD(svg.parameters(), lr=1e-3)
    output = svg.train()(frames, torch.randn(len(frames) - 1, 1, svg.config.z_dim))
    (output.mse + output.kl).backward()
    for parameter_name, parameter in svg.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    optimizer.step()
    svg.eval()


@torch.no_grad()
def _surprise(svg, frames):
    """KL(posterior || prior) of the last frame, with N(0, I) where the prior is fixed."""
    if svg.posterior is None:
        return None
    h = torch.stack([svg.encoder(frame)[0] for frame in frames])
    mu_q, logvar_q = (values[-1] for values in svg.posterior.sequence(h[1:]))
    mu_p, logvar_p = torch.zeros_like(mu_q), torch.zeros_like(mu_q)
    if svg.prior is not None:
        mu_p, logvar_p = (values[-1] for values in svg.prior.sequence(h[:-1]))
    return float(gaussian_kl(mu_q, logvar_q, mu_p, logvar_p).sum())
