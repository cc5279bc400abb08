"""One camera on the page: the live loop publishes views and takes changes, the web server asks for pictures and numbers."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from svg_common.errors import SvgError, UsageError
from svg_common.quantities import duration_text
from svg_runtime.live.alarms.archive import OWN_NAME
from svg_runtime.live.alarms.record import AlarmRecord
from svg_runtime.live.camera_names import is_name
from svg_runtime.live.overlay import Caption, View
from svg_runtime.live.page.board import Board
from svg_runtime.live.page.controls import Change, ChangeQueue, Fixed, NotYetError, Settings, check_change
from svg_runtime.live.page.held_summary import HeldSummary
from svg_runtime.live.page.history import History
from svg_runtime.live.page.names import OVERLAYS, WHOLE_PICTURE
from svg_runtime.live.page.pictures import (
    LivePainter,
    Look,
    compose_grid,
    encode_jpeg,
    encode_png,
    grid_steps,
)
from svg_runtime.live.page.studio import Feed, Moment, Shot, Studio
from svg_runtime.live.roi import REGION_OUTSIDE
from svg_runtime.live.stats import LiveStats
from svg_runtime.live.timing import away_after_s

_LIVE_S, _GRID_S, _PNG_S = 0.1, 0.5, 0.5  # between two pictures at least
_NOT_IN_URLS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class CameraAbout:
    """What does not change.

    Attributes:
        name: as it is displayed.
        caption: of the forecasts as the run starts.
        clips: folder of the alarms' clips; None: there are none.
        bundle_id: of the model.
        fixed: what a client cannot change.
    """

    name: str
    caption: Caption
    clips: Path | None = None
    bundle_id: str = ""
    fixed: Fixed = field(default_factory=Fixed)


class PageCamera:
    """See the module. `LivePage.add_cameras` makes it.

    The live loop calls `publish` and `apply_changes` for every frame; both return at once. The rest is for the web server.

    Args:
        key: its name in addresses.
        about: what does not change.
        settings: what is in force at the start.
        stats: of its run.
        studio: makes its pictures.
        board: gets its events.
        changes: gets what clients want changed, of all cameras.
    """

    def __init__(
        self, key: str, about: CameraAbout, settings: Settings, stats: LiveStats, studio: Studio, board: Board,
        changes: ChangeQueue,
    ) -> None:  # fmt: skip
        self.key = key
        self.about = about
        self.stats = stats
        self.history = History()
        self._lock = threading.Lock()  # both sides replace the settings and the moment by what follows from them
        self._settings = settings
        self._studio = studio
        self._board = board
        self._changes = changes
        self._moment: Moment | None = None
        self._published_s = time.monotonic()
        self._ended: str | None = None
        self._painter = LivePainter()
        self._small_painter = LivePainter(small=True)
        self._summary = HeldSummary(stats.summary)
        self.live = studio.open_feed(lambda: self._moment, self._draw_live, _LIVE_S)
        self.small = studio.open_feed(lambda: self._moment, self._draw_small, _LIVE_S)
        self.grid = studio.open_feed(lambda: self._moment, lambda view: encode_jpeg(compose_grid(view)), _GRID_S)
        self.png = studio.open_feed(lambda: self._moment, self._draw_png, _PNG_S)
        self._feeds = (self.live, self.small, self.grid, self.png)

    @property
    def watched(self) -> bool:
        """Whether somebody waits for a picture."""
        return any(feed.waiters for feed in self._feeds)

    @property
    def pictures_made(self) -> dict[str, int]:
        """How many pictures of each kind were composed and encoded."""
        return {"live": self.live.made + self.small.made, "futures": self.grid.made, "snapshot": self.png.made}

    # 1) called by the run

    def publish(self, view: View) -> None:
        """Ingest a view, which must not change any more, after the frame was counted in the statistics."""
        raw = view.surprise[-1] if view.surprise else None
        self.history.add(self.stats.alarms.values, raw, self.stats.alarms.active)
        self._published_s = time.monotonic()
        with self._lock:
            self._moment = Moment(1 if self._moment is None else self._moment.number + 1, view)
        self._studio.wake(self._feeds)

    def apply_changes(self, apply: Callable[[Change], None]) -> None:
        """Apply what clients want changed.

        Args:
            apply: applies one change. A `NotYetError` puts it off, another `SvgError` is the client's answer.
        """
        for waiting in self._changes.take(self.key):
            change = waiting.change.beyond(self._settings)
            try:
                self._check(change)  # it may have waited until the camera ended, or until other settings were in force
                if change.model_fields_set:
                    apply(change)
            except NotYetError:
                self._changes.put_off(waiting)
                continue
            except SvgError as error:
                waiting.done.set_exception(error)
                continue
            self._note(change)
            waiting.done.set_result(None)

    def on_event(self, kind: str, message: str) -> None:
        """Record an event of the run; any thread may call this. Alarms come by `on_alarm`."""
        if kind != "alarm":
            self._board.add("event", self.key, {"kind": kind, "message": message}, group=kind)

    def on_alarm(self, record: AlarmRecord) -> None:
        """Record the start or the end of an alarm; any thread may call this."""
        values = record.model_dump(mode="json", by_alias=True, exclude={"files", "camera"})
        files = {kind: self._link(path) for kind, path in record.files.model_dump().items()}
        self._board.add("alarm", self.key, {**values, "files": files})

    def note_counts(self, samples: int, horizon: int, by_client: bool = True) -> None:
        """All cameras have new counts, from a client of one of them, or from --adaptive, which reports them itself."""
        counts = {"samples": samples, "horizon": horizon}
        with self._lock:
            changed = {name: count for name, count in counts.items() if count != getattr(self._settings, name)}
            self._settings = replace(self._settings, samples=samples, horizon=horizon)
        if changed and by_client:
            self._board.add("change", self.key, changed)

    def end(self, reason: str) -> None:
        """No further views will come."""
        self._ended = reason

    # 2) called by the web server

    async def picture(self, feed: Feed, after: int = 0) -> Shot | None:
        """A picture of `live`, `small`, `grid` or `png` that is newer than number `after`; see `Studio.picture`."""
        return await self._studio.picture(feed, after)

    def ask(self, change: Change) -> Future[None] | None:
        """Pass a change on to the live loop; None: it is in force already.

        Raises:
            UsageError: this run cannot do it, or the camera has ended.
        """
        self._check(change)
        if not _is_of_picture(change):
            return self._changes.put(self.key, change)
        self._note(change.beyond(self._settings))
        self._painter_changed()
        self._changes.put(self.key, change)  # so that one that waits does not undo it
        return None

    def note_refused(self, change: Change, name: str, reason: str) -> None:
        """A change was refused after its client, which was told its `name`, had stopped waiting for it."""
        asked = change.model_dump(include=set(change.asked))
        self._board.add("change", self.key, {"refused": reason, "asked": asked, "change": name}, group="refused")

    def problem(self) -> str | None:
        """Why the run makes no progress; None: it does."""
        if self._ended is not None:
            return self._ended
        quiet_s, moment = time.monotonic() - self._published_s, self._moment
        if moment is None:
            return "no picture yet"
        if quiet_s >= away_after_s(self.stats.interval_s):
            return f"no picture for {duration_text(quiet_s)}"
        if moment.view.trouble == "roi_outside":
            return REGION_OUTSIDE
        return None

    def clip(self, name: str) -> Path | None:
        """The clip or picture of an alarm; None: there is none of this name."""
        if self.about.clips is None or not OWN_NAME.fullmatch(name):
            return None
        path = self.about.clips / name
        return path if path.is_file() and not path.is_symlink() else None

    def summary(self) -> dict[str, Any]:
        """The statistics as in --json, at most a second old."""
        return self._summary()

    def state(self) -> dict[str, Any]:
        """What the page shows in numbers."""
        summary, settings = self.summary(), self._settings
        caption = self.about.caption.with_step(summary["interval_s"])
        horizon = settings.horizon
        return {
            "camera": self.key,
            "name": self.about.name,
            **{key: summary[key] for key in ("source", "interval_s", "frames", "resets", "pauses")},
            "model": caption.model,
            "backend": caption.backend,
            "fps": round(self.stats.fps, 2),
            "duration_s": summary["duration_s"],
            "now_s": round(time.monotonic(), 3),  # in the seconds of the points of the chart
            "problem": self.problem(),
            "ended": self._ended is not None,
            "misfit": list(self.stats.fit.reasons),
            "latency_ms": {stage: {key: values[key] for key in ("p50", "p95", "max")}
                           for stage, values in summary["latency_ms"].items()},
            "surprise": round(self.stats.surprise.last, 4) if self.stats.surprise.count else None,
            "surprise_unit": caption.surprise_unit,
            "signal": summary["alarms"]["signal"],
            "alarm": self.stats.alarms.active,
            "alarms": summary["alarms"]["count"],
            "settings": asdict(settings),
            "fixed": {"samples": self.about.fixed.samples, "horizon": self.about.fixed.horizon},
            "overlays": list(OVERLAYS),
            "region_on_picture": settings.overlay in WHOLE_PICTURE,
            "leads_s": [round(step * caption.interval_s, 2) for step in grid_steps(horizon)],
            "lead_s": round(caption.with_counts(settings.samples, horizon).lead * caption.interval_s, 2),
        }  # fmt: skip

    def _check(self, change: Change) -> None:
        """Refuse what this run cannot do, at present.

        Raises:
            UsageError: with the reason.
        """
        if self._ended is not None and not _is_of_picture(change):
            raise UsageError(f"this camera has {self._ended}; only its overlay can be changed")
        view = None if self._moment is None else self._moment.view
        picture_hw = None if view is None else (view.picture.shape[0], view.picture.shape[1])
        check_change(change, self._settings, self.about.fixed, picture_hw)

    def _note(self, change: Change) -> None:
        """A change is in force. Counts have been noted, for all cameras, if the loop has applied it."""
        given = change.model_dump(include=change.model_fields_set)
        with self._lock:
            before = self._settings
            self._settings = replace(before, **{name: value for name, value in given.items() if name != "reset"})
        new = {name: value for name, value in given.items() if name == "reset" or value != getattr(before, name)}
        if new:
            self._board.add("change", self.key, new)

    def _look(self, view: View) -> Look:
        """Labels are those of the forecast that is shown: the settings may be newer."""
        settings = self._settings
        counts = (settings.samples, settings.horizon) if view.futures is None else view.futures.shape[:2]
        return Look(settings.overlay, self.about.caption.with_counts(counts[0], counts[1]).with_step(view.step_s))

    def _draw_live(self, view: View) -> bytes:
        return encode_jpeg(self._painter.compose(view, self._look(view)))

    def _draw_small(self, view: View) -> bytes:
        return encode_jpeg(self._small_painter.compose(view, self._look(view)))

    def _draw_png(self, view: View) -> bytes:
        return encode_png(self._painter.compose(view, self._look(view)))

    def _painter_changed(self) -> None:
        """The picture of the present view is to be made again, for sources that are slow."""
        with self._lock:
            if self._moment is None:
                return
            self._moment = Moment(self._moment.number + 1, self._moment.view)
        self._studio.wake(self._feeds)

    def _link(self, path: str | None) -> str | None:
        return None if path is None else f"/cameras/{self.key}/clips/{Path(path).name}"


def _is_of_picture(change: Change) -> bool:
    """Whether the page alone makes it, also of the last view."""
    return change.model_fields_set <= {"overlay"}


def key_of(name: str, taken: set[str]) -> str:
    """A name for addresses that no other camera has: the camera's own, unless it is a title, as of a single one."""
    base = name if is_name(name) else _NOT_IN_URLS.sub("-", name.lower()).strip("-")[:40] or "camera"
    numbered = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return next(key for key in (base, *numbered) if key not in taken)
