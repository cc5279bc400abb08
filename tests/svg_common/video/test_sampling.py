"""Pictures are selected by their time: without drift, held in a short pause, begun anew after a long one."""

from __future__ import annotations

import random
from itertools import accumulate

import numpy as np
import pytest

from svg_common.video.sampling import pick_at_interval, step_of_video
from svg_common.video.timing import usual_interval_s


def picked_times(times, interval_s, fps):
    """(tick, time of the picture, pause before it) of each tick."""
    return [
        (picked.tick, picked.item, picked.pause_s)
        for picked in pick_at_interval(zip(times, times, strict=True), interval_s, fps)
    ]


def test_the_nearest_picture_is_picked_without_drift():
    fps, interval = 29.97, 0.1
    picked = picked_times([n / fps for n in range(3000)], interval, fps)
    assert [tick for tick, _, _ in picked] == list(range(len(picked)))
    assert len(picked) == 1001
    assert max(abs(time_s - tick * interval) for tick, time_s, _ in picked) <= 0.5 / fps + 1e-9


def test_at_equal_rates_every_picture_is_picked_despite_rounded_timestamps():
    times = [round(n / 30, 3) for n in range(300)]
    assert [item for _, item, _ in picked_times(times, 1 / 30, 30)] == times


def test_any_times_give_the_nearest_picture_of_each_tick():
    rng = random.Random(0)
    times = list(accumulate(rng.choice((0.01, 0.03, 0.05, 0.4, 0.9)) for _ in range(200)))
    picked = picked_times(times, 0.1, 30)
    assert [tick for tick, _, _ in picked] == list(range(len(picked)))
    for tick, time_s, pause_s in picked:
        at_s = times[0] + 0.1 * tick
        assert abs(time_s - at_s) <= np.abs(np.array(times) - at_s).min() + 1e-6
        assert pause_s == 0


def test_a_short_pause_is_held_and_a_long_one_begins_anew():
    times = [0.0, 0.1, 0.2, 0.9, 1.0, 37.04, 37.14]
    picked = picked_times(times, 0.1, 10)
    assert [time_s for _, time_s, _ in picked] == [0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.9, 0.9, 0.9, 0.9, 1.0, 37.04, 37.14]
    assert [tick for tick, _, _ in picked] == list(range(13))
    assert {tick: pause_s for tick, _, pause_s in picked if pause_s} == {11: pytest.approx(36.04)}


@pytest.mark.parametrize(("pause_s", "pauses"), [(0.95, 0), (1.0, 0), (1.05, 1)])
def test_a_picture_is_held_for_a_second(pause_s, pauses):
    times = [0.0, 0.1, 0.1 + pause_s, 0.2 + pause_s]
    assert sum(pause > 0 for _, _, pause in picked_times(times, 0.1, 10)) == pauses


def test_pictures_that_are_always_seconds_apart_are_not_pauses():
    times = [2.0 * n for n in range(10)]
    assert [(time_s, pause_s) for _, time_s, pause_s in picked_times(times, 2.0, 0.5)] == [(time_s, 0) for time_s in times]


@pytest.mark.parametrize(
    ("fps", "pictures", "step_s"),
    [(10, 1, 0.1), (30, 3, 0.1), (29.97, 3, 3 / 29.97), (9.8, 1, 1 / 9.8), (12, 1, 0.1), (24, 2, 0.1), (25, 2, 0.1)],
)
def test_a_step_is_a_whole_number_of_pictures_only_within_five_percent(fps, pictures, step_s):
    step = step_of_video(0.1, fps)
    assert (step.pictures, step.step_s) == (pictures, pytest.approx(step_s))


@pytest.mark.parametrize("fps", [9.4, 4, 0.5])
def test_a_video_with_less_than_a_picture_per_step_is_too_slow(fps):
    assert step_of_video(0.1, fps) is None


def test_the_usual_interval_is_not_that_of_pauses_jitter_or_lost_pictures():
    rng = random.Random(1)
    jittered = [n / 30 + rng.uniform(-0.003, 0.003) for n in range(300)]
    events = [n / 10 + 3600 * (n // 50) for n in range(200)]
    bursts = [n / 30 + 0.7 * (n // 8) for n in range(96)]
    lossy = [n / 25 for n in range(200) if n % 7]
    rounded = [round(n / 30, 3) for n in range(300)]
    for times_s, interval_s in ((jittered, 1 / 30), (events, 0.1), (bursts, 1 / 30), (lossy, 0.04), (rounded, 1 / 30)):
        assert usual_interval_s(times_s) == pytest.approx(interval_s, rel=0.01)
        assert usual_interval_s(times_s[::-1]) == usual_interval_s(times_s)  # B-frames come out of order
    assert usual_interval_s([5.0]) is None


def test_the_usual_interval_of_irregular_stamps_is_their_mean_without_pauses():
    pairs = [n / 15 + late for n in range(100) for late in (0, 0.008)]
    longer_pairs = [0.0, *(time_s + 0.1 for time_s in pairs)]
    doubled = [n // 2 / 15 for n in range(200)]
    tripled = [n // 3 / 10 for n in range(300)]
    bursts = [n // 4 * 4 / 30 + n % 4 * 0.001 for n in range(200)]
    paused = [time_s + 60 * (time_s > 3) for time_s in pairs]
    for times_s in (pairs, longer_pairs, doubled, tripled, bursts, paused):
        assert usual_interval_s(times_s) == pytest.approx(1 / 30, rel=0.02)
    assert usual_interval_s([5.0, 5.0]) is None
