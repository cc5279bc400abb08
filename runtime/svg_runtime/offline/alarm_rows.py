"""Alarms of a stored video: the signals and the trigger of `svg-live --alarm`, in the time of the video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from svg_runtime.live.alarms.settling import Settling
from svg_runtime.live.alarms.signal_names import SIGNALS, SignalName
from svg_runtime.live.alarms.trigger import AlarmTrigger, TriggerOptions
from svg_runtime.live.signals import SignalValues
from svg_runtime.live.step_clock import StepClock


@dataclass
class _Alarm:
    """An alarm, or a rise that may become one.

    Attributes:
        frame: at which it begins.
        time_s: of this frame.
        high_s: time of its last frame that was not below the level at which it clears.
        peak: largest values of the signals.
    """

    frame: int
    time_s: float
    high_s: float
    peak: dict[str, float] = field(default_factory=dict)


class AlarmRows:
    """Finds the alarms of one video. Use `add` per observed frame and `finish` at the end.

    Args:
        signal: that is compared with the threshold.
        trigger: when an alarm starts and ends.
        interval_s: seconds per model step, as in svg-live.

    Attributes:
        rows: of the table of events, one per alarm, in order.
    """

    def __init__(self, signal: SignalName, trigger: TriggerOptions, interval_s: float) -> None:
        self._signal = signal
        self._interval_s = interval_s
        self._trigger = AlarmTrigger(trigger, interval_s)
        self._alarm: _Alarm | None = None
        self._clock = StepClock(interval_s)
        self._settling = Settling()
        self.rows: list[dict[str, Any]] = []

    def add(self, frame: int, time_s: float, values: SignalValues | None, empty: bool) -> None:
        """Ingest the signals of one frame; `empty`: its picture carried nothing, which raises no alarm."""
        now_s = self._clock.add(time_s)
        known = values if self._settling.add(now_s, empty) else None
        value: float | None = None if known is None else getattr(known, self._signal)
        change = self._trigger.add(now_s, value)
        if change == "ended":
            self._end()
        if self._trigger.rose_s is None:
            self._alarm = None
        elif known is not None and value is not None:
            self._note_peak(frame, time_s, known, high=self._trigger.high_s == now_s)

    def reset(self) -> None:
        """The context starts anew."""
        self._settling.reset()

    def finish(self) -> None:
        """The video has ended, and with it an alarm that is still there."""
        if self._trigger.active:
            self._trigger.end()
            self._end()

    def _note_peak(self, frame: int, time_s: float, values: SignalValues, high: bool) -> None:
        if self._alarm is None:
            self._alarm = _Alarm(frame, time_s, high_s=time_s)
        if high:
            self._alarm.high_s = time_s
        peak = self._alarm.peak
        for name in SIGNALS:
            value = getattr(values, name)
            if value is not None:
                peak[name] = max(value, peak.get(name, value))

    def _end(self) -> None:
        alarm = self._alarm
        assert alarm is not None
        self._alarm = None
        reached = alarm.peak[self._signal]
        self.rows.append(
            {
                "kind": "alarm",
                "frame": alarm.frame,
                "time_s": alarm.time_s,
                "duration_s": alarm.high_s - alarm.time_s + self._interval_s,
                "signal": self._signal,
                **{f"peak_{name}": alarm.peak.get(name) for name in SIGNALS},
                "message": f"alarm at {alarm.time_s:.1f} s: {self._signal} {reached:.1f}",
            }
        )
