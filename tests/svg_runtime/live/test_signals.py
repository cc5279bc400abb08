"""Signals: comparable between cameras and models, slow to call an anomaly usual, fast enough for a camera."""

from __future__ import annotations

import math
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from svg_common.video.sampling import MAX_STEP_S
from svg_runtime import Forecaster
from svg_runtime.forecast.forecaster import Observation
from svg_runtime.forecast.scores import EarlierForecast, ForecastMemory
from svg_runtime.live.signals import SceneChange, Signals, SignalValues, UsualRange

STEP_S = 0.1


def scatter(count: int, seed: int = 0, unit: float = 1.0) -> list[float]:
    return (unit * np.exp(np.random.default_rng(seed).normal(0, 0.3, count))).tolist()


def fed(usual: UsualRange, values: list[float], steps: int = 1) -> list[float | None]:
    return [usual.z(value, steps) for value in values]


def test_nothing_is_known_during_the_first_seconds():
    zs = fed(UsualRange(STEP_S), scatter(31))
    assert zs[:30] == [None] * 30
    assert zs[30] is not None


def test_seconds_are_seconds_where_frames_are_dropped():
    usual = UsualRange(STEP_S)
    zs = fed(usual, scatter(7), steps=5)
    assert zs[:6] == [None] * 6
    assert zs[6] is not None
    fed(usual, scatter(600), steps=5)  # five minutes
    assert min(z for z in fed(usual, [x * 20 for x in scatter(20, seed=1)], steps=5) if z is not None) > 5
    assert fed(usual, [x * 20 for x in scatter(600, seed=2)], steps=5)[-1] == pytest.approx(0, abs=3)


@pytest.mark.parametrize("step_s", [0.5, 3.0, 60.0])
def test_nothing_is_known_of_fewer_than_ten_values(step_s):
    assert [z is None for z in fed(UsualRange(step_s), scatter(11))] == [True] * 10 + [False]


LONG_STEPS_S = [20.0, 31.0, 40.0, 60.0, 600.0, 3600.0, MAX_STEP_S]  # of time-lapse


@pytest.mark.parametrize("step_s", LONG_STEPS_S)
def test_signals_of_long_steps_are_numbers_and_see_what_is_unusual(step_s):
    signals, rng = Signals(step_s), np.random.default_rng(0)
    street = cv2.GaussianBlur(rng.random((64, 64, 3), dtype=np.float32), (0, 0), 3.0) * 4 - 1.5
    for index in range(60):
        frame = street + rng.normal(0, rng.uniform(0.01, 0.02), street.shape).astype(np.float32)
        values = signals.add(frame, observed(index, rng, rng.uniform(1.0, 1.5)))
        assert values is None or all(math.isfinite(z) for z in asdict(values).values() if z is not None)
        assert index < 30 or values.combined < 4.5  # the usual is no alarm, though the window has few values
    covered = signals.add(np.zeros_like(street), observed(60, rng, 1.2))
    assert covered.scene > 4.5


@pytest.mark.parametrize("step_s", LONG_STEPS_S)
def test_a_scene_that_is_measured_in_long_steps_has_a_variance(step_s):
    change, rng = SceneChange(step_s), np.random.default_rng(0)
    changes = [change.of(rng.random((64, 64, 3), dtype=np.float32), steps=3) for _ in range(50)]
    assert all(1 <= each < math.inf for each in changes[1:])


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("step_s", LONG_STEPS_S)
def test_a_constant_of_long_steps_is_usual_and_a_scale_stays(step_s, value):
    usual = UsualRange(step_s)
    assert max(abs(z) for z in fed(usual, [value] * 1000) if z is not None) < 1e-3
    assert 0 < usual.z(2.0) < math.inf


def test_a_scene_is_remembered_for_as_long_where_frames_are_dropped():
    scene = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    changes = []
    for steps in (1, 5):
        change = SceneChange(STEP_S)
        for _ in range(600 // steps):
            change.of(scene, steps)
        changes.append([change.of(scene + np.float32(0.1), steps) for _ in range(300 // steps)][-1])
    assert changes[1] == pytest.approx(changes[0], rel=0.1)


def test_the_unit_of_the_values_does_not_matter():
    ours, theirs = UsualRange(STEP_S), UsualRange(STEP_S)
    assert fed(ours, scatter(400))[-1] == pytest.approx(fed(theirs, scatter(400, unit=1e4))[-1], abs=1e-3)


def test_usual_values_are_within_a_few_standard_deviations_and_three_times_the_scatter_is_three():
    usual = UsualRange(STEP_S)
    zs = [z for z in fed(usual, scatter(3000)) if z is not None]
    assert np.std(zs[-1500:]) == pytest.approx(1, abs=0.2)  # later: at first, a few values say little
    assert usual.z(math.exp(3 * 0.3)) == pytest.approx(3, abs=0.6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_has_no_scale_but_is_usual(value):
    usual = UsualRange(STEP_S)
    assert max(abs(z) for z in fed(usual, [value] * 3000) if z is not None) < 1e-3
    later = usual.z(2.0)
    assert later is not None
    assert 3 < later < math.inf


def test_an_anomaly_is_not_usual_after_ten_seconds_but_after_minutes():
    usual = UsualRange(STEP_S)
    fed(usual, scatter(3000))
    tens = fed(usual, [x * 20 for x in scatter(100, seed=1)])
    assert min(z for z in tens if z is not None) > 5
    assert fed(usual, [x * 20 for x in scatter(3000, seed=2)])[-1] == pytest.approx(0, abs=3)


def test_rare_peaks_that_come_again_and_again_are_usual():
    values = scatter(3000)
    for start in range(0, 3000, 100):  # a car every ten seconds, for two
        values[start : start + 20] = [x * 8 for x in values[start : start + 20]]
    assert UsualRange(STEP_S).z(8.0) is None
    zs = fed(UsualRange(STEP_S), values)
    assert max(z for z in zs[2000:] if z is not None) < 5


def test_a_covered_lens_is_a_changed_scene_for_as_long_as_it_is_covered():
    scene, rng = SceneChange(STEP_S), np.random.default_rng(0)
    street = rng.random((64, 64, 3), dtype=np.float32)
    assert scene.of(street) is None
    usual = [scene.of(street + rng.normal(0, 0.01, street.shape).astype(np.float32)) for _ in range(300)]
    covered = [scene.of(np.zeros_like(street)) for _ in range(30)]
    assert min(covered) > 5 * max(usual)


def observed(index: int, rng: np.random.Generator, surprise: float | None = None, forecast: bool = True) -> Observation:
    samples = rng.normal(0.5, 0.02, (8, 64, 64, 3)).astype(np.float32)
    return Observation(index, surprise, (), EarlierForecast(1, samples) if forecast else None, surprise)


def test_each_signal_sees_its_anomaly_and_reset_keeps_what_the_camera_has_taught():
    signals, rng = Signals(STEP_S), np.random.default_rng(0)
    frame = np.full((64, 64, 3), 0.5, np.float32)
    for index in range(100):
        values = signals.add(frame + rng.normal(0, 0.02, frame.shape).astype(np.float32), observed(index, rng, 1.0))
    assert values is not None
    assert values.combined is not None
    assert values.combined < 3
    intruder = frame.copy()
    intruder[20:40, 20:40] = 1
    seen = signals.add(intruder, observed(100, rng, 1.0))
    assert seen is not None
    assert seen.error is not None
    assert seen.error > 5
    signals.reset()
    after = signals.add(frame, observed(0, rng, 9.0, forecast=False))
    assert after is not None
    assert after.error is None
    assert after.surprise is not None
    assert after.surprise > 2
    signals.reset(new_scene=True)
    assert signals.add(frame, observed(0, rng, 9.0)) is None


def test_signals_are_known_after_seconds_where_frames_are_dropped():
    signals, rng = Signals(STEP_S), np.random.default_rng(0)
    frame = rng.random((64, 64, 3), dtype=np.float32)
    seen = [signals.add(frame, observed(index, rng, 1.0), steps=5) for index in range(8)]
    assert [each is None for each in seen] == [True] * 6 + [False] * 2
    assert None not in (seen[7].surprise, seen[7].error, seen[7].motion, seen[7].scene, seen[7].camera_motion)


def shifted(street: np.ndarray, x: float, y: float) -> np.ndarray:
    return np.asarray(cv2.warpAffine(street, np.array([[1, 0, x], [0, 1, y]], np.float32), (64, 64)), np.float32)


def test_a_shaken_camera_is_unusual_where_it_usually_stands_and_usual_on_a_robot():
    rng = np.random.default_rng(0)
    street = cv2.GaussianBlur(rng.random((64, 64, 3), dtype=np.float32), (0, 0), 3.0) * 4 - 1.5
    standing, moving = Signals(STEP_S), Signals(STEP_S)
    for index in range(300):
        standing.add(street + rng.normal(0, 0.01, street.shape).astype(np.float32), observed(index, rng, 1.0, forecast=False))
        moving.add(shifted(street, *rng.normal(0, 1, 2)), observed(index, rng, 1.0, forecast=False))
    for index, (x, y) in enumerate([(1.5, -1.5), (-1.5, 1.0), (1.0, 2.0)]):
        frame = shifted(street, x, y)
        (shaken, usual) = (each.add(frame, observed(300 + index, rng, 1.0, forecast=False)) for each in (standing, moving))
        assert shaken is not None
        assert usual is not None
        assert shaken.camera_motion > 4.5
        assert abs(usual.camera_motion) < 3


def test_a_camera_that_sways_as_usual_is_usual_where_pictures_are_dropped():
    rng = np.random.default_rng(0)
    street = cv2.GaussianBlur(rng.random((64, 64, 3), dtype=np.float32), (0, 0), 3.0) * 4 - 1.5
    signals, largest = Signals(STEP_S), {}
    for index in range(600):
        steps = 1 if index < 400 else 3  # and then only every third picture is seen
        if index < 400 or index % steps == 0:
            frame = shifted(street, 3 * math.sin(2 * math.pi * index / 40), 0.0)
            values = signals.add(frame, observed(index, rng, forecast=False), steps=steps)
            if index >= 200:
                largest[steps] = max(largest.get(steps, 0.0), values.camera_motion)
    assert largest[3] < largest[1] + 1


def test_a_knock_is_unusual_where_every_picture_is_many_steps_after_the_last():
    rng = np.random.default_rng(0)
    street = cv2.GaussianBlur(rng.random((64, 64, 3), dtype=np.float32), (0, 0), 3.0) * 4 - 1.5
    signals = Signals(STEP_S)
    for index in range(60):
        frame = street + rng.normal(0, 0.01, street.shape).astype(np.float32)
        signals.add(frame, observed(index, rng, forecast=False), steps=10)
    assert signals.add(shifted(street, 1.5, -1.5), observed(60, rng, forecast=False), steps=10).camera_motion > 4.5


def test_a_picture_that_carries_nothing_has_no_signals_and_motion_begins_anew_after_it():
    rng = np.random.default_rng(0)
    street = cv2.GaussianBlur(rng.random((64, 64, 3), dtype=np.float32), (0, 0), 3.0) * 4 - 1.5
    signals = Signals(STEP_S)
    for index in range(100):
        signals.add(street, observed(index, rng, 1.0))
    assert signals.add(np.zeros_like(street), observed(100, rng, 50.0), "blank") is None
    moved = shifted(street, 1.5, -1.5)
    first, second = (signals.add(moved, observed(index, rng, 1.0)) for index in (101, 102))
    assert first is not None
    assert first.camera_motion is None
    assert first.scene is not None
    assert second is not None
    assert second.camera_motion is not None


@pytest.mark.parametrize("samples", [2, 3, 8])
def test_an_error_as_predicted_is_the_same_however_many_samples_predict_it(samples):
    rng = np.random.default_rng(0)
    frame, *futures = rng.normal(0.5, 0.2, (1 + samples, 256, 256, 1)).astype(np.float32)
    forecast = Observation(0, None, (), EarlierForecast(1, np.stack(futures)), None)
    assert Signals(STEP_S)._error_ratio(frame, forecast, 1) == pytest.approx(9 / 7, abs=0.25)


def test_the_latest_forecast_of_a_frame_is_what_was_expected():
    memory, last = ForecastMemory(), np.zeros((2, 2, 1), np.float32)
    levels = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1, 1) * np.ones((2, 2, 1), np.float32)
    memory.remember(4, last, levels)
    memory.remember(5, last, levels + 10)
    assert memory.latest(5).lead == 1
    latest = memory.latest(7)
    assert latest.lead == 2
    assert latest.mean()[0, 0, 0] == 12.5  # of 11 and 14
    assert latest.variance()[0, 0, 0] == 2.25
    assert memory.latest(9) is None


def test_signals_are_of_the_forecasts_before_post_processing(tiny_bundle):
    """An alarm must not depend on whether what is shown was corrected."""
    draw, found = np.random.default_rng(0), []
    frames = draw.random((60, 64, 64, 1), np.float32)
    for post_process in (False, True):
        signals, values = Signals(0.1), []
        with Forecaster.open(tiny_bundle, "cpu", samples=3, horizon=2, post_process=post_process) as forecaster:
            for frame in frames:
                seen = signals.add(frame, forecaster.observe(frame))
                values.append([None] * 2 if seen is None else [seen.error, seen.combined])
                if forecaster.ready:
                    forecaster.forecast()
        found.append(np.array(values, float))
    assert np.isfinite(found[0][-10:]).all()
    np.testing.assert_allclose(found[1], found[0], atol=1e-3)


def combined_of(
    surprises: list[float], forecasts: bool = True, interval_s: float = STEP_S, steps: int = 1
) -> tuple[Signals, list[SignalValues]]:
    """Signals of a camera whose usual surprise is 1, after ten seconds of it: of frames that show nothing but these.

    Args:
        surprises: of the frames.
        forecasts: whether there are any.
        interval_s: seconds per step.
        steps: from each of the frames to the next.
    """
    signals, rng = Signals(interval_s), np.random.default_rng(0)
    frame = rng.random((64, 64, 3), dtype=np.float32)
    usual = scatter(round(10 / interval_s))
    for index, surprise in enumerate(usual):
        signals.add(frame, observed(index, rng, surprise, forecasts))
    seen = [
        signals.add(frame, observed(index, rng, surprise, forecasts), steps=steps) for index, surprise in enumerate(surprises)
    ]
    return signals, [values for values in seen if values is not None]


def surprise_and_combined(values: SignalValues) -> tuple[float, float]:
    assert values.surprise is not None
    assert values.combined is not None
    return values.surprise, values.combined


def test_the_largest_signal_counts_and_calm_hides_none():
    _, (last,) = combined_of([8.0])
    surprise, combined = surprise_and_combined(last)
    assert surprise == combined == max(value for value in asdict(last).values() if value is not None)
    assert last.error is not None
    assert last.error < combined


def test_calm_is_the_usual():
    _, values = combined_of([0.01] * 30, forecasts=False)
    surprise, combined = surprise_and_combined(values[-1])
    assert surprise < -3
    assert 0 <= combined < 1


def test_what_lasts_counts_more_than_what_is_there_for_a_moment_but_not_longer():
    _, values = combined_of([20.0] * 30 + [1.0], forecasts=False)
    first, *_, last, after = map(surprise_and_combined, values)
    assert first[1] == first[0]
    assert last[1] == pytest.approx(last[0] + 1)
    assert after[1] < 2


def test_what_lasts_counts_one_and_a_half_times():
    _, values = combined_of([3.0] * 30, forecasts=False)
    surprise, combined = surprise_and_combined(values[-1])
    assert 1.2 < combined / surprise < 1.7


def test_what_lasts_does_so_for_a_second_whatever_the_interval():
    _, values = combined_of([6.0] * 100, forecasts=False, interval_s=0.02)
    for number in (0, 25):
        surprise, combined = surprise_and_combined(values[number])
        assert combined == surprise
    surprise, combined = surprise_and_combined(values[-1])
    assert combined > surprise + 0.5


def test_what_lasts_does_so_sooner_where_pictures_are_dropped():
    for steps, counts in ((1, False), (2, True)):
        _, values = combined_of([6.0] * 8, forecasts=False, steps=steps)
        surprise, combined = surprise_and_combined(values[-1])
        assert (combined > surprise) == counts


def test_one_odd_picture_after_dropped_ones_raises_no_alarm_with_its_neighbours():
    _, values = combined_of([1e4, 13.0, 13.0], forecasts=False, steps=10)
    odd, *neighbours = map(surprise_and_combined, values)
    assert odd[1] > 10
    assert max(combined for _, combined in neighbours) < 4.5


def test_what_lasted_before_a_pause_is_over_after_it():
    signals, _ = combined_of([6.0] * 30, forecasts=False)
    signals.reset()
    rng = np.random.default_rng(1)
    after = signals.add(rng.random((64, 64, 3), dtype=np.float32), observed(0, rng, 1.0, forecast=False))
    assert after is not None
    others = (value for name, value in asdict(after).items() if name != "combined" and value is not None)
    assert after.combined == max(0.0, *others)
