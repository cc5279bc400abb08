"""The family's parts against their definitions: residual steps, split layers, noise, and the training forward."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from svg_train.families.srvp import SrvpConfig
from svg_train.families.srvp.backbones import SplitStage, _plain, _transposed
from svg_train.families.srvp.latents import LatentPosterior, gaussian
from svg_train.families.srvp.model import SrvpModel
from tests.svg_train.srvp.srvp_models import inputs, random_srvp


def f_of(model: SrvpModel, y: Tensor, z: Tensor) -> Tensor:
    """The residual function from its weights."""
    value = torch.cat([y, z], 1)
    weights = list(model.dynamics.f.parameters())
    layers = list(zip(weights[::2], weights[1::2], strict=True))
    for index, (weight, bias) in enumerate(layers):
        value = value @ weight.T + bias
        value = value if index == len(layers) - 1 else value.clamp(min=0)
    return value


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 6, 7, 10])
def test_a_step_makes_every_residual_step_with_the_same_latent(steps):
    """An integer loop: the original's clock of floats loses steps for numbers such as 3, 5 and 6."""
    model = random_srvp(n_euler_steps=steps)
    y, eps = torch.randn(2, 5), torch.randn(2, 5)
    with torch.no_grad():
        given, prior = model.step(y, eps)
        z, expected, count = prior.mu + prior.sigma * eps[:, :3], y, 0
        while count < steps:
            expected = expected + f_of(model, expected, z) / steps
            count += 1
        torch.testing.assert_close(given, expected)
        assert len(model.dynamics(y, z)[1]) == steps
    assert (given - y).abs().max() > 1e-2


def test_another_number_of_steps_needs_no_other_weights():
    model = random_srvp(n_euler_steps=1)
    finer = SrvpModel(SrvpConfig(**{**model.config.model_dump(), "n_euler_steps": 4})).eval()
    finer.load_state_dict(model.state_dict())
    assert finer.config.shape() == model.config.shape()
    x, noise, past = inputs(model)
    assert (finer.generate(x, noise, past) - model.generate(x, noise, past)).abs().max() > 1e-4


def test_the_written_out_posterior_equals_torchs_lstm():
    torch.manual_seed(0)
    posterior = LatentPosterior(7, 11, 3)
    h = torch.randn(9, 4, 7)
    torch.testing.assert_close(posterior.unrolled(h), posterior.sequence(h))
    torch.testing.assert_close(posterior.unrolled(h[:1]), posterior.sequence(h[:1]))


def test_sigma_is_softplus_and_never_zero():
    parameters = torch.tensor([[0.5, -1.0, -200.0, 3.0]])
    given = gaussian(parameters)
    torch.testing.assert_close(given.mu, parameters[:, :2])
    torch.testing.assert_close(given.sigma, torch.tensor([[1e-8, 1e-8 + float(torch.log1p(torch.tensor(3.0).exp()))]]))
    torch.testing.assert_close(given.logvar, 2 * given.sigma.log())
    assert torch.isfinite(given.logvar).all()


class _Logvar(nn.Module):
    def forward(self, parameters: Tensor) -> Tensor:
        return gaussian(parameters).logvar


def test_sigma_is_never_zero_in_a_graph_either():
    """The exporter's optimizer removes additions of numbers that are almost zero."""
    parameters = torch.tensor([[0.0, 0.0, -200.0, -17.0]])
    made = torch.onnx.export(_Logvar().eval(), (parameters,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(made.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.run(None, {session.get_inputs()[0].name: parameters.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(given), gaussian(parameters).logvar)


@pytest.mark.parametrize("kind", ["transposed convolution", "upsampling and convolution"])
def test_a_split_stage_equals_the_convolution_of_the_concatenation(kind):
    convolution = _transposed if kind == "transposed convolution" else _plain
    stage = SplitStage(convolution, (5, 4), [6], channels=1).eval()
    d, skip = torch.randn(3, 5, 8, 8), torch.randn(1, 4, *([8, 8] if convolution is _transposed else [16, 16]))
    joined = (
        nn.ConvTranspose2d(9, 6, 4, 2, 1, bias=False) if convolution is _transposed else nn.Conv2d(9, 6, 3, 1, 1, bias=False)
    )
    with torch.no_grad():
        axis = 0 if convolution is _transposed else 1
        joined.weight.copy_(torch.cat([stage.from_d.weight, stage.from_cond.weight], axis))
    wide = d if convolution is _transposed else d.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = stage.finish(joined(torch.cat([wide, skip.expand(3, -1, -1, -1)], 1)))
    torch.testing.assert_close(stage(d, stage.condition(skip)), expected)


@pytest.mark.parametrize("sizes", [{"ny": 5, "nz": 3}, {"ny": 3, "nz": 5}])
def test_y_and_z_use_the_first_entries_of_the_noise(sizes):
    """The rest of the flat vector changes nothing; what is used changes the forecast."""
    model = random_srvp(**sizes)
    assert model.config.noise_dim == 5
    x, noise, past = inputs(model)
    expected = model.generate(x, noise, past)
    for draws, used in ((noise, sizes["nz"]), (past[1:], sizes["nz"]), (past[:1], sizes["ny"])):
        kept = draws.clone()
        draws[..., used:] = 9.0
        torch.testing.assert_close(model.generate(x, noise, past), expected, atol=0, rtol=0)
        draws[..., used - 1] += 1.0
        assert (model.generate(x, noise, past) - expected).abs().max() > 1e-3
        draws.copy_(kept)


def test_draws_of_the_context_are_one_per_observed_frame():
    config = random_srvp(n_past=4).config
    assert (config.context_draws, config.training_noise(7)) == (4, (7, 5 + 2))


@pytest.mark.parametrize("shape", [{"skips": True}, {"backbone": "vgg", "skips": True, "channels": 3}, {}])
def test_a_forecast_depends_on_no_other_sequence_of_its_batch(shape):
    """BatchNorm uses its running statistics."""
    model = random_srvp(**shape)
    x, noise, past = inputs(model)
    both = model.generate(x, noise, past)
    assert both.shape == (3, 2, model.config.channels, 64, 64)
    for index in range(2):
        one = slice(index, index + 1)
        torch.testing.assert_close(
            model.generate(x[:, one], noise[:, one], past[:, one])[:, 0], both[:, index], atol=1e-4, rtol=0
        )
    assert (both[:, 0] - both[:, 1]).abs().max() > 1e-2


def test_skips_and_content_come_from_the_last_observed_frames():
    """Other frames before them change y alone."""
    model = random_srvp(skips=True, n_past=5, nt_inf=2)
    x, _, _ = inputs(model)
    other = x.clone()
    other[:3] = torch.rand_like(other[:3])
    with torch.no_grad():
        (h, conds), (h_other, conds_other) = model._read(x), model._read(other)
        torch.testing.assert_close(conds, conds_other)
        past = torch.randn(5, 2, 5)
        first, second = model.prime(h, past), model.prime(h_other, past)
    torch.testing.assert_close(first.w, second.w)
    assert (first.y - second.y).abs().max() > 1e-2


def test_a_horizon_of_nothing_is_no_error():
    model = random_srvp()
    x, noise, past = inputs(model, horizon=0)
    assert model.generate(x, noise, past).shape == model.reconstruct(x, noise, past).shape == (0, 2, 1, 64, 64)


def original_loss(model: SrvpModel, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The original's objective frame by frame, in nats per sequence, without the constant of the Gaussian density."""
    c, (frames, batch) = model.config, x.shape[:2]
    encoded = [model.encoder(frame) for frame in x]
    h = torch.stack([pair[0] for pair in encoded])
    # 1) frames at random
    w, conds = [], []
    for index in range(batch):
        chosen = sorted(range(frames), key=lambda t: float(noise[t, index, -2]))[: c.nt_inf]
        w.append(model.content(torch.stack([h[t, index : index + 1] for t in chosen])))
        skip_frame = max(range(frames), key=lambda t: float(noise[t, index, -1]))
        conds.append(model.decoder.condition([skip[index : index + 1] for skip in encoded[skip_frame][1]]))
    # 2) step by step
    q_y = gaussian(model.posterior_y(torch.cat(list(h[: c.nt_inf]), 1)))
    y = q_y.mu + q_y.sigma * noise[0, :, : c.ny]
    kl_y = kl_divergence(Normal(*q_y), Normal(0.0, 1.0)).sum()
    kl_z, norms, pictures = x.new_zeros(()), x.new_zeros(()), []
    for t in range(frames):
        if t:
            q_z = model.posterior_z.sequence(h[: t + 1]).at(-1)
            kl_z = kl_z + kl_divergence(Normal(*q_z), Normal(*gaussian(model.prior(y)))).sum()
            z = q_z.mu + q_z.sigma * noise[t, :, : c.nz]
            for _ in range(c.n_euler_steps):
                residual = model.dynamics.f(torch.cat([y, z], 1)) / c.n_euler_steps
                norms = norms + residual.pow(2).sum(1).sqrt().sum()
                y = y + residual
        each = [model.decoder(y[i : i + 1], w[i], conds[i]) for i in range(batch)]
        pictures.append(torch.cat(each))
    # 3) the terms
    squared = ((torch.stack(pictures) - x) ** 2).sum() / (2 * c.obs_scale**2)
    rest = c.beta_y * kl_y + c.l2_res * norms
    return (squared + rest) / batch, kl_z / batch, torch.stack(pictures)


@pytest.mark.parametrize(
    "shape",
    [
        {"obs_scale": 0.3, "n_euler_steps": 3},
        {"skips": True, "channels": 3, "beta_y": 0.7, "l2_res": 2.5},
        {"backbone": "vgg", "skips": True, "obs_scale": 0.71, "nz": 7, "n_euler_steps": 2},
        {"backbone": "vgg", "l2_res": 0.0, "n_past": 5, "nt_inf": 5},
    ],
)
def test_the_training_forward_is_the_originals_objective_step_by_step_with_gradients(shape):
    # Evaluation mode: in training mode BatchNorm's statistics span the whole batch of frames, by intention.
    model, frames, beta_z = random_srvp(**shape), 6, 1.7
    x = inputs(model, frames)[0]
    noise = torch.randn(*model.config.training_noise(frames)[:1], 2, model.config.training_noise(frames)[1])
    unit = 2 * model.config.obs_scale**2 / x[0, 0].numel()
    results = []
    for whole in (True, False):
        model.zero_grad()
        if whole:
            output = model(x, noise)
            loss, kl, pictures = output.mse + unit * beta_z * output.kl + output.auxiliary, output.kl, output.frames
        else:
            loss, kl, pictures = original_loss(model, x, noise)
            loss, pictures = unit * (loss + beta_z * kl), pictures[1:]
        loss.backward()
        results.append((loss, kl, pictures, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (loss_a, kl_a, frames_a, grads_a), (loss_b, kl_b, frames_b, grads_b) = results
    torch.testing.assert_close(frames_a, frames_b, atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(loss_a, loss_b, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(kl_a, kl_b, atol=1e-5, rtol=1e-4)
    assert kl_a > 1e-2
    for name, expected in grads_b.items():
        atol = max(1e-4 * float(expected.abs().max()), 1e-7)
        torch.testing.assert_close(grads_a[name], expected, atol=atol, rtol=2e-3, msg=name)
        assert expected.abs().max() > 0, name


def test_mse_is_that_of_the_targets_and_the_first_frame_is_auxiliary():
    """As for every family: what only this family weighs is in the auxiliary term."""
    model = random_srvp(beta_y=0.0, l2_res=0.0)
    x, noise = inputs(model, 5)[0], torch.randn(5, 2, 7)
    output, pictures = model(x, noise), original_loss(model, x, noise)[2]
    assert output.frames.shape == (4, 2, 1, 64, 64)
    errors = ((pictures - x) ** 2).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(output.mse, errors[1:].sum())
    torch.testing.assert_close(output.auxiliary, errors[0])


def test_the_defaults_are_the_published_sizes_of_moving_digits():
    model = SrvpModel(SrvpConfig())
    assert model.decoder.head.from_cond.weight.shape == (256, 512, 4, 4)
    assert model.posterior_y[0].weight.shape == (256, 5 * 128)
    assert model.dynamics.f[0].weight.shape == (512, 40)
    assert model.encoder.stages[0][0].bias is None


def test_initial_weights_are_the_originals():
    torch.manual_seed(0)
    model = SrvpModel(SrvpConfig(res_gain=1.3, residual_size=64, nf=8))
    inner = model.dynamics.f[2].weight
    torch.testing.assert_close(inner @ inner.T, 1.3**2 * torch.eye(64), atol=1e-4, rtol=0)
    assert model.dynamics.f[2].bias.abs().max() == 0
    assert float(model.encoder.stages[2][0].weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.encoder.stages[2][1].weight.detach().mean()) == pytest.approx(1, abs=0.02)
