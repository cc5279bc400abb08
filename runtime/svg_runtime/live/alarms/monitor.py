"""What the live loop calls for every observed frame: signals, and the alarms that follow from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svg_runtime.forecast.forecaster import Observation
from svg_runtime.live.alarms.archive import OWN_NAME, Archive
from svg_runtime.live.alarms.clip_buffer import MOST_BUFFERS, ClipBuffer, StoredPicture
from svg_runtime.live.alarms.comparison import compare_frames
from svg_runtime.live.alarms.numbers import AlarmNumbers
from svg_runtime.live.alarms.options import AlarmOptions
from svg_runtime.live.alarms.record import AlarmRecord, Files, Peak
from svg_runtime.live.alarms.settling import Settling
from svg_runtime.live.alarms.signal_names import SIGNALS
from svg_runtime.live.alarms.trigger import AlarmTrigger, Change
from svg_runtime.live.alarms.worker import Worker
from svg_runtime.live.empty_pictures import EmptyPicture
from svg_runtime.live.events import EventLog
from svg_runtime.live.outputs.bounded_folder import LimitedFiles
from svg_runtime.live.overlay.theme import Canvas
from svg_runtime.live.signals import Signals, SignalValues
from svg_runtime.live.sources.base import SourceFrame
from svg_runtime.live.step_clock import StepClock
from svg_runtime.live.timing import RecentValues, away_after_s, wall_clock

_QUEUE = 20  # clips and records to be written; beyond these, records alone, which are small
_DRAIN_S = 2.0  # for messages at the end of the run
_SAVE_S = 20.0  # for clips at the end of the run


@dataclass(frozen=True)
class _Moment:
    """One observed frame."""

    position_s: float  # from the first picture, in the time of the source
    time_s: float  # the same by the `StepClock`
    taken_s: float  # `time.monotonic()` when the picture was taken, or held; as far as the source says
    source_frame: SourceFrame
    frame: NDArray[np.float32]
    observation: Observation


@dataclass
class _Newest:
    """The newest picture of a camera."""

    time_s: float  # by the `StepClock`
    tick: int
    done_s: float | None = None  # of `time.monotonic()`, when its round was over, however long its forecast took


@dataclass
class _Alarm:
    """An alarm in progress, or a rise that may become one."""

    start: datetime
    start_s: float  # the same of `time.monotonic()`: a clock that is set meanwhile changes no duration
    position_s: float
    tick: int  # of the start, too
    high_taken_s: float  # as `start_s`, when the last frame was taken that was not below the level at which the alarm clears
    high_s: float  # position of this frame
    of_camera: bool  # its time is that of the clock; a file is not read at the rate at which it was recorded
    peak: Peak = field(default_factory=Peak)
    # The mean forecast of the frame with the largest value, and the frame.
    frames: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    sequence: int = 0
    threshold: float = 0.0  # at which it started: a client of the page may change it meanwhile
    end: datetime | None = None  # None: not ended yet
    # Used by the writer's thread alone:
    files: Files | None = None  # None: the clip is not saved yet; the picture follows at the end
    duration_s: float | None = None  # None: not ended yet

    @property
    def file_name(self) -> str:
        """Sorts by time; the number tells the order whatever the clock says."""
        utc = self.start.astimezone(timezone.utc)
        return f"alarm-{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}Z-{self.sequence:06d}"


class AlarmMonitor:
    """Measures signals, raises alarms, and passes them on.

    Use `add` per frame, or `skip` where it cannot be observed, `pass_time` as long as the run goes on, and `close` at its end.

    Args:
        options: see there.
        interval_s: seconds per observed frame, in the time of the source: longer than a tick where a video has fewer pictures.
            The pictures of a camera say it themselves, once its rate is known.
        source: description of what is watched, without secrets.
        model: its name.
        events: of the run.
        numbers: of its alarms; None: its own `AlarmNumbers`.
        tick_s: seconds per tick of the source; None: `interval_s`.

    Attributes:
        values: the latest signals; None: not known.
        active: whether there is an alarm.
    """

    def __init__(
        self, options: AlarmOptions, interval_s: float, source: str, model: str, events: EventLog,
        numbers: Iterator[int] | None = None, tick_s: float | None = None,
    ) -> None:  # fmt: skip
        self._options = options
        self._tick_s = tick_s or interval_s
        self._source = source
        self._model = model
        self._events = events
        self._signals = Signals(interval_s)
        self._trigger = AlarmTrigger(options.trigger, interval_s)
        self._seen = {name: RecentValues() for name in SIGNALS}
        self._alarm: _Alarm | None = None
        self._first_s: float | None = None  # of the first picture
        self._clock = StepClock(interval_s)
        self._newest: _Newest | None = None  # None: none yet, or of a source whose time is not that of the clock
        self._settling = Settling()
        self._count = 0
        self._numbers = numbers or AlarmNumbers(options.events_file, [options.folder], events)
        self.values: SignalValues | None = None
        self.listeners: list[Callable[[AlarmRecord], None]] = []  # as outlets, but called at once, by any thread
        self._outlets = options.open_outlets(source, events) if options.enabled else []
        self._archive = Archive(
            files=None if options.folder is None else LimitedFiles(options.folder, OWN_NAME, options.limit_bytes),
            events_file=options.events_file, tick_s=self._tick_s, events=events,
        )  # fmt: skip
        self._ended = False
        self._closed = False
        self._clips: ClipBuffer | None = None
        self._writer: Worker[Callable[[], None]] | None = None
        if options.enabled:
            self._writer = Worker("alarm-writer", lambda task: task(), _QUEUE, at_end=self._end_outlets)
            if options.folder is not None:
                self._clips = ClipBuffer(
                    self._ticks(options.before_s + options.trigger.min_duration_s),
                    options.buffer_bytes,
                    at_end=self._writer.end,
                    on_cut=self._note_cut,
                )

    @property
    def active(self) -> bool:
        """See the class."""
        return self._trigger.active

    @property
    def threshold(self) -> float | None:
        """From which value of its signal on an alarm is raised; None if there are no alarms."""
        return self._options.trigger.threshold if self._options.enabled else None

    @property
    def value(self) -> float | None:
        """Of the signal that is compared with the threshold, at the latest frame."""
        return None if self.values is None else getattr(self.values, self._options.signal)

    def add(
        self, source_frame: SourceFrame, frame: NDArray[np.float32], observation: Observation,
        empty: EmptyPicture | None = None, steps: int = 1,
    ) -> SignalValues | None:  # fmt: skip
        """Ingest one observed frame.

        Args:
            source_frame: as the source gave it.
            frame: as the model saw it, (H, W, C) in [0, 1].
            observation: of this frame.
            empty: what is wrong with a picture that carries nothing: it raises no alarm, and is not learned as usual.
            steps: model steps since the picture before it; 1 after a cut.

        Returns:
            The signals; None while nothing is known.
        """
        position_s = self._position_of(source_frame)
        time_s = self._note_picture(source_frame, position_s)
        settled = self._settling.add(time_s, empty is not None)
        self.values = self._signals.add(frame, observation, empty, steps)
        self._count_values()
        if self._options.enabled:
            taken_s = None if source_frame.held else source_frame.captured_s  # a picture is held now, and was captured before
            moment = _Moment(
                position_s=position_s, time_s=time_s, taken_s=time.monotonic() if taken_s is None else taken_s,
                source_frame=source_frame, frame=frame, observation=observation,
            )  # fmt: skip
            self._follow(moment, self.value if settled else None)
        return self.values

    def skip(self, source_frame: SourceFrame) -> None:
        """Ingest a picture that cannot be observed: nothing is known, which starts no alarm and keeps none up."""
        self.values = None
        time_s = self._note_picture(source_frame, self._position_of(source_frame))
        if self._options.enabled:
            self._change(time_s, None)

    def pass_time(self) -> None:
        """End the alarm and the clip of a camera that gives no pictures, when their time has come; other sources have none.

        Call this after every round, unless a picture waits to be taken. One that is late, or a forecast that takes long, ends
        nothing.
        """
        newest = self._newest
        if newest is None or not self._options.enabled:
            return
        now = time.monotonic()
        newest.done_s = now if newest.done_s is None else newest.done_s
        away_s = now - newest.done_s
        if away_s < away_after_s(self._trigger.value_s):
            return
        self._change(newest.time_s + away_s, None)
        if self._clips is not None:
            self._clips.pass_time(newest.tick + int(away_s / self._tick_s))

    def reset(self, new_scene: bool) -> None:
        """The context starts anew, after a pause of the same camera or with another scene."""
        self._signals.reset(new_scene)
        self.values = None
        self._settling.reset()

    def set_threshold(self, threshold: float) -> None:
        """Raise alarms from this value on; the value below which they end keeps its ratio to it."""
        before = self._options.trigger
        trigger = replace(before, threshold=threshold, clear=threshold * (before.clear / before.threshold))
        self._options = replace(self._options, trigger=trigger)
        self._trigger.change(trigger)

    def end(self) -> None:
        """End an alarm that is still there, then write and send what waits, however long that takes: others may run for days.

        Returns at once. No pictures may follow. May be called twice.
        """
        if self._writer is None or self._ended:
            return
        self._ended = True
        if self._trigger.active:
            self._trigger.end()
            self._end_alarm()
        if self._clips is not None:
            self._clips.end()  # and then the writer, and then the outlets: each may get something from the one before
        else:
            self._writer.end()

    def close(self) -> None:
        """As `end`, and wait for it, for a limited time. May be called twice."""
        if self._writer is None or self._closed:
            return
        self._closed = True
        self.end()
        if self._clips is not None:
            self._clips.close(_SAVE_S)
        self._writer.close(_SAVE_S)
        for outlet in self._outlets:
            outlet.close(_DRAIN_S)
        lost = self._writer.dropped
        if lost:
            self._events.add("alarm_not_saved", f"{lost} clips or records of alarms were not written in time")

    def summary(self) -> dict[str, Any]:
        """Return counts and the percentiles of the signals as plain JSON values."""
        return {
            "enabled": self._options.enabled,
            "count": self._count,
            "signal": self._options.signal,
            "threshold": self._options.trigger.threshold,
            "signals": {name: seen.summary() for name, seen in self._seen.items() if seen.count},
            "pictures_missing": 0 if self._clips is None else self._clips.dropped,
            "sent": {outlet.name: outlet.summary() for outlet in self._outlets},
        }

    def _note_picture(self, source_frame: SourceFrame, position_s: float) -> float:
        """Note that a picture has come, and return its time by the `StepClock`."""
        time_s = self._clock.add(position_s)
        self._trigger.value_s = source_frame.step_s or self._trigger.value_s
        if source_frame.captured_s is not None:
            self._newest = _Newest(time_s=time_s, tick=source_frame.tick)
        if self._clips is not None:
            self._clips.add(source_frame.image, source_frame.tick)
        return time_s

    def _follow(self, moment: _Moment, value: float | None) -> None:
        change = self._change(moment.time_s, value)
        if value is not None and self._trigger.rose_s is not None:
            self._note_peak(moment, value)
        if change == "started":
            self._start_alarm(moment)

    def _change(self, time_s: float, value: float | None) -> Change | None:
        """What the signal changes; an alarm that ends is passed on."""
        change = self._trigger.add(time_s, value)
        if change == "ended":
            self._end_alarm()
        if self._trigger.rose_s is None:
            self._alarm = None
        return change

    def _note_peak(self, moment: _Moment, value: float) -> None:
        if self._alarm is None:
            self._alarm = _Alarm(
                start=wall_clock(moment.taken_s).astimezone(), start_s=moment.taken_s, position_s=moment.position_s,
                tick=moment.source_frame.tick, high_taken_s=moment.taken_s, high_s=moment.position_s,
                of_camera=moment.source_frame.captured_s is not None,
            )  # fmt: skip
        alarm = self._alarm
        if self._trigger.high_s == moment.time_s:
            alarm.high_taken_s = moment.taken_s
            alarm.high_s = moment.position_s
        before = getattr(alarm.peak, self._options.signal)
        if self._clips is not None and (before is None or value > before):
            expected = moment.observation.expected
            alarm.frames = None if expected is None else (expected.mean(), moment.frame)
        alarm.peak = Peak(**{name: _larger(getattr(alarm.peak, name), getattr(self.values, name)) for name in SIGNALS})

    def _start_alarm(self, moment: _Moment) -> None:
        alarm = self._alarm
        assert alarm is not None
        alarm.sequence = next(self._numbers)
        alarm.threshold = self._options.trigger.threshold
        self._count += 1
        reached = getattr(alarm.peak, self._options.signal)
        self._events.add("alarm", f"alarm {alarm.sequence} at {alarm.position_s:.1f} s: {self._options.signal} {reached:.1f}")
        self._send(self._record(alarm, phase="started"))
        if self._clips is None:
            alarm.files = Files()
            return
        self._clips.request(
            alarm.tick - self._ticks(self._options.before_s),
            max(alarm.tick + self._ticks(self._options.after_s), moment.source_frame.tick),
            lambda pictures: self._write_clip(alarm, pictures),
        )

    def _end_alarm(self) -> None:
        alarm = self._alarm
        assert alarm is not None
        self._alarm = None
        elapsed_s = min(alarm.high_taken_s + self._trigger.value_s, time.monotonic()) - alarm.start_s
        alarm.end = alarm.start + timedelta(seconds=elapsed_s)
        duration_s = elapsed_s if alarm.of_camera else alarm.high_s - alarm.position_s + self._trigger.value_s
        assert self._writer is not None
        if alarm.frames is not None and not self._has_room("picture", alarm):
            alarm.frames = None
        self._writer.append(lambda: self._finish(alarm, duration_s))

    def _write_clip(self, alarm: _Alarm, pictures: list[StoredPicture]) -> None:
        """In the thread of the clips. Without room the record of the end follows all the same: it must not be lost."""
        assert self._writer is not None
        kept = pictures if self._has_room("clip", alarm) else []
        self._writer.append(lambda: self._save(alarm, kept))

    def _has_room(self, what: str, alarm: _Alarm) -> bool:
        """Whether pictures may wait to be written; an event says that they are not, as behind a disk that hangs."""
        assert self._writer is not None
        if not self._writer.is_full:
            return True
        waiting = f"{_QUEUE} clips and records wait to be written; check the disk of --alarm-dir and --events"
        self._events.add("alarm_not_saved", f"the {what} of alarm {alarm.sequence} was not saved: {waiting}")
        return False

    def _note_cut(self) -> None:
        self._events.add(
            "alarm_clip_cut",
            f"the clip of an alarm ends early or is left out: its pictures take {MOST_BUFFERS} times --alarm-buffer of memory; "
            "raise it, or lower --alarm-after",
        )

    def _save(self, alarm: _Alarm, pictures: list[StoredPicture]) -> None:
        """In the writer's thread, when the clip is complete."""
        alarm.files = self._archive.save(alarm.file_name, pictures, None)
        self._finish(alarm, alarm.duration_s)

    def _finish(self, alarm: _Alarm, duration_s: float | None) -> None:
        """In the writer's thread: the record is complete when the alarm has ended and its files are saved.

        Only now it is known at which frame the signal was largest.
        """
        alarm.duration_s = duration_s
        if duration_s is None or alarm.files is None:
            return
        if alarm.frames is not None:
            saved = self._archive.save(alarm.file_name, [], self._compare(*alarm.frames, alarm))
            alarm.files = Files(clip=alarm.files.clip, picture=saved.picture)
        record = self._record(alarm, phase="ended")
        self._archive.append(record)
        self._send(record)

    def _compare(self, expected: NDArray[np.float32], real: NDArray[np.float32], alarm: _Alarm) -> Canvas:
        peak = getattr(alarm.peak, self._options.signal)
        start = f"{alarm.start:%Y-%m-%d %H:%M:%S %z}"
        caption = f"alarm {alarm.sequence}, {start}: {self._options.signal} {peak:.1f}, {self._source}"
        return compare_frames(expected, real, caption=caption)

    def _record(self, alarm: _Alarm, phase: Literal["started", "ended"]) -> AlarmRecord:
        duration_s = alarm.duration_s
        return AlarmRecord(
            sequence=alarm.sequence, phase=phase, camera=self._options.camera, source=self._source, model=self._model,
            signal=self._options.signal, threshold=alarm.threshold, start=alarm.start,
            end=alarm.end,
            duration_s=None if duration_s is None else round(duration_s, 3),
            position_s=round(alarm.position_s, 3), peak=alarm.peak, files=alarm.files or Files(),
        )  # fmt: skip

    def _send(self, record: AlarmRecord) -> None:
        for listener in self.listeners:
            listener(record)
        for outlet in self._outlets:
            outlet.put(record)

    def _end_outlets(self) -> None:
        """In the writer's thread, when nothing more is to be sent."""
        for outlet in self._outlets:
            outlet.end()

    def _count_values(self) -> None:
        for name, seen in self._seen.items():
            value = None if self.values is None else getattr(self.values, name)
            if value is not None:
                seen.add(max(0.0, value))

    def _position_of(self, source_frame: SourceFrame) -> float:
        now_s = source_frame.position_s(self._tick_s)
        if self._first_s is None:
            self._first_s = now_s
        return now_s - self._first_s

    def _ticks(self, seconds: float) -> int:
        return max(1, round(seconds / self._tick_s))


def close_side_by_side(monitors: Sequence[AlarmMonitor]) -> None:
    """Close monitors at the same time: one may wait for seconds, for its clip or for a server that is away."""
    threads = [threading.Thread(target=monitor.close, name="alarm-close", daemon=True) for monitor in monitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _larger(before: float | None, now: float | None) -> float | None:
    return max((round(value, 3) for value in (before, now) if value is not None), default=None)
