"""The schedule in real time at which the model observes a picture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from svg_runtime.live.stop import StopRequest

# A source counts as slower than the model only beyond this factor: 29.97 fps are good enough for 30.
SLOWER_THAN_MODEL = 1.05


def is_same_step(one_s: float, other_s: float) -> bool:
    """Whether two intervals differ by no more than what makes a source slower than the model."""
    return max(one_s, other_s) <= SLOWER_THAN_MODEL * min(one_s, other_s)


class Ticker:
    """A fixed schedule in real time: tick k is due at start + k * interval, so that delays never add up.

    Args:
        interval_s: seconds between ticks.
        stop: ends a wait early.
        now: the clock, in seconds.
        origin_s: start at a whole number of intervals from this time, so that several sources are due together; None: at once.
    """

    def __init__(
        self, interval_s: float, stop: StopRequest, now: Callable[[], float] = time.monotonic, origin_s: float | None = None
    ) -> None:
        self.interval_s = interval_s
        self._origin_s = origin_s
        self._stop = stop
        self._now = now
        self._start: float | None = None

    def wait_for(self, tick: int) -> None:
        """Wait until `tick` is due; return at once when it is overdue. The first call starts the schedule."""
        if self._start is None:
            now = self._now()
            ahead_s = 0.0 if self._origin_s is None else (self._origin_s - now) % self.interval_s
            self._start = now + ahead_s - tick * self.interval_s
        self._stop.sleep(self._start + tick * self.interval_s - self._now())

    def current(self) -> int:
        """Number of the newest tick that is due."""
        return 0 if self._start is None else math.floor((self._now() - self._start) / self.interval_s + 1e-6)
