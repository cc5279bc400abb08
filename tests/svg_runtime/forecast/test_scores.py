"""Scores of earlier forecasts, against NumPy alone."""

from __future__ import annotations

import numpy as np
import pytest

from svg_runtime import Forecaster
from svg_runtime.forecast import scores
from svg_runtime.forecast.scores import ForecastMemory


def psnr(a, b) -> float:
    return -10 * np.log10(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2))


def check(score, made_at: int, now: int, futures, frames) -> None:
    given, truth = futures[:, now - made_at - 1], frames[now]
    assert score.lead == now - made_at
    assert score.psnr_best == pytest.approx(max(psnr(sample, truth) for sample in given), abs=1e-3)
    assert score.psnr_mean == pytest.approx(psnr(given.mean(0), truth), abs=1e-3)
    assert score.psnr_repeat == pytest.approx(psnr(frames[made_at], truth), abs=1e-3)
    for name in ("best", "mean", "model", "repeat"):
        assert 10 ** (-getattr(score, f"psnr_{name}") / 10) == pytest.approx(getattr(score, f"mse_{name}"))


def test_a_frame_scores_every_forecast_that_was_made_for_it(tiny_bundle, frames):
    made = {}
    with Forecaster.open(tiny_bundle, samples=3, horizon=2) as forecaster:
        for now, frame in enumerate(frames):
            observation = forecaster.observe(frame)
            covering = [at for at in sorted(made, reverse=True) if now - at <= made[at].shape[1]]
            assert [score.lead for score in observation.scores] == [now - at for at in covering]
            for score, at in zip(observation.scores, covering, strict=True):
                check(score, at, now, made[at], frames)
            if forecaster.ready and now != 5:  # a frame without a forecast in between
                made[now] = forecaster.forecast(horizon=3 if now == 3 else None)
    assert sum(futures.shape[1] for futures in made.values()) == 2 + 3 + 2 + 2 + 2


def test_only_the_latest_forecast_of_a_frame_counts(tiny_bundle, frames):
    with Forecaster.open(tiny_bundle, samples=3, horizon=2) as forecaster:
        for frame in frames[:4]:
            forecaster.observe(frame)
        forecaster.forecast(samples=2, horizon=5)
        last = forecaster.forecast()
        (score,) = forecaster.observe(frames[4]).scores
        check(score, 3, 4, last, frames)
        assert len(forecaster.observe(frames[5]).scores) == 1
        assert forecaster.observe(frames[6]).scores == ()  # the first forecast would have reached this frame


def test_reset_forgets_forecasts(tiny_bundle, frames):
    with Forecaster.open(tiny_bundle, samples=2, horizon=9) as forecaster:
        for frame in frames[:4]:
            forecaster.observe(frame)
        forecaster.forecast()
        forecaster.reset()
        assert [forecaster.observe(frame).scores for frame in frames] == [()] * len(frames)


def test_best_mean_and_repeat_are_scored_separately():
    rng = np.random.default_rng(0)
    frames, futures = rng.random((4, 8, 8, 1), np.float32), rng.random((5, 3, 8, 8, 1), np.float32)
    memory = ForecastMemory()
    memory.remember(0, frames[0], futures)
    for now in (1, 2, 3):
        (score,) = memory.score(now, frames[now])
        check(score, 0, now, futures, frames)
        assert score.psnr_mean > score.psnr_best + 1  # the mean of noise is nearer than any of it
    assert memory.score(4, frames[0]) == ()


def test_a_perfect_forecast_is_120_db():
    memory, frame = ForecastMemory(), np.full((2, 2, 1), 0.25, np.float32)
    memory.remember(0, frame, np.broadcast_to(frame, (2, 1, 2, 2, 1)))
    (score,) = memory.score(1, frame)
    assert (score.mse_best, score.mse_mean, score.mse_repeat) == (0, 0, 0)
    assert (score.psnr_best, score.psnr_mean, score.psnr_model, score.psnr_repeat) == (120, 120, 120, 120)


def test_the_oldest_forecasts_are_forgotten_when_memory_runs_short(monkeypatch):
    memory, frame = ForecastMemory(), np.zeros((8, 8, 1), np.float32)
    futures = np.zeros((2, 10, 8, 8, 1), np.float32)
    monkeypatch.setattr(scores, "_MEMORY_LIMIT", 3 * futures.nbytes)
    for index in range(6):
        memory.remember(index, frame, futures)
    assert [score.lead for score in memory.score(6, frame)] == [1, 2, 3]
    monkeypatch.setattr(scores, "_MEMORY_LIMIT", 1)
    memory.remember(6, frame, futures)
    assert [score.lead for score in memory.score(7, frame)] == [1]  # the latest is always kept


def test_what_is_kept_beside_post_processed_forecasts_counts_as_memory(monkeypatch):
    memory, frame = ForecastMemory(post_process=True), np.zeros((8, 8, 1), np.float32)
    futures = np.zeros((1, 10, 8, 8, 1), np.float32)
    monkeypatch.setattr(scores, "_MEMORY_LIMIT", 6 * futures.nbytes)  # of one sample, mean and variance are as large
    for index in range(6):
        memory.observe(index, frame)
        memory.remember(index, frame, futures)
    assert [score.lead for score in memory.score(6, frame)] == [1, 2]
