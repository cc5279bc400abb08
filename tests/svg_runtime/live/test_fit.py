"""Whether the model fits: silent on what it was trained on, one message and a banner on anything else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_common.frame_statistics import Distribution, TrainingData
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, EMBEDDED_MODEL, Bundle
from svg_runtime.forecast.scores import ForecastScore
from svg_runtime.live.events import EventLog
from svg_runtime.live.fit import FitMonitor
from svg_runtime.live.overlay import Caption, ForecastPicture, View
from svg_runtime.live.overlay.layout import make_frame
from tests.svg_runtime.live.live_helpers import read_pictures

STEP_S = 0.1


def monitor(training_data: TrainingData | None = None, step_s: float = STEP_S) -> FitMonitor:
    return FitMonitor(training_data, step_s, EventLog())


def trained_on_gray(low: float, high: float) -> TrainingData:
    brightness = Distribution(mean=low, std=0.0, p01=low, p50=low, p99=high)
    return TrainingData(description="gray walls", sequences=1, frames=2, statistics={"brightness": brightness})


def see(
    fit: FitMonitor, level: float, seconds: float, forecast: float | None = None, repeat: float = 0.01, steps: int = 1
) -> None:
    """Show gray frames, one every `steps`; `forecast` and `repeat` are mean squared errors."""
    frame = np.full((4, 4, 1), level, np.float32)
    scores = (
        [] if forecast is None else [ForecastScore(lead=1, mse_best=0.0, mse_mean=0.0, mse_model=forecast, mse_repeat=repeat)]
    )
    for _ in range(round(seconds / STEP_S / steps)):
        fit.add(frame, scores, steps)


def events(fit: FitMonitor) -> dict[str, int]:
    return fit._events.summary()["counts"]


def test_frames_like_the_training_data_are_silent():
    fit = monitor(Bundle.open(EMBEDDED_MODEL).manifest.training_data)
    for seed in range(3):
        draw = digit_stream(seed, 1, 64)
        for _ in range(300):
            fit.add(draw()[..., None].astype(np.float32), [])
            assert not fit.reasons
        fit.cut()
    assert events(fit) == {}
    assert fit.summary()["fits"] is True


@pytest.mark.parametrize(("level", "far"), [(0.29, True), (0.31, False), (0.69, False), (0.71, True)])
def test_frames_are_far_beyond_one_width_of_the_training_data(level, far):
    fit = monitor(trained_on_gray(0.43, 0.56))  # 0.13 wide: near is 0.30 to 0.69
    see(fit, level, seconds=5)
    assert bool(fit.reasons) == far


def test_a_narrow_distribution_leaves_room_for_what_a_camera_changes_by():
    fit = monitor(trained_on_gray(0.5, 0.5))
    see(fit, 0.54, seconds=30)
    assert not fit.reasons
    see(fit, 0.56, seconds=30)
    assert fit.reasons == ("brightness is 0.56, trained on 0.50 to 0.50",)


@pytest.mark.parametrize(
    ("left", "right", "reasons"),
    [
        ((0.45, 0.5, 0.55), (0.95, 0.95, 0.85), []),  # brighter than nearly all clips
        ((0.8, 0.8, 0.8), (1.0, 1.0, 1.0), ["brightness is 0.90, trained on 0.02 to 0.71"]),  # burnt out
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ["contrast is 0.50, trained on 0.04 to 0.29"]),  # hard black and white
        ((0.1, 0.0, 0.7), (1.0, 0.6, 0.1), ["colour is 0.80, trained on 0.00 to 0.38"]),  # false colours of a thermal camera
    ],
)
def test_the_varied_data_of_the_camera_model_leave_no_room_for_everything(left, right, reasons):
    fit = monitor(Bundle.open(EMBEDDED_FOLDER / "camera.svgb").manifest.training_data)
    frame = np.array([[left, right]] * 2, np.float32)
    for _ in range(60):
        fit.add(frame, [])
    assert list(fit.reasons) == reasons


def test_the_window_is_no_shorter_than_a_training_sequence():
    fit = monitor(trained_on_gray(0.5, 0.5).model_copy(update={"frames": 100}))
    see(fit, 0.9, seconds=9.9)
    assert (fit.reasons, fit.statistics()) == ((), None)
    see(fit, 0.9, seconds=0.1)
    assert fit.reasons


def test_seconds_are_seconds_where_frames_are_dropped():
    fit = monitor(trained_on_gray(0.5, 0.5))
    see(fit, 0.9, seconds=4.5, steps=5)
    assert not fit.reasons
    see(fit, 0.9, seconds=0.5, steps=5)
    assert fit.reasons
    see(fit, 0.5, seconds=13, steps=5)
    assert fit.reasons  # the bright frames count for nearly five seconds, and ten more have not passed
    see(fit, 0.5, seconds=2, steps=5)
    assert not fit.reasons
    assert 13 < fit.summary()["misfit_s"] < 15


def test_forecasts_are_judged_by_seconds_where_frames_are_dropped():
    fit = monitor(None)
    see(fit, 0.5, seconds=9.5, forecast=0.1, steps=5)
    assert fit.gain_db() is None
    see(fit, 0.5, seconds=0.5, forecast=0.1, steps=5)
    assert fit.reasons
    see(fit, 0.5, seconds=59.5, forecast=0.01, steps=5)
    assert fit.gain_db() < 0
    see(fit, 0.5, seconds=0.5, forecast=0.01, steps=5)
    assert fit.gain_db() == pytest.approx(0)


@pytest.mark.parametrize(("step_s", "clear_steps"), [(5.0, 2), (60.0, 1)])
def test_forecasts_of_long_steps_are_judged_by_many_pictures_and_ten_seconds_are_seconds(step_s, clear_steps):
    fit = monitor(None, step_s)
    see(fit, 0.5, seconds=9 * STEP_S, forecast=0.1)
    assert (fit.reasons, fit.gain_db()) == ((), None)
    see(fit, 0.5, seconds=STEP_S, forecast=0.1)
    assert fit.reasons
    see(fit, 0.5, seconds=29 * STEP_S, forecast=0.01)
    assert fit.gain_db() < -0.5  # thirty pictures count: one of the bad ones is left
    for good in range(1, clear_steps + 1):
        see(fit, 0.5, seconds=STEP_S, forecast=0.01)
        assert fit.gain_db() == pytest.approx(0)
        assert bool(fit.reasons) == (good < clear_steps)


def test_statistics_are_of_as_many_frames_as_a_training_sequence_has_where_frames_are_dropped():
    fit = monitor(trained_on_gray(0.5, 0.5).model_copy(update={"frames": 20}))
    see(fit, 0.9, seconds=9.5, steps=5)
    assert fit.statistics() is None
    see(fit, 0.9, seconds=0.5, steps=5)
    assert fit.statistics() is not None


def test_a_scene_that_rests_is_no_other_scene():
    motion = Distribution(mean=0.5, std=0.1, p01=0.4, p50=0.5, p99=0.6)
    fit = monitor(TrainingData(description="x", sequences=1, frames=2, statistics={"motion": motion, "moving": motion}))
    see(fit, 0.5, seconds=30)
    assert fit.summary()["fits"] is True


def test_motion_is_judged_by_as_many_pairs_of_frames_as_a_training_sequence_has():
    """Where most pictures are dropped, a few pairs may be those of a moment."""
    still = Distribution(mean=0.0, std=0.0, p01=0.0, p50=0.0, p99=0.0)
    fit = monitor(TrainingData(description="x", sequences=1, frames=10, statistics={"motion": still}))
    for number in range(100):
        if number % 4 == 0:
            fit.cut()
        fit.add(np.full((4, 4, 1), number % 2, np.float32), [], steps=5)
        assert "motion" not in (fit.statistics() or {})
    for number in range(10):
        fit.add(np.full((4, 4, 1), number % 2, np.float32), [], steps=5)
    assert fit.statistics()["motion"] == 1
    assert fit.reasons


def test_nothing_is_said_of_frames_without_training_data():
    fit = monitor(None)
    see(fit, 0.5, seconds=30)
    assert not fit.reasons
    assert fit.summary()["fits"] is None


@pytest.mark.parametrize(
    ("forecast", "repeat", "worse"),
    [(0.020, 0.010, "3.0 dB"), (0.0115, 0.010, "0.6 dB"), (0.0105, 0.010, None), (0.005, 0.010, None), (9e-5, 1e-6, None)],
)
def test_forecasts_are_judged_against_repeating_where_the_difference_can_be_seen(forecast, repeat, worse):
    fit = monitor(None)
    see(fit, 0.5, seconds=9.9, forecast=forecast, repeat=repeat)
    assert (fit.reasons, fit.summary()["fits"]) == ((), None)  # too short to tell
    see(fit, 0.5, seconds=1, forecast=forecast, repeat=repeat)
    assert fit.reasons == (() if worse is None else (f"the model's forecasts are {worse} worse than repeating the last frame",))


def test_frames_like_the_training_data_are_not_blamed_for_bad_forecasts():
    fit = monitor(trained_on_gray(0.4, 0.6))
    see(fit, 0.5, seconds=11, forecast=0.1)
    assert "expected forecasts that are closer to what comes" in fit._events.messages[0]


def test_forecasts_count_for_a_minute():
    fit = monitor(None)
    see(fit, 0.5, seconds=60, forecast=0.1)
    see(fit, 0.5, seconds=59, forecast=0.01)
    assert fit.reasons
    see(fit, 0.5, seconds=12, forecast=0.01)
    assert not fit.reasons


def test_a_misfit_is_said_once_though_it_comes_and_goes():
    fit = monitor(trained_on_gray(0.5, 0.5))
    for _ in range(3):
        see(fit, 0.9, seconds=20)
        assert fit.summary()["reasons"] == ["brightness is 0.90, trained on 0.50 to 0.50"]
        see(fit, 0.5, seconds=8)
        assert fit.reasons  # not yet: the light may flicker
        see(fit, 0.5, seconds=10)
        assert not fit.reasons
    assert events(fit) == {"misfit": 1, "fits_again": 1}
    message = fit._events.messages[0]
    assert "brightness is 0.90" in message
    assert "expected pictures like those that it was trained on (gray walls)" in message
    assert "svg-train --init camera" in message
    assert 3 * 25 < fit.summary()["misfit_s"] < 3 * 38


@pytest.mark.parametrize("cuts", [1, 2], ids=["the next scene", "a later one"])
def test_another_scene_that_fits_is_said_once_it_was_seen_for_long_enough(cuts):
    fit = monitor(trained_on_gray(0.5, 0.5))
    see(fit, 0.9, seconds=20)
    for _ in range(cuts):
        fit.reset()
        see(fit, 0.5, seconds=13)  # five of them until there is anything to judge by
    assert events(fit) == {"misfit": 1}
    see(fit, 0.5, seconds=5)
    assert events(fit) == {"misfit": 1, "fits_again": 1}


def test_a_scene_in_which_nothing_can_be_judged_is_not_said_to_fit():
    fit = monitor(None)
    see(fit, 0.5, seconds=20, forecast=0.1)
    fit.reset()
    see(fit, 0.5, seconds=30)
    assert events(fit) == {"misfit": 1}


def test_the_banner_is_drawn_at_the_foot_and_only_if_the_model_does_not_fit():
    caption = Caption("m.svgb", "cpu", "clip.mp4", 8, 10, STEP_S, (64, 64), 10)
    picture, rect = ForecastPicture(caption), make_frame((1280, 720)).foot
    view = View(np.zeros((64, 64), np.uint8))
    fits = picture.annotate(view)
    view.misfit = ("brightness is 0.90, trained on 0.50 to 0.50",) * 9  # more than there is room for
    rows, columns = np.where((picture.annotate(view) != fits).any(-1))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (rect.y, rect.bottom, rect.x, rect.right)


def test_the_embedded_digits_do_not_fit_a_bright_video(svg_live, tmp_path):
    ramp = np.linspace(0, 60, 64)[None, :] * np.ones((64, 1))  # not of one colour, which would say nothing about the model
    for number in range(60):
        cv2.imwrite(str(tmp_path / f"bright{number:02d}.png"), (ramp + number * 10 % 190).astype(np.uint8))
    small = ("--model", "digits", "--headless", "--json", "stats.json", "--samples", "2", "--horizon", "2")
    code, stderr, stats = svg_live(*small, "--source", ".", "--output", "out/out.mp4", model=False)
    assert code == 0, stderr
    assert stderr.count("the model does not fit these pictures: ") == 1
    assert "svg-train --init camera --source YOUR_CAMERA --train 30m" in stderr
    assert stats["events"]["counts"]["misfit"] == 1
    assert stats["fit"]["fits"] is False
    assert "model does not fit: 1.0 s; " in stderr
    first, *_, last = read_pictures(tmp_path / "out/out.mp4")
    banner = make_frame((1280, 720)).foot
    assert banner.of(last).mean() > banner.of(first).mean() + 80  # amber instead of the dark background
