"""The batched training forward, the split decoder and the recurrent parts against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from svg_train.families.svg import SvgConfig
from svg_train.families.svg.backbones import SkipStage
from svg_train.families.svg.model import SVG
from svg_train.families.svg.recurrent import GaussianLSTM
from svg_train.families.svg.spatial import ConvGaussian
from svg_train.losses import gaussian_kl, reparameterize
from tests.conftest import random_model

STEPS, BATCH = 6, 2


def step_by_step(model: SVG, x: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The training pass as the reference's `train()` writes it: one frame after the other, skips kept after n_past."""
    c, batch = model.config, x.shape[1]
    parts = [name for name in ("posterior", "prior", "predictor") if getattr(model, name) is not None]
    states = {name: getattr(model, name).core.initial_state(batch) for name in parts}
    encoded = [model.encoder(frame) for frame in x]
    frames, mse, kl = [], x.new_zeros(()), x.new_zeros(())
    for i in range(1, len(x)):
        h_prev, skip_prev = encoded[i - 1]
        if c.last_frame_skip or i <= c.n_past - c.skip_lag:
            skips = skip_prev
        z = None
        if model.posterior is not None:
            mu_q, logvar_q, states["posterior"] = model.posterior.step(encoded[i][0], states["posterior"])
            mu_p = logvar_p = torch.zeros_like(mu_q)
            if model.prior is not None:
                mu_p, logvar_p, states["prior"] = model.prior.step(h_prev, states["prior"])
            z = reparameterize(mu_q, logvar_q, eps[i - 1])
            kl = kl + gaussian_kl(mu_q, logvar_q, mu_p, logvar_p).sum() / batch
        g, states["predictor"] = model.predictor.step(h_prev, z, states["predictor"])
        frame = model.decoder(g, model.decoder.condition(skips))
        frames.append(frame)
        mse = mse + nn.functional.mse_loss(frame, x[i])
    return torch.stack(frames), mse, kl


@pytest.mark.parametrize(
    "shape",
    [
        {"skip_lag": 0},
        {"skip_lag": 1, "channels": 3},
        {"last_frame_skip": True, "predictor_layers": 1, "prior_layers": 2},
        {"n_past": STEPS, "skip_lag": 0},  # all frames observed: no target shares a skip
        {"prior": "fixed", "backbone": "vgg", "posterior_layers": 2},
        {"prior": "none", "image_size": 128},
        {"latent": "spatial", "skip_lag": 0},
        {"latent": "spatial", "last_frame_skip": True, "channels": 3, "posterior_layers": 2, "prior_layers": 3},
        {"latent": "spatial", "prior": "fixed", "image_size": 128, "predictor_layers": 1},
        {"latent": "spatial", "prior": "none", "skip_lag": 1},
    ],
)
def test_batched_forward_equals_stepping_frame_by_frame_with_gradients(shape):
    # Evaluation mode: in training mode BatchNorm's statistics span the whole batch of frames, by intention.
    # In double precision: rounding would move some values across the kink of an activation, and gradients with them.
    model = random_model(**shape).double()
    x = torch.rand(STEPS, BATCH, model.config.channels, model.config.image_size, model.config.image_size).double()
    eps = torch.randn(STEPS - 1, BATCH, model.config.noise_dim).double()
    results = []
    for forward in (lambda: _batched(model, x, eps), lambda: step_by_step(model, x, eps)):
        model.zero_grad()
        frames, mse, kl = forward()
        (mse + 1e-2 * kl).backward()
        results.append((frames, mse, kl, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (frames_a, mse_a, kl_a, grads_a), (frames_b, mse_b, kl_b, grads_b) = results
    torch.testing.assert_close(frames_a, frames_b, atol=1e-12, rtol=0)
    torch.testing.assert_close(mse_a, mse_b, atol=1e-12, rtol=0)
    torch.testing.assert_close(kl_a, kl_b, atol=1e-9, rtol=1e-12)
    assert kl_a > 1e-3 or model.posterior is None
    for name in grads_b:
        atol = 1e-10 * float(grads_b[name].abs().max())
        torch.testing.assert_close(grads_a[name], grads_b[name], atol=max(atol, 1e-14), rtol=0, msg=name)


def _batched(model, x, eps):
    output = model(x, eps)
    return output.frames, output.mse, output.kl


@pytest.mark.parametrize("skip_lag", [0, 1])
def test_skips_after_the_context_come_from_one_frame(skip_lag):
    """Changing the frame that feeds the frozen skips changes late forecasts' skips; a later frame does not feed any."""
    model = random_model(n_past=3, skip_lag=skip_lag)
    assert model.distinct_skip_frames(STEPS) == 3 - skip_lag
    x = torch.rand(STEPS, 1, 1, 64, 64)
    skips = model.encoder(x.flatten(0, 1))[1]
    cond = model._conditions(skips, STEPS, 1)
    expected = model.decoder.condition([skip[2 - skip_lag : 3 - skip_lag] for skip in skips])
    for level, (given, one) in enumerate(zip(cond, expected, strict=True)):
        assert given.shape[0] == STEPS - 1
        torch.testing.assert_close(given[-1:], one, msg=f"cond_{level}")


def test_split_decoder_equals_convolution_of_the_concatenation():
    stage = SkipStage("strided", 5, (0,), channels=4)
    d, skip = torch.randn(2, 5, 8, 8), torch.randn(1, 5, 8, 8)
    joined = nn.ConvTranspose2d(10, 4, 4, 2, 1)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([stage.from_d.weight, stage.from_skip.weight]))
        joined.bias.copy_(stage.from_d.bias)
    expected = torch.sigmoid(joined(torch.cat([d, skip.expand(2, -1, -1, -1)], 1)))
    torch.testing.assert_close(stage(d, stage.condition(skip)), expected)


def test_split_vgg_stage_equals_upsampling_then_convolution_of_the_concatenation():
    stage = SkipStage("pooled", 5, (4, 6), channels=1).eval()
    d, skip = torch.randn(2, 5, 8, 8), torch.randn(1, 5, 16, 16)
    joined = nn.Conv2d(10, 4, 3, 1, 1)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([stage.from_d.weight, stage.from_skip.weight], dim=1))
        joined.bias.copy_(stage.from_d.bias)
    upsampled = d.repeat_interleave(2, 2).repeat_interleave(2, 3)
    block = nn.functional.leaky_relu(stage.finish[0](joined(torch.cat([upsampled, skip.expand(2, -1, -1, -1)], 1))), 0.2)
    torch.testing.assert_close(stage(d, stage.condition(skip)), stage.tail(block))


RECURRENT = {
    "vector": (lambda layers: GaussianLSTM(7, 3, 11, layers), (7,), lambda layers: (2 * layers, 4, 11)),
    "spatial": (lambda layers: ConvGaussian(7, 3, 11, layers, 8), (7, 8, 8), lambda layers: (4, 2 * layers * 11, 8, 8)),
}


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("build", "h_shape", "state_shape"), RECURRENT.values(), ids=RECURRENT)
def test_stepping_a_recurrent_part_equals_the_whole_sequence(build, h_shape, state_shape, layers):
    torch.manual_seed(0)
    lstm = build(layers)
    h = torch.randn(9, 4, *h_shape)
    mu, logvar = lstm.sequence(h)
    state = lstm.core.initial_state(4)
    assert state.shape == state_shape(layers)
    for t in range(9):
        mu_t, logvar_t, state = lstm.step(h[t], state)
        torch.testing.assert_close(mu_t, mu[t], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(logvar_t, logvar[t], atol=1e-6, rtol=1e-5)


def test_kl_agrees_with_torch_distributions():
    torch.manual_seed(0)
    mu_q, logvar_q, mu_p, logvar_p = torch.randn(4, 5, 6)
    q, p = (torch.distributions.Normal(mu, (0.5 * lv).exp()) for mu, lv in ((mu_q, logvar_q), (mu_p, logvar_p)))
    torch.testing.assert_close(gaussian_kl(mu_q, logvar_q, mu_p, logvar_p), torch.distributions.kl_divergence(q, p))


@pytest.mark.parametrize("latent", ["vector", "spatial"])
def test_generation_first_frame_uses_posterior_context_and_lagged_skip(latent):
    """The rule written out once more by hand for n_past 2: one posterior step, then one sampled frame."""
    model = random_model(n_past=2, skip_lag=1, latent=latent)
    size = model.config.noise_dim
    x, noise, past = torch.rand(2, 3, 1, 64, 64), torch.randn(1, 3, size), torch.randn(1, 3, size)
    with torch.no_grad():
        (h0, skips0), (h1, _) = model.encoder(x[0]), model.encoder(x[1])
        mu, logvar, _ = model.posterior.step(h1, model.posterior.core.initial_state(3))
        _, _, prior_state = model.prior.step(h0, model.prior.core.initial_state(3))
        _, state = model.predictor.step(h0, mu + (0.5 * logvar).exp() * past[0], model.predictor.core.initial_state(3))
        mu, logvar, _ = model.prior.step(h1, prior_state)
        g, _ = model.predictor.step(h1, mu + (0.5 * logvar).exp() * noise[0], state)
        expected = model.decoder(g, model.decoder.condition(skips0))
    torch.testing.assert_close(model.generate(x, noise, past)[0], expected)


@pytest.mark.parametrize("latent", ["vector", "spatial"])
@pytest.mark.parametrize("prior", ["learned", "fixed", "none"])
def test_reconstruction_differs_from_generation_only_in_where_the_latents_come_from(prior, latent):
    """With a horizon of 1 the rule by hand: the posterior of the true frame in place of the prior."""
    model = random_model(n_past=2, prior=prior, latent=latent)
    size = model.config.noise_dim
    x, noise, past = torch.rand(3, 2, 1, 64, 64), torch.randn(1, 2, size), torch.randn(1, 2, size)
    given = model.reconstruct(x, noise, past)
    if prior == "none":
        torch.testing.assert_close(given, model.generate(x[:2], noise, past))
        return
    with torch.no_grad():
        h0, h1, h2 = (model.encoder(frame)[0] for frame in x)
        mu, logvar, state = model.posterior.step(h1, model.posterior.core.initial_state(2))
        _, predictor = model.predictor.step(h0, reparameterize(mu, logvar, past[0]), model.predictor.core.initial_state(2))
        mu, logvar, _ = model.posterior.step(h2, state)
        g, _ = model.predictor.step(h1, reparameterize(mu, logvar, noise[0]), predictor)
        expected = model.decoder(g, model.decoder.condition(model.encoder(x[0])[1]))
    torch.testing.assert_close(given[0], expected)
    assert not torch.allclose(given, model.generate(x[:2], noise, past), atol=1e-3)


def test_parameter_count_of_the_reference_size():
    """DCGAN-64 with the paper's widths has the reference's parameter count (its concatenating decoder, split)."""
    model = SVG(SvgConfig(nf=64, g_dim=128, rnn_size=256, channels=3))
    first_up = model.decoder.stages[-1]
    assert first_up.from_d.weight.shape == first_up.from_skip.weight.shape == (512, 256, 4, 4)
    assert model.encoder.stages[0][0].weight.shape == (64, 3, 4, 4)
    assert model.encoder.head[0].weight.shape == (128, 512, 4, 4)
    assert model.decoder.head[0].weight.shape == (128, 512, 4, 4)


def test_spatial_parts_are_convolutions_over_maps_of_an_eighth_of_the_frame():
    """Sizes of the paper's largest model: K = M = 1 (Villegas et al. 2019)."""
    with torch.device("meta"):
        model = SVG(SvgConfig(latent="spatial", nf=64, rnn_size=512, channels=3))
    assert [stage[0].weight.shape[0] for stage in model.encoder.stages] == [64, 128, 256]
    assert model.encoder.head[0].weight.shape == (128, 256, 3, 3)
    assert model.predictor.core.embed.weight.shape == (512, 128 + 10, 3, 3)
    assert [cell.conv.weight.shape for cell in model.predictor.core.cells] == [(4 * 512, 2 * 512, 3, 3)] * 2
    assert model.predictor.core.initial_state(5).shape == (5, 2 * 2 * 512, 8, 8)


def test_a_flat_latent_moves_what_is_at_its_place_in_the_picture():
    """Noise at the lower right of the map changes the forecast there, and not at the upper left: positions survive."""
    model = random_model(latent="spatial", prior="fixed", n_past=2, image_size=128)  # beyond the reach of the convolutions
    x, size = torch.rand(2, 1, 1, 128, 128), model.config.noise_dim
    noise, past = torch.zeros(1, 1, size), torch.zeros(1, 1, size)
    moved = noise.unflatten(-1, (4, 16, 16)).clone()
    moved[..., 15, 15] = 3.0
    change = (model.generate(x, moved.flatten(2), past) - model.generate(x, noise, past)).abs()[0, 0, 0]
    assert change[-8:, -8:].max() > 1e-3
    assert change[:8, :8].max() == 0


def test_old_checkpoints_without_a_kind_of_latent_are_vector_models():
    given = {name: value for name, value in SvgConfig().model_dump().items() if name != "latent"}
    assert SvgConfig(**given) == SvgConfig(latent="vector")
