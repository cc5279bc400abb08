"""The time of the source, in which a step of a video is as long as the model's: alarms and forecasts are counted by it."""

from __future__ import annotations

from svg_common.video.sampling import SAME_RATE

_ROUNDING_S = 1e-6  # of time stamps


class StepClock:
    """Counts whole steps where pictures are nearly so far apart, and seconds otherwise.

    A step of a video may be 5 % shorter than the model's: so many of them must last as long as in any other video, or an alarm
    would start a frame later in a video of 30.1 pictures per second than in one of 30. Pauses count in full.

    Args:
        interval_s: seconds per step.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_s: float | None = None
        self._time_s = 0.0

    def add(self, source_s: float) -> float:
        """Return the seconds from the first frame to the one at `source_s`, in the time of the source, which increases."""
        if self._last_s is not None:
            gap_s = source_s - self._last_s
            whole_s = max(1, round(gap_s / self._interval_s)) * self._interval_s
            same = abs(gap_s - whole_s) <= SAME_RATE * whole_s + _ROUNDING_S  # as the step of a video is chosen
            self._time_s += whole_s if same else gap_s
        self._last_s = source_s
        return self._time_s
