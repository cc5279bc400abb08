"""The signals of the last minutes for the chart, as a client that joins late gets them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from typing import Any

from svg_runtime.live.signals import SignalValues

_KEPT = 1200  # points, the last minute of the densest; two at the usual ten a second
_APART_S = 0.05  # a file may be read at hundreds of frames a second: a chart shows no more points than this
_SPAN_S = 60.0  # of the chart
_EARLIER = 4  # points before it: the first line begins there, and they tell how far apart those of a slow camera usually are
COLUMNS = ("number", "seconds", "alarm", "raw", "combined", "surprise", "error", "motion", "scene", "camera_motion")


class History:
    """Points of the chart, of one camera. The live loop adds, the web server reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points: deque[list[Any]] = deque(maxlen=_KEPT)
        self._count = 0
        self._last_s = 0.0

    def add(self, values: SignalValues | None, raw: float | None, alarm: bool) -> None:
        """Add one frame: its signals, the model's own surprise, and whether there is an alarm.

        Of frames that are too close to be shown apart, the largest values stay.
        """
        signals = [None if values is None else getattr(values, name) for name in COLUMNS[4:]]
        numbers = [None if value is None else round(value, 3) for value in (raw, *signals)]
        now_s = time.monotonic()
        with self._lock:
            if self._points and now_s - self._last_s < _APART_S:
                last = self._points[-1]
                last[2] = last[2] or int(alarm)
                last[3:] = [_larger(*pair) for pair in zip(last[3:], numbers, strict=True)]
                return
            self._last_s = now_s
            self._count += 1
            self._points.append([self._count, round(now_s, 3), int(alarm), *numbers])

    def after(self, seconds: float) -> list[list[Any]]:
        """Later points, as `COLUMNS` says, as far as the chart shows them; the newest is left out as long as it may still grow.

        Seconds are those of a clock that nobody sets, from any start.
        """
        now_s = time.monotonic()
        with self._lock:
            may_grow = now_s - self._last_s < _APART_S
            points = list(self._points)[: -1 if may_grow else None]
            begin = bisect_left(points, now_s - _SPAN_S, key=_seconds)
            begin = max(begin - _EARLIER, bisect_right(points, seconds, key=_seconds))
            return [list(point) for point in points[begin:]]


def _seconds(point: list[Any]) -> float:
    return float(point[1])


def _larger(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)
