"""Coefficients of single forecasts: what is learned of them, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from svg_runtime.forecast.post_processing import PostProcessor, Settings
from svg_runtime.forecast.random_coefficients import RandomCoefficients, draws


def some_covariance(rng: np.random.Generator, leads: int, count: int) -> np.ndarray:
    root = rng.normal(size=(leads, count, count))
    return root @ root.swapaxes(1, 2)


def test_draws_have_mean_0_and_the_covariance():
    covariance = some_covariance(np.random.default_rng(0), 5, 4)
    drawn = draws(np.ones(8), covariance, seed=3)
    assert drawn.shape == (8, 5, 4)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.einsum("stj,stk->tjk", drawn, drawn) / 8, covariance, rtol=1e-4, atol=1e-4)


def test_a_draw_is_the_same_at_all_leads_but_for_its_size():
    one = some_covariance(np.random.default_rng(1), 1, 4)
    near, far = draws(np.ones(8), np.concatenate([one, 9 * one]), seed=0).swapaxes(0, 1)
    np.testing.assert_allclose(far, 3 * near, rtol=1e-4)


def test_every_forecast_has_its_own_draws():
    covariance = some_covariance(np.random.default_rng(2), 2, 4)
    np.testing.assert_array_equal(draws(np.ones(4), covariance, seed=5), draws(np.ones(4), covariance, seed=5))
    assert np.abs(draws(np.ones(4), covariance, seed=5) - draws(np.ones(4), covariance, seed=6)).max() > 0.1


def test_samples_go_as_far_as_their_amplitudes():
    """On average: their mean is 0 and their covariance is given, which a single draw pays for."""
    wanted, covariance = np.array([2.0, 0.2, 1.0, 0.5, 0.8, 1.2, 0.3, 0.6]), np.eye(4)[None]
    far = np.mean([np.linalg.norm(draws(wanted, covariance, seed)[:, 0], axis=1) for seed in range(200)], axis=0)
    np.testing.assert_array_equal(np.argsort(far), np.argsort(wanted))
    assert far.max() > 2 * far.min()


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
def test_few_samples_have_as_much_of_the_covariance_as_they_can(samples):
    drawn = draws(np.ones(samples), np.eye(4)[None], seed=1)[:, 0]
    sizes = np.linalg.svd(drawn, compute_uv=False)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(sizes, [*[samples**0.5] * (samples - 1), 0, 0, 0, 0][: min(samples, 4)], atol=1e-5)


def test_it_learns_how_much_coefficients_differ():
    """From errors that are the regressors, times differences of a known covariance."""
    rng, found = np.random.default_rng(3), RandomCoefficients(2, memory_steps=2000, prior=1e-9)
    root = np.array([[0.3, 0.1], [0.0, 0.2]])
    for _ in range(4000):
        regressors = rng.normal(size=(2, 50))
        error = (root @ rng.normal(size=2)) @ regressors
        found.learn(1, regressors @ regressors.T / 50, regressors @ error / 50)
    covariance = found.covariance(3)
    np.testing.assert_allclose(covariance[1], root @ root.T, rtol=0.15, atol=0.004)
    assert not covariance[[0, 2]].any()
    found.reset()
    assert not found.covariance(3).any()


def test_a_prior_keeps_what_is_too_small_to_tell():
    found = RandomCoefficients(1, memory_steps=100, prior=1e-4)
    for _ in range(50):
        found.learn(0, np.array([[1e-6]]), np.array([1e-6]))
    assert found.covariance(1)[0, 0, 0] < 1e-3


def test_the_first_forecasts_count_less():
    found = RandomCoefficients(1, memory_steps=100, prior=1e-9)
    found.learn(0, np.eye(1), np.ones(1))
    assert found.covariance(1)[0, 0, 0] == pytest.approx(0.1, rel=1e-6)


def nearest(settings: Settings) -> tuple[float, float]:
    """Squared errors at lead 1, of the mean and of the best sample: something moves as forecast, but by more or less of it."""
    rng, post = np.random.default_rng(4), PostProcessor(settings)
    errors, made = [], None
    frame = np.full((16, 16, 3), 0.5, np.float32)
    for index in range(200):
        post.observe(index, frame)
        if made is not None and index > 100:
            squared = ((made[:, 0] - frame) ** 2).mean((1, 2, 3))
            errors.append((((made[:, 0].mean(0) - frame) ** 2).mean(), squared.min()))
        change = 0.1 * rng.normal(size=frame.shape).astype(np.float32)
        noise = 0.02 * rng.normal(size=(8, 1, *frame.shape)).astype(np.float32)
        _, made = post.correct(index, frame, np.clip(frame + change + noise, 0, 1))
        frame = np.clip(frame + np.float32(max(0, 1 + 0.5 * rng.normal())) * change, 0.1, 0.9)
    mean, best = np.mean(errors, axis=0)
    return float(mean), float(best)


def test_samples_go_farther_and_less_far():
    """One of eight then comes nearer than their mean, as none does whose coefficients are those of all."""
    mean, best = nearest(Settings())
    mean_alike, best_alike = nearest(Settings(varied=0))
    assert best < 0.75 * mean < 0.75 * best_alike
    assert best < 0.65 * best_alike
    assert mean == pytest.approx(mean_alike, rel=0.1)


def test_nothing_moves_where_the_model_is_sure_and_right():
    """On the left it knows what comes. On the right it is wrong by more or less, and other coefficients would have helped."""
    rng, post = np.random.default_rng(5), PostProcessor()
    frame = np.full((16, 32, 3), 0.5, np.float32)
    for index in range(100):
        post.observe(index, frame)
        change = 0.1 * rng.normal(size=frame.shape).astype(np.float32)
        noise = 0.02 * rng.normal(size=(8, 1, *frame.shape)).astype(np.float32)
        noise[..., :16, :] *= 0.05
        _, made = post.correct(index, frame, np.clip(frame + change + noise, 0, 1))
        part = np.float32(max(0, 1 + 0.5 * rng.normal()))
        frame = np.clip(frame + np.concatenate([change[:, :16], part * change[:, 16:]], axis=1), 0.1, 0.9)
    left, right = made[:, 0, :, :13].std(0).mean(), made[:, 0, :, 19:].std(0).mean()
    assert right > 0.02
    assert left < 0.003
