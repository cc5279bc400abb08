"""The display of several cameras: it gathers their newest views, and gives all of them to one output thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from svg_common.quantities import duration_text
from svg_runtime.errors import SourceLostError
from svg_runtime.live.camera_run import CameraRun
from svg_runtime.live.output_thread import OutputThread
from svg_runtime.live.outputs import Output, Recorder
from svg_runtime.live.overlay import View
from svg_runtime.live.overlay.wall import TileView, WallPicture, WallView
from svg_runtime.live.rounds import Due
from svg_runtime.live.stats import STAGES
from svg_runtime.live.timing import StageTimer

_STALE_S = 1.5  # a picture that is older is not live any more
_REFRESH_S = 1.0  # how often the ages are shown anew while nothing comes
_MOST_PENDING = 4  # views of a camera that may be composed yet: one is gathered, two wait, one is being drawn


@dataclass
class _Shown:
    """What the wall knows of a camera."""

    view: View | None = None
    arrived_s: float = 0.0  # `time.monotonic()` of that view
    waits: tuple[StageTimer, float] | None = None  # what gets the times of that view, until it is given to the outputs
    offset: int | None = None  # ticks of the display minus those of the camera
    views: int = 0


class CameraWall:
    """Shows every camera in its tile. There is a picture of the wall per model interval, whichever cameras have a new one.

    While pictures of a camera come in real time, the wall is shown with the first new picture of an interval, the newest wins
    where outputs are slower, and old pictures are told from live ones. Otherwise it waits until every camera has a new
    picture, or one has its next already, so that none is lost. A camera that joins or falls behind goes on at the present.

    Args:
        cameras: all of them.
        picture: composes the wall.
        outputs: what it is written to.
        recorders: what records it.
        interval_s: seconds per picture of the wall.
    """

    def __init__(
        self, cameras: Sequence[CameraRun], picture: WallPicture, outputs: Sequence[Output], recorders: Sequence[Recorder],
        interval_s: float,
    ) -> None:  # fmt: skip
        self.recorders = recorders
        self._cameras = cameras
        self._picture = picture
        self._interval_s = interval_s
        self._shown = [_Shown() for _ in cameras]
        self._tick = -1
        self._next_tick = -1  # of the newest view; that of the wall until it is ahead
        self._submitted_s = time.monotonic()
        self._writer = OutputThread(
            picture=picture, outputs=outputs, recorders=recorders, timer=StageTimer(STAGES), newest_wins=self._paced
        )
        self._writer.start()

    def show(self, shown: Sequence[tuple[Due, View]]) -> None:
        """Take the new views of a round, and give the wall to the outputs when it is due.

        Raises:
            OutputError: an earlier picture could not be written.
        """
        now = time.monotonic()
        if not self._paced and any(self._shown[due.number].waits for due, _ in shown):
            self._submit(now)
        for due, view in shown:
            self._take(due, view, now)
        if not shown and self._paced and self._tick >= 0 and now - self._submitted_s >= _REFRESH_S:
            self._next_tick = self._tick + round((now - self._submitted_s) / self._interval_s)
        if self._is_due(idle=not shown):
            self._submit(now)
        self._count_not_shown(_MOST_PENDING)

    def finish(self, keep: bool) -> None:
        """Show what was not yet, and end as `CameraRun.finish`."""
        if keep and self._any_waits:
            self._submit(time.monotonic())
        self._writer.finish(keep)
        self._count_not_shown(pending=0)

    @property
    def _paced(self) -> bool:
        """Whether pictures come in real time now: a camera that never came, or has ended, costs a file nothing."""
        cameras = zip(self._cameras, self._shown, strict=True)
        return any(camera.running and camera.reader.is_paced and shown.view is not None for camera, shown in cameras)

    @property
    def _any_waits(self) -> bool:
        return any(shown.waits for shown in self._shown)

    def _count_not_shown(self, pending: int) -> None:
        for camera, shown, composed in zip(self._cameras, self._shown, self._picture.composed, strict=True):
            camera.stats.not_shown = max(camera.stats.not_shown, shown.views - composed - pending)

    def _take(self, due: Due, view: View, now: float) -> None:
        shown = self._shown[due.number]
        tick = self._tick if shown.offset is None else shown.offset + view.tick
        # In real time, cameras that are not due together share an interval: only one that has missed it whole is behind.
        behind = shown.offset is None or shown.waits is not None or not self._paced
        if behind and tick <= self._tick:
            tick = self._tick + 1
        self._next_tick = max(self._next_tick, tick)
        shown.offset = tick - view.tick
        shown.view = view
        shown.arrived_s = now
        shown.waits = due.camera.stats.timer, due.start_s
        shown.views += 1

    def _is_due(self, idle: bool) -> bool:
        if self._paced:
            return self._next_tick > self._tick
        complete = all(shown.waits for camera, shown in zip(self._cameras, self._shown, strict=True) if camera.running)
        return self._any_waits and (complete or idle)

    def _submit(self, now: float) -> None:
        self._tick = max(self._next_tick, self._tick + 1)
        self._next_tick = self._tick
        self._submitted_s = now
        tiles = tuple(
            TileView(
                view=shown.view,
                note=self._note(camera, shown, now),
                alarm=camera.stats.alarms.active,
                arrived_s=shown.arrived_s,
            )
            for camera, shown in zip(self._cameras, self._shown, strict=True)
        )
        picture = next(tile.view.picture for tile in tiles if tile.view is not None)
        timed = [shown.waits for shown in self._shown if shown.waits is not None]
        for shown in self._shown:
            shown.waits = None
        self._writer.newest_wins = self._paced
        self._writer.submit(WallView(picture=picture, tick=self._tick, tiles=tiles), self._tick, now, timed)

    def _note(self, camera: CameraRun, shown: _Shown, now: float) -> str:
        if not camera.running:
            return self._end_of(camera, shown)
        if shown.view is None:
            return "waiting for the first picture"
        age_s = now - shown.arrived_s
        stale = self._paced and age_s > max(_STALE_S, 3 * camera.stats.interval_s)
        return f"no picture for {duration_text(age_s)}" if stale else ""

    def _end_of(self, camera: CameraRun, shown: _Shown) -> str:
        if not isinstance(camera.ended_by, SourceLostError):
            assert camera.stats.ended_at is not None
            return f"ended at {_clock_text(camera.stats.ended_at)}: {camera.stats.stopped_by}"
        if shown.view is None:
            return "lost: it never gave a picture"
        return f"lost since {_clock_text(shown.view.time.astimezone())}"


def _clock_text(time: datetime) -> str:
    """The time of day, after the date if it is not today: runs take weeks."""
    is_today = time.date() == datetime.now(time.tzinfo).date()
    return f"{time:%H:%M:%S}" if is_today else f"{time:%Y-%m-%d %H:%M:%S}"
