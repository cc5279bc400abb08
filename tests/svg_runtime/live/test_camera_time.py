"""Pictures of a camera by their time: short gaps are held over, long ones begin anew, and a slow loop is neither."""

from __future__ import annotations

import time
from itertools import islice, pairwise

import numpy as np
import pytest

from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import SourceFrame
from svg_runtime.live.sources.camera import CameraSource
from svg_runtime.live.sources.capture import CaptureThread, NoPictureError
from svg_runtime.live.sources.pacing import Ticker
from svg_runtime.live.stop import StopRequest
from tests.svg_runtime.live.live_helpers import Delivering

INTERVAL_S = 0.04


class ScheduledCamera:
    """A camera that takes picture n at the n-th given time, and whose pictures show their number; then it hangs.

    Reading is real: it waits until the picture is due.
    """

    def __init__(self, times_s: list[float]) -> None:
        self._start_s = time.monotonic()
        self._times_s = times_s
        self._number = 0
        self.captured_s: float | None = None

    def read(self):
        if self._number >= len(self._times_s):
            time.sleep(0.01)
            return False, None
        due_s = self._start_s + self._times_s[self._number]
        time.sleep(max(0.0, due_s - time.monotonic()))
        self.captured_s = due_s
        self._number += 1
        return True, np.full((4, 4, 3), self._number, np.uint8)

    def release(self) -> None:
        pass


def steady(count: int, fps: float, start_s: float = 0.0) -> list[float]:
    return [start_s + n / fps for n in range(count)]


def watch(
    times_s: list[float], until: int, work_s: float = 0.0, interval_s: float = INTERVAL_S
) -> tuple[list[SourceFrame], CameraSource]:
    """Frames until picture `until` was seen."""
    stop = StopRequest()
    camera = CameraSource("camera 0", lambda: ScheduledCamera(times_s), Ticker(interval_s, stop), stop, EventLog(), retry_s=0)
    frames = []
    for frame in camera.frames():
        frames.append(frame)
        if number(frame) >= until:
            break
        time.sleep(work_s)
    camera.close()
    return frames, camera


def number(frame: SourceFrame) -> int:
    return int(frame.image[0, 0, 0])


FPS = 75  # three pictures per interval


def test_a_short_gap_is_held_over_with_the_newest_picture():
    before = steady(40, FPS)
    frames, camera = watch(before + steady(30, FPS, before[-1] + 0.5), until=50)
    held = [number(frame) for frame in frames if frame.held]
    assert 5 <= held.count(40) <= 0.5 / INTERVAL_S
    assert len(held) - held.count(40) <= 3  # none on an idle machine
    assert {frame.clip for frame in frames} == {0}
    ticks = [frame.tick for frame in frames]
    assert ticks == sorted(set(ticks))
    assert camera.dropped <= len(held) / 2  # the loop was hardly late


def test_over_a_long_pause_nothing_is_held_for_more_than_a_second_and_the_context_starts_anew():
    before = steady(40, FPS)
    frames, _ = watch(before + steady(30, FPS, before[-1] + 1.6), until=50)
    held = [number(frame) for frame in frames if frame.held]
    assert 0.5 / INTERVAL_S <= held.count(40) <= 1.0 / INTERVAL_S
    after = [frame for frame in frames if number(frame) > 40]
    assert {frame.clip for frame in after} == {1}
    assert after[0].pause_s == pytest.approx(1.6, abs=0.01)
    assert {frame.pause_s for frame in after[1:]} == {0.0}


def test_a_slow_loop_does_not_hold_for_more_than_a_second_either():
    before = steady(40, FPS)
    frames, _ = watch(before + steady(60, FPS, before[-1] + 2.6), until=50, work_s=0.25)
    assert 1 <= sum(frame.held and number(frame) == 40 for frame in frames) <= 1.0 / 0.25
    assert max(frame.clip for frame in frames) == 1


def test_a_slow_loop_is_no_pause_of_the_camera():
    """More than a second passes between two pictures that are seen, but the camera took all of them."""
    frames, camera = watch(steady(250, FPS), until=150, work_s=1.1)
    assert {frame.clip for frame in frames} == {0}
    assert camera.dropped > 20


def test_a_camera_at_the_models_own_rate_is_hardly_ever_held():
    """Its pictures come as often as they are taken, early or late by a fifth of the interval."""
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, 80) * INTERVAL_S
    times_s = [max(0.0, n * INTERVAL_S + jitter[n]) for n in range(80)]
    frames, _ = watch(times_s, until=75)
    seen = [number(frame) for frame in frames if not frame.held]
    assert len(set(seen)) == len(seen)
    assert len(seen) >= 60
    assert sum(frame.held for frame in frames) <= 8  # none on an idle machine


def test_a_camera_slower_than_the_model_is_not_held_at_every_step():
    frames, _ = watch(steady(60, 10), until=55)
    assert sum(frame.held for frame in frames) <= 4  # none on an idle machine
    assert len({number(frame) for frame in frames}) >= 50


def test_of_a_slow_camera_no_picture_is_dropped_as_long_as_all_are_seen():
    """The loop is busy for several intervals of the model, but the camera has no picture for them."""
    frames, camera = watch(steady(30, 10), until=20, work_s=0.05, interval_s=0.01)
    seen = {number(frame) for frame in frames}
    assert camera.dropped == max(seen) - min(seen) + 1 - len(seen)  # none on an idle machine
    assert frames[-1].tick > 100


def test_a_loop_slower_than_the_camera_drops_what_it_does_not_see():
    """A third of the pictures, though an interval that is missed and the picture that is skipped for it differ by one."""
    frames, camera = watch(steady(70, 25, start_s=0.01), until=60, work_s=1.5 * INTERVAL_S)
    seen = {number(frame) for frame in frames}
    assert camera.dropped == pytest.approx(max(seen) - min(seen) + 1 - len(seen), abs=3)
    assert camera.dropped >= 15


def capture(times_s: list[float], reopen=None) -> CaptureThread:
    """A thread that has read all of it, in this thread."""

    def refuse() -> Delivering:
        raise NoPictureError("gone")

    thread = CaptureThread("camera 0", Delivering(*times_s), reopen or refuse, EventLog(), retry_s=0)
    thread.run()
    return thread


@pytest.mark.parametrize(
    ("times_s", "rate"),
    [
        (steady(19, 30), None),  # too few to tell
        (steady(50, 30), 30),
        (steady(50, 0.5), 0.5),
        (steady(40, 30) + steady(40, 30, 1.3 + 0.9), 30),  # a gap that is held over
        (steady(40, 30) + steady(40, 30, 5.0), 30),  # a pause
        ([1 / 3 * (n // 10) for n in range(100)], 30),  # bunches of ten
        (steady(200, 30) + steady(150, 15, 200 / 30), 15),  # it is slower in the dark
    ],
)
def test_the_rate_of_a_camera(times_s, rate):
    found = capture([100 + time_s for time_s in times_s]).rate()
    assert found == (None if rate is None else pytest.approx(rate, rel=0.4 if rate == 30 else 0.05))


def settled(thread: CaptureThread, interval_s: float) -> tuple[list[float | None], EventLog]:
    """The step after each picture, as `CameraSource` follows it, and what was said."""
    events, stop = EventLog(), StopRequest()
    camera = CameraSource("camera 0", lambda: ScheduledCamera([]), Ticker(interval_s, stop), stop, EventLog(), retry_s=5)
    camera.close()
    camera._thread, camera._events = thread, events
    steps: list[float | None] = []
    note = thread._note_interval

    def note_and_follow(apart_s: float) -> None:
        note(apart_s)
        camera._note_step()
        steps.append(camera._step_s)

    thread._note_interval = note_and_follow
    thread.run()
    return steps, events


def read_all(*streams: list[float]) -> CaptureThread:
    """A thread that is to read these streams, with a reconnect between two."""
    devices = iter([Delivering(*times_s) for times_s in streams])

    def reopen() -> Delivering:
        device = next(devices, None)
        if device is None:
            raise NoPictureError("gone")
        return device

    return CaptureThread("camera 0", reopen(), reopen, EventLog(), retry_s=0.3)


def changes(steps: list[float | None]) -> list[float | None]:
    return [after for before, after in pairwise(steps) if after != before]


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_the_step_is_known_after_twenty_pictures_and_jitter_does_not_change_it(jitter):
    shift = np.random.default_rng(0).uniform(-jitter, jitter, 400) / 2
    steps, events = settled(read_all([100 + n / 2 + shift[n] for n in range(400)]), 0.1)
    assert steps[:18] == [None] * 18
    assert changes(steps) == [pytest.approx(0.5, rel=0.03)]
    assert events.counts == {"slow_source": 1}
    assert "one forecast step is 0.50 s here" in events.messages[0]


def test_every_change_of_the_rate_changes_the_step_once_and_is_said_once():
    day, dusk = steady(100, 30, 100.0), steady(100, 7.5, 103.5)
    night = steady(100, 3, dusk[-1] + 1 / 3)
    times_s = [*day, *dusk, *night, *steady(100, 30, night[-1] + 1 / 30)]
    steps, events = settled(read_all(times_s), 0.1)
    expected = [0.1, pytest.approx(1 / 7.5, rel=0.02), pytest.approx(1 / 3, rel=0.02), 0.1]
    assert changes(steps) == expected
    assert events.counts == {"slow_source": 2, "full_rate": 1}
    assert events.messages[-1].endswith("delivers 30 frames per second, the model expects 10: one forecast step is 0.1 s again")


def test_stalls_one_after_another_do_not_make_a_slow_camera():
    before = steady(100, 10, 100.0)
    stalls = steady(3, 1 / 1.5, before[-1] + 1.5)
    steps, events = settled(read_all([*before, *stalls, *steady(100, 10, stalls[-1] + 0.1)]), 0.1)
    assert changes(steps) == [0.1]
    assert events.counts == {}


def test_pictures_that_arrive_unevenly_do_not_change_the_step_in_a_long_run():
    late_s = np.random.default_rng(0).normal(0, 0.06, 2000)
    times_s = np.maximum.accumulate(100 + np.arange(2000) / 5 + late_s)
    steps, events = settled(read_all(list(times_s)), 0.1)
    assert changes(steps) == [pytest.approx(0.2, rel=0.03)]
    assert events.counts == {"slow_source": 1}


def test_the_step_is_kept_over_a_reconnect_until_the_new_rate_is_known():
    steps, events = settled(read_all(steady(40, 3, 100.0), steady(60, 2, 115.0)), 0.1)
    assert steps[50] == pytest.approx(1 / 3)
    assert steps[-1] == pytest.approx(0.5)
    assert events.counts == {"slow_source": 2}


def test_a_rate_at_the_border_of_what_is_slow_does_not_come_and_go():
    border = np.repeat([0.1045, 0.1055, 0.1045, 0.1055], 100)
    steps, events = settled(read_all(list(100 + np.cumsum(border))), 0.1)
    assert len(set(steps) - {None}) <= 2
    assert sum(events.counts.values()) <= 1


def test_frames_of_a_slow_camera_say_how_long_its_step_is():
    frames, _ = watch(steady(60, 20), until=45, interval_s=0.02)
    assert frames[0].step_s is None
    assert frames[-1].step_s == pytest.approx(0.05, rel=0.05)


def test_a_camera_that_takes_a_picture_every_two_seconds_has_no_pauses():
    assert capture(steady(50, 0.5, 100.0))._clip == 0
    assert capture([*steady(50, 0.5, 100.0), 100 + 98 + 7.0])._clip == 1


def test_a_pause_is_told_before_the_rate_is():
    thread = capture(steady(12, 10, 100.0) + steady(20, 10, 105.1))
    assert thread._clip == 1
    assert thread._newest is not None
    assert thread._newest.pause_s == pytest.approx(4.0)
    assert capture(steady(12, 10, 100.0) + steady(20, 10, 102.0))._clip == 0


@pytest.mark.parametrize("fps", [0.9, 0.7, 0.2])
def test_a_camera_that_becomes_slow_has_no_pause_at_every_picture(fps):
    slow = steady(30, fps, 100 + 50 / 10)
    thread = capture(steady(50, 10, 100.0) + slow)
    assert thread._clip == 2  # until the third interval shows that these are none
    assert thread.rate() == pytest.approx(fps, rel=0.05)
    assert capture(steady(50, 10, 100.0) + slow[:4]).rate() == pytest.approx(fps, rel=0.05)
    fast_again = capture(steady(50, 10, 100.0) + slow + steady(110, 10, slow[-1] + 0.1))
    assert fast_again._clip == 2
    assert fast_again.rate() == pytest.approx(10, rel=0.05)


def test_pauses_among_pictures_that_come_as_before_make_no_camera_slow():
    times_s = steady(50, 10, 100.0)
    for pause_s in (1.5, 2.0, 3.0, 2.5):
        times_s += steady(3, 10, times_s[-1] + pause_s)
    thread = capture(times_s)
    assert thread._clip == 4
    assert thread.rate() == pytest.approx(10, rel=0.05)
    slower = capture([*steady(50, 10, 100.0), 106.2, 107.5, 130.0])  # a pause of it, too
    assert slower._clip == 3


def test_a_camera_that_comes_back_begins_a_clip_and_its_rate_is_told_anew():
    again = iter([Delivering(*steady(5, 5, 102.0))])

    def reopen() -> Delivering:
        device = next(again, None)
        if device is None:
            raise NoPictureError("gone")
        return device

    thread = CaptureThread("camera 0", Delivering(*steady(50, 30, 100.0)), reopen, EventLog(), retry_s=0.3)
    thread.run()
    assert thread._clip == 1
    assert thread._newest is not None
    assert thread._newest.pause_s == 0.0  # 0.37 s
    assert thread._newest.reconnected
    assert thread.rate() is None
    assert list(islice(thread._intervals_s, 9)) == pytest.approx([0.2] * 4)


def test_a_camera_that_is_lost_before_its_first_picture_begins_with_it():
    again = iter([Delivering(*steady(5, 5, 102.0))])

    def reopen() -> Delivering:
        device = next(again, None)
        if device is None:
            raise NoPictureError("gone")
        return device

    thread = CaptureThread("camera 0", Delivering(), reopen, EventLog(), retry_s=0.3)
    thread.run()
    assert (thread.captured, thread._clip) == (5, 0)


def test_a_frame_says_that_the_camera_was_away_however_short_that_was():
    """Also where the rate of the camera is not known yet, so that nobody can tell a pause."""
    stop = StopRequest()
    devices = iter([ScheduledCamera(steady(5, FPS)), ScheduledCamera(steady(5, FPS, 0.3))])

    def open_device() -> ScheduledCamera:
        device = next(devices, None)
        if device is None:
            raise NoPictureError("gone")
        return device

    camera = CameraSource("camera 0", open_device, Ticker(INTERVAL_S, stop), stop, EventLog(), retry_s=5)
    frames = list(islice(camera.frames(), 4))
    camera.close()
    begins = [frame.reconnected for frame in frames]
    assert begins.count(True) == 1
    assert [frame.clip for frame in frames] == [int(number >= begins.index(True)) for number in range(4)]
