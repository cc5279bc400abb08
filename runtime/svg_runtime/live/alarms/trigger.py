"""When a signal is an alarm: threshold, hysteresis, minimum duration and cool-down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Change = Literal["started", "ended"]
_ROUNDING_S = 1e-6  # of times that are multiples of an interval


@dataclass(frozen=True)
class TriggerOptions:
    """When an alarm starts and ends.

    Attributes:
        threshold: a signal from this on starts an alarm; above 0.
        clear: a signal below this lets it end; above 0, and at most `threshold`.
        min_duration_s: how long the signal must be at the threshold before the alarm starts.
        hold_s: how long it must be below `clear` before the alarm ends.
        cooldown_s: from the end of an alarm to the start of the next one at least.
    """

    threshold: float = 4.5
    clear: float = 2.25
    min_duration_s: float = 0.2
    hold_s: float = 1.0
    cooldown_s: float = 10.0


class AlarmTrigger:
    """State machine: idle -> rising (at the threshold, not yet long enough) -> active -> idle.

    Args:
        options: see there.
        value_s: how long one value holds.

    Attributes:
        value_s: as given; it may change with the rate of a camera.
        active: whether there is an alarm.
        rose_s: time of the first value of this rise, or of the alarm.
        high_s: time of the alarm's last value that was not below `clear`.
    """

    def __init__(self, options: TriggerOptions, value_s: float) -> None:
        self._options = options
        self.value_s = value_s
        self.active = False
        self.rose_s: float | None = None
        self.high_s = 0.0
        self._quiet_until = float("-inf")

    def add(self, time_s: float, value: float | None) -> Change | None:
        """Take the signal at `time_s`, which increases; None: nothing is known, which starts no alarm and keeps none up."""
        return self._while_active(time_s, value) if self.active else self._while_idle(time_s, value)

    def change(self, options: TriggerOptions) -> None:
        """Go on with other options."""
        self._options = options

    def end(self) -> None:
        """End an alarm, or a rise, now; the cool-down begins at its last high value."""
        if self.active:
            self._quiet_until = self.high_s + self._options.cooldown_s
        self.active = False
        self.rose_s = None

    def _while_idle(self, time_s: float, value: float | None) -> Change | None:
        if value is None or value < self._options.threshold or time_s < self._quiet_until - _ROUNDING_S:
            self.rose_s = None
            return None
        self.rose_s = time_s if self.rose_s is None else self.rose_s
        if time_s - self.rose_s + self.value_s < self._options.min_duration_s - _ROUNDING_S:
            return None
        self.active = True
        self.high_s = time_s
        return "started"

    def _while_active(self, time_s: float, value: float | None) -> Change | None:
        if value is not None and value >= self._options.clear:
            self.high_s = time_s
            return None
        if time_s - self.high_s < self._options.hold_s - _ROUNDING_S:
            return None
        self.end()
        return "ended"
