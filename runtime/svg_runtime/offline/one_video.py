"""Forecasts of one video from its first picture to its last, as rows of tables; the parts are those of `svg-live`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from svg_common.errors import first_line
from svg_common.printable import one_line
from svg_common.quantities import duration_text
from svg_common.video.reader import UnreadableError, VideoError
from svg_runtime.errors import ForecastError
from svg_runtime.forecast.forecaster import Forecaster, Observation
from svg_runtime.forecast.scores import ForecastScore
from svg_runtime.live.alarms.signal_names import SIGNALS, SignalName
from svg_runtime.live.alarms.trigger import TriggerOptions
from svg_runtime.live.empty_pictures import EmptyPicture, PictureCheck
from svg_runtime.live.events import EventLog
from svg_runtime.live.fit import FitMonitor
from svg_runtime.live.preprocess import Preprocessor, crop
from svg_runtime.live.roi import RegionOutsideError, Roi
from svg_runtime.live.signals import Signals, SignalValues
from svg_runtime.live.sources import Picture, SourceFrame, SourceOptions, Turn, model_interval_s, open_source, step_interval_s
from svg_runtime.live.stop import StopRequest
from svg_runtime.offline.alarm_rows import AlarmRows
from svg_runtime.offline.listing import Video
from svg_runtime.offline.schema import EVENTS, FRAMES
from svg_runtime.offline.stores import UnreachableError

_Frame = NDArray[np.float32]
_SCORES = ("mse_best", "mse_mean", "mse_repeat")
_BATCH = 4096  # rows that wait as Python objects, which take 20 times as much memory as their columns

EachForecast = Callable[[int, float, _Frame], None]  # number and time of the frame, futures (S, T, H, W, C)


@dataclass(frozen=True)
class SeenAs:
    """How videos are seen, and what in them is an alarm."""

    turn: Turn = field(default_factory=Turn)
    roi: Roi | None = None
    source_fps: float | None = None  # of files without time stamps
    signal: SignalName = "combined"
    trigger: TriggerOptions = field(default_factory=TriggerOptions)


@dataclass(frozen=True)
class VideoRows:
    """What is known of one video: its rows in the three tables of `schema`."""

    frames: pa.Table
    events: pa.Table
    video: dict[str, Any]


class _Events(EventLog):
    """Collects events as rows, with the frame at which they were added."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self.place: dict[str, Any] = {}  # frame and time_s of the present frame

    def add(self, kind: str, message: str, **values: Any) -> None:
        """See `EventLog`; `values`: further columns."""
        super().add(kind, message)
        self.rows.append({"kind": kind, **self.place, **values, "message": message})


def forecast_video(
    forecaster: Forecaster, video: Video, path: Path, seen_as: SeenAs, stop: StopRequest, each: EachForecast | None = None
) -> VideoRows | None:
    """Observe and forecast a video. The same video gives the same rows, whatever was forecast before it.

    Args:
        forecaster: is reset first.
        video: names the rows.
        path: of its content.
        seen_as: see there.
        stop: ends it early.
        each: is called after every forecast.

    Returns:
        Its rows, also of a video that cannot be read; None if a stop was requested before its end.

    Raises:
        UnreachableError: it cannot be read now, which says nothing about what is in it.
        BackendError: the engine failed.
        OSError: raised by `each`.
    """
    watch: _Watch | None = None
    reason: str | None = None
    source_events = _Events()
    try:
        options = SourceOptions(source=str(path.absolute()), source_fps=seen_as.source_fps, turn=seen_as.turn)
        interval_s = model_interval_s(options, forecaster.manifest.generation.frame_interval_s)
        watch = _Watch(forecaster, step_interval_s(options, interval_s), seen_as, each)
        local = f"{one_line(path.absolute())}: "  # the row of the video has its name already
        source = open_source(options=options, interval_s=interval_s, image_size=0, stop=stop, events=source_events)
        try:
            for source_frame in source.frames():
                watch.add(source_frame)
        finally:
            source.close()
        damage = [row["message"].removeprefix(local) for row in source_events.rows if row["kind"] == "damaged_file"]
        reason = "; ".join([*damage, *watch.problems]) or None
    except UnreadableError as error:
        raise UnreachableError(f"cannot read '{video.name}': {error.reason}") from error
    except VideoError as error:
        reason = error.reason
    except (ForecastError, RegionOutsideError) as error:
        reason = first_line(error)
    if stop:
        return None
    rows = watch if watch is not None and watch.frames else None
    status = "ok" if reason is None else "failed" if rows is None else "damaged"
    return _as_tables(video, path, status, reason, rows=rows, source_events=source_events)


class _Watch:
    """What happens to each frame, and the rows that come of it."""

    def __init__(self, forecaster: Forecaster, step_s: float, seen_as: SeenAs, each: EachForecast | None) -> None:
        frame = forecaster.manifest.frame
        self._forecaster = forecaster
        self._each = each
        self._preprocessor = Preprocessor(frame.height, frame.width, frame.channels, seen_as.roi)
        self.events = _Events()
        self._check = PictureCheck(step_s, self.events)
        self._fit = FitMonitor(forecaster.manifest.training_data, step_s, self.events)
        self._signals = Signals(step_s)
        self.alarms = AlarmRows(seen_as.signal, seen_as.trigger, step_s)
        self._clip = 0
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self.step_s = step_s
        self.frames = 0
        self.forecasts = 0
        self.duration_s = 0.0
        self._outside = 0  # pictures
        forecaster.reset()

    @property
    def picture_hw(self) -> tuple[int, int] | None:
        """Size of the last picture."""
        return self._preprocessor.picture_hw

    @property
    def problems(self) -> list[str]:
        """Why not every picture has a row."""
        return [f"--roi does not fit {self._outside} of its pictures, which have no rows"] if self._outside else []

    def add(self, source_frame: SourceFrame) -> None:
        """Observe a picture, and forecast from it; as `svg-live`, leave out one that the region of interest does not fit.

        Raises:
            ForecastError: values that are not finite.
            RegionOutsideError: the region of interest does not fit the first picture.
        """
        time_s = source_frame.source_s
        assert time_s is not None
        self.events.place = {"frame": self.frames, "time_s": time_s}
        resized = self._note_cut(source_frame)
        part = self._part(source_frame.image, resized)
        if part is None:
            return
        empty = self._check.add(part, held=source_frame.held)
        frame = self._preprocessor.fit(part)
        observation = self._forecaster.observe(frame)
        if empty is None:  # a covered lens says nothing about the model
            self._fit.add(frame, observation.scores)
        else:
            self._fit.cut()
        values = self._signals.add(frame, observation, empty)
        self.alarms.add(self.frames, time_s, values, empty is not None)
        self._add_row(source_frame, observation, values, empty)
        number = self.frames
        self.frames += 1
        self.duration_s = time_s + self.step_s
        if self._forecaster.ready:
            futures = self._forecaster.forecast()
            self.forecasts += 1
            if self._each is not None:
                self._each(number, time_s, futures)

    def frame_batches(self) -> list[pa.RecordBatch]:
        """All rows of frames; without the columns that name the video."""
        self._store_rows()
        return self._batches

    def _part(self, picture: Picture, resized: bool) -> Picture | None:
        """The part of the picture that the model looks at; None, which is an event, if its region does not fit."""
        try:
            return crop(picture, self._preprocessor.region(picture))
        except RegionOutsideError as error:
            if not self.frames:
                raise
            if resized:
                reason = first_line(error)
                self.events.add("roi_outside", f"{reason}; there are no forecasts for pictures of this size")
            self._outside += 1
            return None

    def _note_cut(self, source_frame: SourceFrame) -> bool:
        """After a pause, and where the picture's size changes, which is returned, the context starts anew."""
        paused = source_frame.clip != self._clip
        self._clip = source_frame.clip
        if paused:
            pause_s = source_frame.pause_s
            self.events.add("pause", f"no picture for {duration_text(pause_s)}; the context is reset", duration_s=pause_s)
        resized = self._preprocessor.size_changed(source_frame.image)
        if resized:
            height, width = source_frame.image.shape[:2]
            self.events.add("size_changed", f"the frame size is now {width}x{height}; the context is reset")
        if paused or resized:
            self._forecaster.reset()
            self._check.cut()
            if resized:
                self._fit.reset()
            else:
                self._fit.cut()
            self._signals.reset(new_scene=resized)
            self.alarms.reset()
        return resized

    def _add_row(
        self, source_frame: SourceFrame, observation: Observation, values: SignalValues | None, empty: EmptyPicture | None
    ) -> None:
        self._rows.append(
            {
                **self.events.place,
                "clip": source_frame.clip,
                "held": source_frame.held,
                "empty": empty,
                "misfit": bool(self._fit.reasons),
                "surprise": observation.surprise,
                **{f"z_{name}": None if values is None else getattr(values, name) for name in SIGNALS},
                **_by_lead(observation.scores, self._forecaster.horizon),
            }
        )
        if len(self._rows) >= _BATCH:
            self._store_rows()

    def _store_rows(self) -> None:
        own = pa.schema([each for each in FRAMES if each.name not in ("video_id", "video")])
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, own))
        self._rows = []


def _by_lead(scores: tuple[ForecastScore, ...], horizon: int) -> dict[str, list[float | None]]:
    """Lists of errors whose place is the lead, from 1 on; None: no forecast of so long ago."""
    table: dict[str, list[float | None]] = {name: [None] * horizon for name in _SCORES}
    for score in scores:
        for name in _SCORES:
            table[name][score.lead - 1] = getattr(score, name)
    return table


def _as_tables(
    video: Video, path: Path, status: str, reason: str | None, rows: _Watch | None, source_events: _Events
) -> VideoRows:
    """`rows` is None for a video that cannot be read."""
    names = {"video_id": video.id, "video": video.name}
    local = one_line(path.absolute())
    events = [{**row, "message": row["message"].replace(local, video.name)} for row in source_events.rows]
    if rows is None:
        frames = FRAMES.empty_table()
        counts: dict[str, float | None] = {"frames": 0, "forecasts": 0, "alarms": 0, "duration_s": 0.0}
    else:
        rows.alarms.finish()
        inside = [*rows.events.rows, *rows.alarms.rows]
        events += sorted(inside, key=lambda row: row["frame"])
        frames = pa.Table.from_batches(rows.frame_batches())
        for place, (name, value) in enumerate(names.items()):
            frames = frames.add_column(place, FRAMES.field(name), pa.repeat(value, frames.num_rows))
        height, width = rows.picture_hw or (None, None)
        counts = {"frames": rows.frames, "forecasts": rows.forecasts, "alarms": len(rows.alarms.rows),
                  "duration_s": rows.duration_s, "step_s": rows.step_s, "width": width, "height": height}  # fmt: skip
    said = None if reason is None else reason.replace(local, video.name)
    about = {**names, "size": video.size, "version": video.version, "status": status, "reason": said, **counts}
    return VideoRows(frames.cast(FRAMES), pa.Table.from_pylist([{**names, **row} for row in events], EVENTS), about)
