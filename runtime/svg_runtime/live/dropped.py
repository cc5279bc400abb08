"""Whether pictures of a camera are dropped all the time, because this machine is slower than the camera."""

from __future__ import annotations

from svg_runtime.live.events import EventLog

_WINDOW_S = 10.0
_WINDOWS = 3  # in a row: a single stall is nothing to act on
_MANY = 0.1  # of the pictures that were due; a few cost neither the context nor the motion that the model sees


class DroppedPictures:
    """Reports once that a lasting share of a camera's pictures is dropped.

    Args:
        events: receives the event `too_slow`, of which `AdaptiveCounts` has its own.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._began = (0.0, 0, 0)  # the arguments of `add` when the window began
        self._windows = 0  # in a row in which many were dropped

    def add(self, position_s: float, taken: int, dropped: int) -> None:
        """Note the counts so far.

        Args:
            position_s: seconds since the start of the source.
            taken: pictures that came to the loop.
            dropped: pictures that were missed because the loop was busy.
        """
        began_s, taken_before, dropped_before = self._began
        if position_s - began_s < _WINDOW_S:
            return
        missed = dropped - dropped_before
        share = missed / max(1, missed + taken - taken_before)
        self._began = (position_s, taken, dropped)
        self._windows = self._windows + 1 if share > _MANY else 0
        if self._windows >= _WINDOWS:
            self._events.once(
                "too_slow",
                f"this machine cannot hold the rate of the camera: {100 * share:.0f} % of its pictures are dropped, "
                "and the model sees faster motion than there is\n"
                "  try --adaptive, another --backend, a smaller model, or leave more of the processor to svg-live",
            )
