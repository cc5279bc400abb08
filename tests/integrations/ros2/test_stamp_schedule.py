"""Which pictures are observed, by their time stamps."""

from __future__ import annotations

import numpy as np
import pytest

from svg_edge_ros.image_messages import ImageError
from svg_edge_ros.stamp_schedule import StampSchedule, Step


def taken(stamps, interval_s: float = 0.1) -> list[tuple[float, Step]]:
    schedule = StampSchedule(interval_s)
    return [(round(float(stamp), 4), step) for stamp in stamps if (step := schedule.take(float(stamp))) is not None]


@pytest.mark.parametrize("fps", [10, 15, 25, 29.97, 30, 60, 120])
def test_a_camera_is_observed_at_the_interval_of_the_model(fps):
    """Over a minute no interval is skipped, and none is more than half a period off."""
    found = taken(1e9 + np.arange(0, 60, 1 / fps))
    assert len(found) == pytest.approx(600, abs=1)
    assert sum(step.skipped for _, step in found) == 0
    assert [step.new_scene for _, step in found] == [True] + [False] * (len(found) - 1)
    offsets = np.array([stamp for stamp, _ in found]) - 1e9 - 0.1 * np.arange(len(found))
    assert np.abs(offsets).max() <= 0.5 / fps + 1e-4


def test_jitter_of_the_driver_skips_nothing():
    rng = np.random.default_rng(0)
    found = taken(np.arange(0, 30, 1 / 30) + rng.normal(0, 0.003, 900))
    assert sum(step.skipped for _, step in found) == 0


def test_intervals_without_a_picture_are_counted():
    """As when the model is slower than the camera, and only the newest picture waits."""
    found = taken([0, 0.1, 0.2, 0.5, 0.6, 1.0])
    assert [step.skipped for _, step in found] == [0, 0, 0, 2, 0, 3]
    assert sum(step.new_scene for _, step in found) == 1


@pytest.mark.parametrize("before", [1, 30], ids=["from the start", "in the dark"])
@pytest.mark.parametrize("period_s", [0.95, 1.02, 2.0, 600.0])
def test_a_slow_camera_is_observed_picture_by_picture(period_s, before):
    """Its first gap is a pause, because its rate is not known yet; a second one of the same length is not."""
    fast = np.arange(before) / 30
    found = taken([*fast, *(fast[-1] + period_s * np.arange(1, 31))])[-30:]
    assert [step.new_scene for _, step in found] == [period_s > 1] + [False] * 29
    assert sum(step.skipped + 1 for _, step in found[1:]) == pytest.approx(29 * period_s / 0.1, abs=1)


def test_the_rate_of_the_camera_is_known_after_a_while():
    schedule = StampSchedule(0.1)
    steps = [schedule.take(2.0 * number) for number in range(21)]
    assert schedule.camera_interval_s is None  # the first gap may have been a pause
    steps.append(schedule.take(42.0))
    assert (sum(step.new_scene for step in steps), schedule.camera_interval_s) == (2, 2.0)
    assert schedule.take(1.0) == Step(new_scene=True)
    assert schedule.take(3.0) == Step(skipped=19)  # a bag that loops has the camera that it had
    assert [schedule.take(stamp_s) for stamp_s in (1e300, 2e300)] == [Step(new_scene=True)] * 2  # no camera is that slow


@pytest.mark.parametrize("then", [5.0, 0.3], ids=["a pause", "time goes backwards"])
def test_a_pause_begins_a_new_scene_with_a_schedule_of_its_own(then):
    found = taken([*np.arange(0, 1, 0.1), then, then + 0.05, then + 0.1])
    assert [stamp for stamp, _ in found[10:]] == [then, round(then + 0.1, 4)]
    assert [step for _, step in found[10:]] == [Step(new_scene=True), Step()]


@pytest.mark.parametrize(("second_s", "is_pause"), [(1700.0, True), (950.0, True), (850.0, False), (300.0, False)])
def test_a_second_pause_is_none_only_if_it_is_as_long(second_s, is_pause):
    *_, first, second = taken([*np.arange(30) / 30, 600.0, 600.0 + second_s])
    assert first[1].new_scene
    assert second[1] == (Step(new_scene=True) if is_pause else Step(skipped=round(second_s / 0.1) - 1))


def test_a_picture_that_comes_twice_is_observed_once():
    assert len(taken([0, 0.1, 0.1, 0.1, 0.2])) == 3


@pytest.mark.parametrize("stamp", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("before", [0, 5], ids=["the first picture", "a later one"])
def test_a_time_that_is_not_finite_is_refused_and_changes_nothing(stamp, before):
    schedule = StampSchedule(0.1)
    times = 0.1 * np.arange(10)
    found = [schedule.take(time) for time in times[:before]]
    with pytest.raises(ImageError, match="time stamp is"):
        schedule.take(stamp)
    assert found + [schedule.take(time) for time in times[before:]] == [Step(new_scene=True)] + [Step()] * 9
