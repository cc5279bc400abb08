"""The state machine of alarms, by tables: signal of each frame -> what happens at it."""

from __future__ import annotations

import pytest

from svg_runtime.live.alarms.trigger import AlarmTrigger, TriggerOptions
from svg_runtime.live.step_clock import StepClock

OPTIONS = TriggerOptions(threshold=6, clear=3, min_duration_s=0.2, hold_s=0.3, cooldown_s=1.0)
UNKNOWN = None


def run(values: list[float | None], options: TriggerOptions = OPTIONS, step_s: float = 0.1) -> dict[int, str]:
    trigger = AlarmTrigger(options, step_s)
    changes = [(index, trigger.add(index * step_s, value)) for index, value in enumerate(values)]
    return {index: change for index, change in changes if change}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0, 5.9, 5.9, 5.9], {}, id="below the threshold"),
        pytest.param([0, 9, 0, 9, 0], {}, id="single frames are too short"),
        pytest.param([0, 6, 6, 6], {2: "started"}, id="two frames are 0.2 s"),
        pytest.param([0, 9, UNKNOWN, 9, 9], {4: "started"}, id="an unknown frame interrupts a rise"),
        pytest.param([9, 9, 4, 4, 4, 4, 4, 4], {1: "started"}, id="above the clearing level it goes on"),
        pytest.param([9, 9, 0, 0, 0, 0], {1: "started", 4: "ended"}, id="0.3 s below it end it"),
        pytest.param([9, 9, 0, 0, 4, 0, 0, 0], {1: "started", 7: "ended"}, id="a short calm does not"),
        pytest.param([9, 9, *[UNKNOWN] * 4], {1: "started", 4: "ended"}, id="what is unknown does not keep it up"),
        pytest.param([9, 9, 0, 0, 0, *[9] * 5], {1: "started", 4: "ended"}, id="cool-down"),
        pytest.param([9, 9, 0, 0, 0, *[9] * 9], {1: "started", 4: "ended", 12: "started"}, id="after the cool-down, at once"),
    ],
)
def test_alarms(values, expected):
    assert run(values) == expected


def test_without_durations_every_frame_counts():
    options = TriggerOptions(threshold=6, clear=6, min_duration_s=0, hold_s=0, cooldown_s=0)
    assert run([9, 5, 9, 5], options) == {0: "started", 1: "ended", 2: "started", 3: "ended"}


def test_time_counts_and_not_frames():
    assert run([9, 9], step_s=0.2) == {0: "started"}
    assert run([9, 9, 9, 9, 9, 9], step_s=0.04) == {4: "started"}


def test_an_alarm_that_is_ended_from_outside_cools_down_too():
    trigger = AlarmTrigger(OPTIONS, 0.1)
    trigger.add(0.0, 9)
    assert trigger.add(0.1, 9) == "started"
    trigger.end()
    assert not trigger.active
    assert [trigger.add(0.2 + 0.1 * step, 9) for step in range(11)].index("started") == 10


@pytest.mark.parametrize(
    ("source_s", "expected"),
    [
        pytest.param([0, 0.0997, 0.1994, 0.3988], [0, 0.1, 0.2, 0.4], id="steps of 30.1 pictures a second are whole ones"),
        pytest.param([7, 7.1, 57.1, 57.2], [0, 0.1, 50.1, 50.2], id="pauses count"),
        pytest.param([0, 0.25, 0.5], [0, 0.25, 0.5], id="in a slower video of several, a step is as long as it is"),
    ],
)
def test_frames_as_far_apart_as_steps_take_whole_steps(source_s, expected):
    clock = StepClock(0.1)
    assert [clock.add(time_s) for time_s in source_s] == pytest.approx(expected)
