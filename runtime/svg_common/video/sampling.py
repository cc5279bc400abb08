"""One rule for training and live: a model step shows the picture that is nearest in time.

A step lasts the model's interval, whatever the rate of the video. Where no picture is near, as in a short pause or where
pictures are lost, the nearest one is held. Over a pause of more than a second nothing is held: what was seen before it is not
context for what comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

# What a model step may last. No camera delivers 10,000 pictures a second, and an MP4 file holds two pictures that are at most
# 36 hours apart.
MIN_STEP_S = 1e-4
MAX_STEP_S = 129_600.0

MAX_HOLD_S = 1.0
SAME_RATE = 0.05  # share by which a whole number of pictures may differ from a step: 29.97 fps are good enough for 30

Item = TypeVar("Item")


@dataclass(frozen=True)
class StepOfVideo:
    """A model step in one video: `step_s` seconds, in which about `pictures` (a whole number) are shown."""

    pictures: int
    step_s: float

    @property
    def tick_s(self) -> float:
        """Seconds between two pictures that are used, if sequences may start at every one of them."""
        return self.step_s / self.pictures


@dataclass(frozen=True)
class Picked(Generic[Item]):
    """The picture of one tick.

    Attributes:
        tick: counts from 0 without a gap; over a pause, too.
        item: the picture, or what stands for it.
        pause_s: seconds between this picture and the one before it if it begins anew after a pause, else 0.
        time_s: of the tick, as the pictures count it; a pause takes its time here.
    """

    tick: int
    item: Item
    pause_s: float = 0.0
    time_s: float = 0.0


def step_of_video(interval_s: float, fps: float) -> StepOfVideo | None:
    """Return the step of a model in a video of `fps`, or None if its pictures are too far apart for the model's `interval_s`.

    If a whole number of pictures makes a step within 5%, it is the step: else one picture in twenty would be held or left out.
    """
    ratio = interval_s * fps
    nearest = max(1, math.floor(ratio + 0.5))
    if abs(nearest - ratio) <= SAME_RATE * ratio:
        return StepOfVideo(nearest, nearest / fps)
    return None if ratio < 1 else StepOfVideo(math.floor(ratio), interval_s)


def longest_hold_s(fps: float) -> float:
    """Longest distance in seconds of two pictures that is not a pause: a second, or three pictures of a slower video."""
    return max(MAX_HOLD_S, 3 / fps) + 1e-6


def pick_at_interval(timed: Iterable[tuple[float, Item]], interval_s: float, fps: float) -> Iterator[Picked[Item]]:
    """Select the picture that is nearest to each multiple of `interval_s` after the first picture.

    Multiples are counted from the first picture, so that rounding never adds up to a drift. After a pause they are counted from
    its end.

    Args:
        timed: pairs of time in seconds, increasing, and picture.
        interval_s: seconds between selected pictures.
        fps: usual pictures per second of the video.
    """
    hold_s, schedule = longest_hold_s(fps), _Schedule(interval_s)
    last: tuple[float, Item] | None = None
    for time_s, item in timed:
        if last is None:
            schedule.begin(time_s)
        elif time_s - last[0] <= hold_s:
            yield from schedule.until((last[0] + time_s) / 2, last[1])
        else:
            yield from schedule.until(last[0] + 0.5 / fps, last[1])
            schedule.begin(time_s, pause_s=time_s - last[0])
        last = time_s, item
    if last is not None:
        yield from schedule.until(last[0] + 0.5 / fps, last[1])


class _Schedule:
    """The ticks of `pick_at_interval`, and the time of the next one."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._start_s = 0.0
        self._ticks_before_start = 0
        self._tick = 0
        self._pause_s = 0.0

    def begin(self, start_s: float, pause_s: float = 0.0) -> None:
        """Let the next tick be at `start_s`, after a pause of `pause_s`."""
        self._start_s = start_s
        self._ticks_before_start = self._tick
        self._pause_s = pause_s

    def until(self, end_s: float, item: Item) -> Iterator[Picked[Item]]:
        """Yield `item` for each tick before `end_s`, which itself belongs to the next item."""
        end_s -= 1e-6 * self._interval_s
        while (time_s := self._start_s + (self._tick - self._ticks_before_start) * self._interval_s) < end_s:
            yield Picked(self._tick, item, self._pause_s, time_s)
            self._tick += 1
            self._pause_s = 0.0
