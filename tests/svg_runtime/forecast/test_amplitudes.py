"""How far samples go from their mean."""

from __future__ import annotations

import numpy as np
import pytest

from svg_runtime.forecast.amplitudes import amplitudes, stretch
from svg_runtime.forecast.post_processing import PostProcessor, Settings

SHAPE = 3, 8, 8, 3


def some(rng: np.random.Generator, far: list[float]) -> np.ndarray:
    """(S, T, H, W, C) deviations that go about as `far`, with mean 0."""
    deviations = np.multiply(np.reshape(far, (-1, 1, 1, 1, 1)), rng.normal(size=(len(far), *SHAPE)))
    return (deviations - deviations.mean(0)).astype(np.float32)


def how_far(deviations: np.ndarray) -> np.ndarray:
    return np.sqrt((deviations**2).mean((1, 2, 3, 4)))


def test_most_stay_near_and_a_few_go_far_in_the_order_they_had():
    own = np.array([0.9, 1.3, 0.8, 1.2, 1.0, 0.7, 1.4, 1.1], np.float32)
    wanted = amplitudes(own, 0.6)
    np.testing.assert_array_equal(np.argsort(wanted), np.argsort(own))
    assert np.square(wanted).mean() == pytest.approx(1)
    assert np.log(wanted).std() == pytest.approx(0.6, rel=0.1)
    assert (wanted < 1).sum() == 5
    np.testing.assert_allclose(amplitudes(own, 0), 1, rtol=1e-6)


def test_deviations_go_as_far_as_is_wanted_around_the_same_mean():
    deviations = some(np.random.default_rng(1), [1.0] * 50)
    wanted = stretch(deviations, 0.4)
    np.testing.assert_allclose(deviations.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(how_far(deviations) / how_far(deviations).mean(), wanted / wanted.mean(), rtol=0.06)


def test_none_goes_more_than_three_times_as_far():
    """What a sample that is nearly the mean differs in is rounding, or nearly: it is not to be seen."""
    one, other = np.random.default_rng(2).normal(size=(2, *SHAPE)).astype(np.float32)
    deviations = np.stack([1e-3 * other, one, -one])
    deviations -= deviations.mean(0)
    before = how_far(deviations)
    stretch(deviations, 0)
    assert how_far(deviations)[0] < 3 * before[0]
    np.testing.assert_allclose(how_far(deviations)[1:], before[1:] * (2 / 3) ** 0.5, rtol=0.01)


@pytest.mark.parametrize("samples", [1, 3])
def test_equal_samples_stay_equal(samples):
    deviations = np.zeros((samples, *SHAPE), np.float32)
    stretch(deviations, 0.6)
    assert not deviations.any()


def test_two_samples_are_not_ordered_by_rounding():
    one = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    for nearly in (1 - 1e-6, 1.0, 1 + 1e-6):
        np.testing.assert_array_equal(stretch(np.stack([one, -np.float32(nearly) * one]), 0.6).argsort(), [0, 1])


def best_and_spread(uneven: float) -> tuple[float, float]:
    """Mean squared error of the best of 8 samples, and spread; what comes differs from the mean as much as they do."""
    rng, post = np.random.default_rng(4), PostProcessor(Settings(uneven=uneven, varied=0))
    frame, errors = np.full(SHAPE[1:], 0.5, np.float32), []
    for index in range(60):
        post.observe(index, frame)
        futures = (0.5 + 0.1 * rng.normal(size=(8, 1, *frame.shape))).astype(np.float32)
        _, made = post.correct(index, frame, futures)
        frame = (0.5 + 0.1 * rng.normal(size=frame.shape)).astype(np.float32)
        errors.append((((made[:, 0] - frame) ** 2).mean((1, 2, 3)).min(), made.var(0).mean()))
    best, variance = np.mean(errors[20:], axis=0)
    return float(best), float(variance)


def test_one_of_uneven_samples_is_nearer_though_they_spread_as_far():
    best, variance = best_and_spread(0.6)
    best_of_even, variance_of_even = best_and_spread(0)
    assert best < 0.85 * best_of_even
    assert variance == pytest.approx(variance_of_even, rel=0.05)
