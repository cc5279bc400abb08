"""What a forecast is built on: the window, the stream and the surprise, each against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svg_runtime import Forecaster
from svg_runtime.errors import UsageError
from tests.conftest import export_model, random_model, save_model
from tests.sample import sampled
from tests.svg_runtime.bundle_helpers import draw, from_torch, generated, to_torch

ATOL = 2e-5  # samples differ by about 1e-3
SAMPLES, HORIZON = 3, 4
# Shared ones are `tiny`: 1 channel, n_past 3, skip_lag 1, layers 2 / 1 / 1; and `following`.
COLOUR = {"channels": 3, "n_past": 2, "skip_lag": 0, "predictor_layers": 1, "posterior_layers": 2, "prior_layers": 2}


@pytest.fixture(scope="session", params=sampled(["tiny", "following", "colour"], {"tiny", "following"}))
def subject(request, tmp_path_factory):
    """(model, bundle) of one architecture and generation rule."""
    if request.param != "colour":
        return tuple(request.getfixturevalue(f"{request.param}_{what}") for what in ("model", "bundle"))
    model, folder = random_model(seed=1, **COLOUR), tmp_path_factory.mktemp("colour")
    return model, export_model(save_model(folder / "model.pt", model, data={"name": "video"}), folder / "model.svgb")


@pytest.fixture
def clip(subject, frames):
    """(8, 64, 64, C): in colour the channels are moved against each other, so that their order matters."""
    return np.concatenate([np.roll(frames, 9 * channel, axis=1) for channel in range(subject[0].config.channels)], axis=-1)


def open_on(subject, **options) -> Forecaster:
    return Forecaster.open(subject[1], backend="cpu", **{"samples": SAMPLES, "horizon": HORIZON, **options})


def noise_for(model, seed: int = 0, samples: int = SAMPLES, horizon: int = HORIZON):
    c = model.config
    return draw(seed, horizon, samples, c.z_dim), draw(seed + 1000, c.n_past - 1, samples, c.z_dim)


@torch.no_grad()
def stream_truth(model, frames, context_noise, noise):
    """The stream, step by step: state is carried from the first frame on. `context_noise`: (frames - 1, samples, z_dim)."""
    c, samples = model.config, noise.shape[1]
    x = to_torch(frames, samples)
    posterior, prior, predictor = (part.core.initial_state(samples) for part in (model.posterior, model.prior, model.predictor))
    h, skips = zip(*(model.encoder(frame) for frame in x), strict=True)
    for t in range(1, len(x)):
        mu, logvar, posterior = model.posterior.step(h[t], posterior)
        z = mu + torch.exp(logvar / 2) * torch.from_numpy(context_noise[t - 1])
        _, _, prior = model.prior.step(h[t - 1], prior)
        _, predictor = model.predictor.step(h[t - 1], z, predictor)
    h_now, out = h[-1], []
    cond = model.decoder.condition(skips[-1] if c.last_frame_skip else skips[-1 - c.skip_lag])
    for eps in torch.from_numpy(noise):
        mu, logvar, prior = model.prior.step(h_now, prior)
        g, predictor = model.predictor.step(h_now, mu + torch.exp(logvar / 2) * eps, predictor)
        out.append(model.decoder(g, cond))
        h_now, skip = model.encoder(out[-1])
        if c.last_frame_skip:
            cond = model.decoder.condition(skip)
    return from_torch(torch.stack(out))


@torch.no_grad()
def surprise_truth(model, frames) -> float:
    """KL(posterior || prior) of the last of `frames`, both read from the first of them on."""
    x = to_torch(frames, 1)
    h = [model.encoder(frame)[0] for frame in x]
    posterior, prior = model.posterior.core.initial_state(1), model.prior.core.initial_state(1)
    for t in range(1, len(x)):
        mu_q, logvar_q, posterior = model.posterior.step(h[t], posterior)
        mu_p, logvar_p, prior = model.prior.step(h[t - 1], prior)
    normal = torch.distributions.Normal
    q, p = normal(mu_q, torch.exp(logvar_q / 2)), normal(mu_p, torch.exp(logvar_p / 2))
    return float(torch.distributions.kl_divergence(q, p).sum())


def test_window_forecast_is_the_models_generation_at_every_frame(subject, clip):
    model, _ = subject
    with open_on(subject) as forecaster:
        for t, frame in enumerate(clip):
            forecaster.observe(frame)
            if not forecaster.ready:
                continue
            forecaster.forecast()  # others in between, with drawn noise and another shape, change nothing
            forecaster.forecast(samples=2, horizon=t)
            noise, context_noise = noise_for(model, t)
            given = forecaster.forecast(noise=noise, context_noise=context_noise)
            np.testing.assert_allclose(given, generated(model, clip[: t + 1], noise, context_noise), atol=ATOL)


def test_forecasting_again_with_the_same_noise_gives_the_same_bits(subject, clip):
    noise, context_noise = noise_for(subject[0])
    with open_on(subject) as forecaster:
        for frame in clip:
            forecaster.observe(frame)
        once = forecaster.forecast(noise=noise, context_noise=context_noise)
        np.testing.assert_array_equal(forecaster.forecast(noise=noise, context_noise=context_noise), once)


@pytest.mark.parametrize("extra", [0, 1, 4])
def test_stream_forecast_equals_a_loop_that_carries_state(subject, clip, extra):
    model, _ = subject
    count = min(len(clip), model.config.n_past + extra)
    noise, _ = noise_for(model)
    rng = np.random.default_rng(5)
    context_noise = np.stack([rng.standard_normal((SAMPLES, model.config.z_dim), np.float32) for _ in range(count - 1)])
    with open_on(subject, context="stream", seed=5) as forecaster:
        for frame in clip[:count]:
            forecaster.observe(frame)
        given = forecaster.forecast(noise=noise)
    np.testing.assert_allclose(given, stream_truth(model, clip[:count], context_noise, noise), atol=ATOL)
    if extra:  # the window would have given something else
        window = generated(model, clip[:count], noise, context_noise[-(model.config.n_past - 1) :])
        assert np.abs(given - window).max() > 10 * ATOL


def test_forecasts_leave_the_stream_untouched(subject, clip):
    noise, _ = noise_for(subject[0])
    with open_on(subject, context="stream") as busy, open_on(subject, context="stream") as quiet:
        for frame in clip:
            busy.observe(frame)
            quiet.observe(frame)
            for horizon in (HORIZON, 1, 2) if busy.ready else ():
                busy.forecast(horizon=horizon, noise=noise[:horizon])
        np.testing.assert_array_equal(busy.forecast(noise=noise), quiet.forecast(noise=noise))


@pytest.mark.parametrize("context", ["window", "stream"])
def test_surprise_is_the_kl_divergence_in_nats(subject, clip, context):
    model, _ = subject
    with open_on(subject, context=context) as forecaster:
        assert forecaster.observe(clip[0]).surprise is None
        for t in range(1, len(clip)):
            surprise = forecaster.observe(clip[t]).surprise
            start = max(0, t + 1 - model.config.n_past) if context == "window" else 0
            assert surprise == pytest.approx(surprise_truth(model, clip[start : t + 1]), rel=1e-4)
            if forecaster.ready:
                forecaster.forecast()


def test_a_context_longer_than_the_bound_chain_gives_the_same_posterior(subject, clip, monkeypatch):
    """3 pairs of frames, two at once: the state travels from the second to the third."""
    model, _ = subject
    monkeypatch.setattr("svg_runtime.forecast.context._MAX_PAIRS", 2)
    with open_on(subject, fused=False) as forecaster:
        for frame in clip:
            surprise = forecaster.observe(frame).surprise
        assert surprise == pytest.approx(surprise_truth(model, clip[-model.config.n_past :]), rel=1e-4)
        noise, context_noise = noise_for(model)
        actual = forecaster.forecast(noise=noise, context_noise=context_noise)
    np.testing.assert_allclose(actual, generated(model, clip, noise, context_noise), atol=ATOL)


@pytest.mark.parametrize("context", ["window", "stream"])
def test_warming_up_changes_nothing(subject, clip, context):
    with open_on(subject, context=context) as cold, open_on(subject, context=context) as warm:
        warm.observe(clip[0])
        warm.warm_up()
        assert not warm.ready
        for frame in clip:
            assert warm.observe(frame) == cold.observe(frame)
            if cold.ready:
                np.testing.assert_array_equal(warm.forecast(), cold.forecast())


def test_a_warm_up_that_fails_leaves_no_frame_behind(tiny_bundle, frames, monkeypatch):
    with Forecaster.open(tiny_bundle, samples=2, horizon=2) as forecaster:
        monkeypatch.setattr(forecaster, "forecast", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forecaster.warm_up()
        assert not forecaster.ready
        observation = forecaster.observe(frames[0])
        assert (observation.index, observation.surprise, observation.scores) == (0, None, ())


def test_the_stream_context_refuses_other_samples_and_context_noise(tiny_bundle, frames):
    with Forecaster.open(tiny_bundle, samples=2, context="stream") as forecaster:
        for frame in frames[:4]:
            forecaster.observe(frame)
        with pytest.raises(UsageError, match="stream"):
            forecaster.forecast(samples=3)
        with pytest.raises(UsageError, match="stream"):
            forecaster.forecast(context_noise=np.zeros((2, 2, 4)))
        assert forecaster.forecast(samples=2, horizon=3).shape == (2, 3, 64, 64, 1)


@pytest.mark.parametrize("context", ["window", "stream"])
def test_reset_forgets_frames_state_and_noise(subject, clip, context):
    with open_on(subject, context=context) as forecaster:
        for frame in clip[::-1]:
            forecaster.observe(frame)
        forecaster.forecast()
        forecaster.reset()
        assert not forecaster.ready
        again = [forecaster.observe(frame) for frame in clip]
        replayed = [forecaster.forecast(), forecaster.forecast()]
    with open_on(subject, context=context) as fresh:
        assert [fresh.observe(frame) for frame in clip] == again
        np.testing.assert_array_equal([fresh.forecast(), fresh.forecast()], replayed)


def test_a_skip_lag_of_one_reads_the_frame_before_the_last(tiny_bundle, tiny_model, frames):
    """Guards the comparisons above: with this model the other choice is far outside their tolerance."""
    noise, context_noise = noise_for(tiny_model)
    other = tiny_model.config.model_copy(update={"skip_lag": 0})
    with open_on((tiny_model, tiny_bundle)) as forecaster:
        for frame in frames:
            forecaster.observe(frame)
        given = forecaster.forecast(noise=noise, context_noise=context_noise)
    lagging, tiny_model.config = tiny_model.config, other
    try:
        assert np.abs(given - generated(tiny_model, frames, noise, context_noise)).max() > 100 * ATOL
    finally:
        tiny_model.config = lagging
