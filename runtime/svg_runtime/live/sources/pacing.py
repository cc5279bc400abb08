"""Maps the times of pictures to the times at which the model observes one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from svg_runtime.live.stop import StopRequest

Item = TypeVar("Item")
# A source counts as slower than the model only beyond this factor: 29.97 fps are good enough for 30.
SLOWER_THAN_MODEL = 1.05


class Ticker:
    """A fixed schedule in real time: tick k is due at start + k * interval, so that delays never add up.

    Args:
        interval_s: seconds between ticks.
        stop: ends a wait early.
        now: the clock, in seconds.
    """

    def __init__(self, interval_s: float, stop: StopRequest, now: Callable[[], float] = time.monotonic) -> None:
        self.interval_s = interval_s
        self._stop = stop
        self._now = now
        self._start: float | None = None

    def wait_for(self, tick: int) -> None:
        """Wait until `tick` is due; return at once when it is overdue. The first call starts the schedule."""
        if self._start is None:
            self._start = self._now() - tick * self.interval_s
        self._stop.sleep(self._start + tick * self.interval_s - self._now())

    def current(self) -> int:
        """Number of the newest tick that is due."""
        return 0 if self._start is None else math.floor((self._now() - self._start) / self.interval_s + 1e-6)


def pick_at_interval(timed: Iterable[tuple[float, Item]], interval_s: float) -> Iterator[tuple[int, Item]]:
    """Select the picture of a video that is nearest to each multiple of `interval_s` after the first picture.

    Multiples are counted from the first picture, so that rounding never adds up to a drift. A picture is selected at most once:
    if the video is slower than the interval, every picture is yielded, and intervals without one are skipped.

    Args:
        timed: pairs of time in seconds, increasing, and picture.
        interval_s: seconds between selected pictures.

    Yields:
        (tick, picture): the multiple that the picture stands for.
    """
    start: float | None = None
    held: tuple[int, float, Item] | None = None  # best picture so far for its tick: tick, position - tick, picture
    before, position = 0.0, 0.0  # of the last two pictures, in intervals
    for time_s, item in timed:
        start = time_s if start is None else start
        before, position = position, (time_s - start) / interval_s
        # Halfway belongs to the later tick, with a tolerance: rounded timestamps must not flip between two ticks.
        tick = math.floor(position + 0.5 + 1e-6)
        if held is None or tick > held[0]:
            if held is not None:
                yield held[0], held[2]
            held = (tick, position - tick, item)
        elif abs(position - tick) < abs(held[1]):
            held = (tick, position - tick, item)
    # The video may end well before its last tick: then the best picture for that tick is missing.
    if held is not None and -held[1] <= (position - before) / 2 + 1e-6:
        yield held[0], held[2]
