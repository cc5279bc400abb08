"""Smooth deviations, against their formula in float64, and when samples are smoothed."""

from __future__ import annotations

import numpy as np
import pytest

from svg_runtime.forecast.post_processing import PostProcessor, Settings
from svg_runtime.forecast.smoothing import SmoothingTrial, smoothed, variance_of

SHAPE = 12, 20


def box(plane: np.ndarray, side: int) -> np.ndarray:
    """Mean over side x side pixels (odd) of (..., H, W), mirrored at the edges."""
    half = side // 2
    padded = np.pad(plane, [(0, 0)] * (plane.ndim - 2) + [(half, half)] * 2, mode="reflect")
    rows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(-2, -1))
    return rows.mean((-2, -1))


def formula(deviations: np.ndarray, side: int, weight: float) -> np.ndarray:
    planes = np.moveaxis(deviations.astype(np.float64), -1, 2)  # (S, T, C, H, W)
    mixed = planes + weight * box(planes, side | 1)
    last = planes.shape[1] - 1
    taps = enumerate((1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16), -2)
    mixed = sum(tap * mixed[:, np.clip(np.arange(last + 1) + shift, 0, last)] for shift, tap in taps)
    before, after = (box((each**2).mean((0, 2)), 3) for each in (planes, mixed))
    return np.moveaxis(mixed * np.sqrt((before + 1e-7) / (after + 1e-7))[None, :, None], 2, -1)


@pytest.mark.parametrize("horizon", [1, 2, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_computes_its_formula(horizon, channels):
    rng = np.random.default_rng(0)
    deviations = rng.normal(size=(4, horizon, *SHAPE, channels)).astype(np.float32) * rng.random((*SHAPE, 1), np.float32)
    deviations -= deviations.mean(0)
    kept = deviations.copy()
    smooth = smoothed(deviations, variance_of(deviations), 4, 3.0)
    np.testing.assert_array_equal(deviations, kept)
    np.testing.assert_allclose(smooth, formula(deviations, 4, 3.0), atol=1e-4)
    np.testing.assert_allclose(smooth.mean(0), 0, atol=1e-5)
    assert variance_of(smooth).mean() == pytest.approx(variance_of(deviations).mean(), rel=0.1)


def test_equal_samples_stay_equal():
    assert not smoothed(np.zeros((3, 2, *SHAPE, 3), np.float32), np.zeros((2, *SHAPE), np.float32), 4, 4.0).any()


def coarse(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, H, W, 1) patterns with parts of four pixels."""
    blocks = rng.normal(size=(count, SHAPE[0] // 4, SHAPE[1] // 4, 1))
    return 0.05 * blocks.repeat(4, axis=1).repeat(4, axis=2)


def play(samples_of, steps: int = 60, horizon: int = 3) -> tuple[list[bool], float, float]:
    """Whether samples were smoothed at each step, and the mean squared error of the best sample with and without."""
    rng = np.random.default_rng(1)
    posts = PostProcessor(Settings(blocks=2)), PostProcessor(Settings(blocks=2, smooth_weight=0))
    truth = np.clip(0.5 + coarse(rng, steps + horizon), 0, 1).astype(np.float32)
    smooth, errors = [], []
    for number, frame in enumerate(truth[:steps]):
        ahead = truth[number + 1 : number + 1 + horizon]
        futures = np.clip(samples_of(rng, ahead), 0, 1).astype(np.float32)
        best = []
        for post in posts:
            post.observe(number, frame)
            corrected = post.correct(number, frame, futures)[1]
            best.append(((corrected - ahead) ** 2).mean((1, 2, 3, 4)).min())
        smooth.append(posts[0]._trial.leads(horizon).all())
        errors.append(best)
    return smooth, *np.mean(errors[steps // 2 :], 0)


def test_fine_samples_of_coarse_errors_are_smoothed():
    """Samples that spread like the truth, but with details of one pixel that the errors do not have."""

    def fine(rng, ahead):
        lasting = np.stack([coarse(rng, 1) for _ in range(8)])
        return 0.5 + 0.4 * lasting + 0.05 * rng.normal(size=(8, *ahead.shape))

    smooth, with_it, without = play(fine)
    assert not any(smooth[:3])  # nothing is known yet
    assert all(smooth[-20:])
    assert with_it < 0.95 * without


def test_sharp_samples_that_are_right_are_left_alone():
    """Where one of the samples is the truth, in all details, a smooth one would not be."""

    def right(rng, ahead):
        others = 0.5 + 0.2 * rng.normal(size=(3, *ahead.shape)).clip(-1, 1)
        return np.concatenate([ahead[None] + 0.05 * rng.normal(size=ahead.shape), others])

    smooth, with_it, without = play(right)
    assert not any(smooth)
    assert with_it == without


def trial_of(smooth_is_better: bool, trial: SmoothingTrial, index: int = 5) -> None:
    truth = np.zeros((4, 4, 1), np.float32)
    far, near = np.full((2, 3, 4, 4, 1), 0.5, np.float32), np.full((2, 3, 4, 4, 1), 0.1, np.float32)
    trial.begin(index, (far, near) if smooth_is_better else (near, far))
    for ahead in range(1, 4):
        assert not trial.is_due(far)
        trial.observe(index + ahead, truth)


def test_one_forecast_at_a_time_is_tried():
    trial, futures = SmoothingTrial(100, 1 << 20), np.zeros((2, 3, 4, 4, 1), np.float32)
    assert trial.is_due(futures)
    assert not trial.is_due(futures[:1])  # one sample has no deviations
    assert not trial.leads(3).any()
    trial_of(True, trial)
    assert trial.leads(3).all()
    assert trial.is_due(futures)
    trial_of(False, trial, 8)
    trial_of(False, trial, 20)
    assert not trial.leads(3).any()
    trial_of(True, trial, 30)
    trial_of(True, trial, 40)
    assert trial.leads(3).all()
    trial.reset()
    assert not trial.leads(3).any()
    trial.begin(1, (futures, futures))
    trial.observe(9, futures[0, 0])  # frames were left out: it cannot end
    assert trial.is_due(futures)


def test_each_lead_decides_for_itself():
    trial, truth = SmoothingTrial(100, 1 << 20), np.zeros((4, 4, 1), np.float32)
    plain, smooth = np.full((2, 3, 4, 4, 1), 0.5, np.float32), np.full((2, 3, 4, 4, 1), 0.6, np.float32)
    smooth[1, 1:] = 0.1  # one sample, at the later leads
    trial.begin(0, (plain, smooth))
    for index in (1, 2, 3):
        assert not trial.leads(3).any()
        trial.observe(index, truth)
    assert trial.leads(3).tolist() == [False, True, True]
    assert trial.leads(5).tolist() == [False, True, True, False, False]  # nothing is known of the last two
    assert trial.leads(1).tolist() == [False]


def test_only_leads_that_gain_are_smoothed():
    """Samples that are right about the next frame, and too fine about later ones."""
    rng, posts = np.random.default_rng(1), [PostProcessor(Settings(blocks=2, smooth_weight=weight)) for weight in (4, 0)]
    truth = np.clip(0.5 + coarse(rng, 64), 0, 1).astype(np.float32)
    for number, frame in enumerate(truth[:60]):
        ahead = truth[number + 1 : number + 4]
        lasting = np.stack([coarse(rng, 1) for _ in range(8)])
        futures = 0.5 + 0.4 * lasting + 0.05 * rng.normal(size=(8, *ahead.shape))
        futures[:, 0] = ahead[0] + 0.02 * rng.normal(size=(8, *frame.shape))
        futures[0, 0] = ahead[0] + 0.05 * np.sign(rng.normal(size=frame.shape)) * (rng.random(frame.shape) < 0.01)
        for post in posts:
            post.observe(number, frame)
        smooth, plain = (post.correct(number, frame, np.clip(futures, 0, 1).astype(np.float32))[1] for post in posts)
    np.testing.assert_allclose(smooth[:, 0], plain[:, 0], atol=1e-6)
    assert all(((smooth - ahead) ** 2).mean((2, 3, 4)).min(0)[1:] < ((plain - ahead) ** 2).mean((2, 3, 4)).min(0)[1:])


def test_what_is_too_large_to_keep_is_not_tried():
    futures = np.zeros((2, 3, 4, 4, 1), np.float32)
    assert SmoothingTrial(100, 2 * futures.nbytes).is_due(futures)
    assert not SmoothingTrial(100, 2 * futures.nbytes - 1).is_due(futures)


def test_a_forecast_under_trial_is_not_the_callers_array():
    rng, post = np.random.default_rng(2), PostProcessor()
    frame, futures = rng.random((8, 8, 1), np.float32), rng.random((3, 1, 8, 8, 1), np.float32)
    post.observe(0, frame)
    corrected = post.correct(0, frame, futures)[1]
    corrected[:] = 7
    assert max(way.max() for way in post._trial._ways) <= 1
