"""What lasts is told from what is there for a moment, at every interval."""

from __future__ import annotations

import pytest

from svg_runtime.live.lasting import LastingMean

FAST_S, CAMERA_S, TIME_LAPSE_S = 0.02, 0.1, 60.0
intervals = pytest.mark.parametrize("interval_s", [FAST_S, CAMERA_S, TIME_LAPSE_S])


def settled(interval_s: float) -> LastingMean:
    lasting = LastingMean(interval_s)
    for _ in range(max(10, round(1 / interval_s))):
        lasting.add(0.0)
    return lasting


@intervals
def test_what_lasts_counts_nearly_in_full_after_three_windows(interval_s):
    lasting = settled(interval_s)
    means = [lasting.add(3.0) for _ in range(3 * max(10, round(1 / interval_s)))]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(3 * 0.95, abs=0.01)  # 1 - exp(-3)


@intervals
def test_one_damaged_picture_hardly_counts(interval_s):
    assert 0 < settled(interval_s).add(1000.0) < 1


@pytest.mark.parametrize("steps", [2, 10])
def test_a_value_after_dropped_pictures_stands_for_two_steps_at_most(steps):
    one, dropped = settled(CAMERA_S), settled(CAMERA_S)
    one.add(2.0)
    assert dropped.add(2.0, steps) == pytest.approx(one.add(2.0))


def test_after_a_pause_it_begins_anew_and_the_first_second_does_not_count():
    lasting = settled(CAMERA_S)
    for _ in range(20):
        lasting.add(5.0)
    lasting.reset()
    assert [lasting.add(5.0) for _ in range(10)] == [0.0] * 10
    assert lasting.add(5.0) == pytest.approx(5 * (1 - 0.9048), abs=1e-3)  # exp(-0.1)
