"""A step of a video is as long for alarms as the model's, whatever the rate of the video."""

from __future__ import annotations

import pytest

from svg_common.video.sampling import step_of_video
from svg_runtime.live.step_clock import StepClock


@pytest.mark.parametrize(("fps", "interval_s"), [(30, 0.1), (30.1, 0.1), (28.6, 0.1), (105.2, 0.04), (26.25, 0.04)])
def test_every_step_that_a_video_may_have_counts_as_one_of_the_model(fps, interval_s):
    step = step_of_video(interval_s, fps)
    assert step is not None
    assert step.step_s != interval_s or fps == 30
    clock = StepClock(interval_s)
    times = [clock.add(number * step.step_s) for number in range(4)]
    assert times == pytest.approx([number * interval_s for number in range(4)])


def test_a_pause_counts_in_whole_steps_or_as_it_is():
    clock = StepClock(0.1)
    assert [clock.add(at) for at in (5.0, 5.1, 8.14, 8.24)] == pytest.approx([0, 0.1, 3.1, 3.2])
    clock = StepClock(1.0)
    assert [clock.add(at) for at in (0.0, 1.4)] == pytest.approx([0, 1.4])
