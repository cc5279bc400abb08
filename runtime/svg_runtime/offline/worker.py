"""Forecasts videos one after another with one model, and publishes them part by part."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError, UsageError, first_line
from svg_common.progress import ProgressDisplay
from svg_common.quantities import duration_text
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.live.stop import StopRequest
from svg_runtime.offline.addresses import shown
from svg_runtime.offline.dataset import Dataset, Forecasts, Part
from svg_runtime.offline.listing import Video, local_copy
from svg_runtime.offline.one_video import VideoRows, forecast_video
from svg_runtime.offline.options import ForecastOptions, kept_arrays, kept_shapes
from svg_runtime.offline.stoppable import StoppedError
from svg_runtime.offline.stores import StoreAwayError, UnreachableError
from svg_runtime.offline.tally import Tally

_PART_BYTES = 256 << 20  # of rows in memory
_AWAY_IN_A_ROW = 3  # then the store, or the folder, is considered away: each of its videos may take a minute to give up


class Worker:
    """Forecasts videos one after another with one model.

    Args:
        away: videos in a row, by their store, that it did not answer for; of workers one after another, the same object.
    """

    def __init__(
        self, options: ForecastOptions, forecaster: Forecaster, dataset: Dataset, stop: StopRequest, tally: Tally,
        display: ProgressDisplay | None = None, away: Counter[str] | None = None,
    ) -> None:  # fmt: skip
        self._options = options
        self._forecaster = forecaster
        self._dataset = dataset
        self._stop = stop
        self._tally = tally
        self._display = display
        self._away: Counter[str] = Counter() if away is None else away
        self._all_work = 0
        self._done_work = 0

    def run(self, pending: Iterable[Video]) -> SvgError | None:
        """Forecast `pending`, and publish a part every minute.

        Returns:
            What ended the run before its time: what was finished until then is published, unless it cannot be written.
        """
        waiting = deque(pending)
        self._all_work = sum(video.work for video in waiting)
        failure: SvgError | None = None
        while waiting and not self._stop and failure is None:
            end_s = time.monotonic() + self._options.save_every_s
            try:
                with self._part() as part:
                    while waiting and not self._stop and failure is None:
                        if part.rows and (time.monotonic() >= end_s or part.nbytes >= _PART_BYTES):
                            break
                        failure = self._next(part, waiting.popleft())
            except SvgError as error:
                return error
        return failure

    def run_part(self, videos: Iterable[Video], name: str) -> SvgError | None:
        """Forecast `videos` as the part of this name; returns as `run`."""
        failure: SvgError | None = None
        try:
            with self._part(name) as part:
                for video in videos:
                    failure = failure or self._next(part, video)
        except SvgError as error:
            return error
        return failure

    @contextmanager
    def _part(self, name: str | None = None) -> Iterator[Part]:
        """A part of the data set, whose videos count when it is published."""
        with self._dataset.part(name) as part:
            yield part
        for rows in part.rows:
            self._tally.count(rows.video, is_misfit="misfit" in rows.events["kind"].to_pylist())

    def _next(self, part: Part, video: Video) -> SvgError | None:
        """Forecast one video; returns what must end the run."""
        self._show(video)
        failure = self._try(part, video)
        self._done_work += video.work  # also of one that cannot be reached: this run has done with it
        return failure

    def _try(self, part: Part, video: Video) -> SvgError | None:
        if self._away[video.store] >= _AWAY_IN_A_ROW:
            self._tally.unreachable(video.name, _not_tried(video))
            return None
        try:
            with self._kept(part, video) as kept, local_copy(video, self._dataset.scratch, self._stop) as path:
                rows = self._forecast(kept, video, path)
        except StoppedError:
            return None
        except StoreAwayError as error:
            self._away[video.store] += 1
            self._tally.unreachable(video.name, first_line(error))
            return None
        except (UnreachableError, UsageError) as error:  # of this video alone: its store has answered
            rows = None
            self._tally.unreachable(video.name, first_line(error))
        except SvgError as error:
            return error
        del self._away[video.store]
        if rows is not None:
            part.add(rows)
        return None

    def _kept(self, part: Part, video: Video) -> AbstractContextManager[Forecasts | None]:
        """Where the forecasts of a video go with --keep; removed on any error, also that the video has changed meanwhile."""
        keep, forecaster = self._options.keep, self._forecaster
        if keep is None:
            return nullcontext()
        return part.forecasts(video.id, kept_shapes(keep, forecaster.manifest, forecaster.samples, forecaster.horizon))

    def _forecast(self, kept: Forecasts | None, video: Video, path: Path) -> VideoRows | None:
        keep = self._options.keep

        def store(frame: int, time_s: float, futures: NDArray[np.float32]) -> None:
            if kept is not None and keep is not None:
                kept.add(frame, kept_arrays(keep, futures))
            self._show(video, time_s)

        rows = forecast_video(
            forecaster=self._forecaster, video=video, path=path, seen_as=self._options.seen_as, stop=self._stop, each=store
        )
        if kept is not None and (rows is None or rows.video["status"] == "failed"):
            kept.discard()
        return rows

    def _show(self, video: Video, time_s: float = 0.0) -> None:
        if self._display is not None:
            # of a single video, only its own time tells
            done = self._done_work / self._all_work if self._all_work > video.work else None
            self._display.progress("forecasting", done, f"{video.name} at {duration_text(time_s)}")


def _not_tried(video: Video) -> str:
    return (
        f"not tried: {_AWAY_IN_A_ROW} videos in a row could not be reached in '{shown(video.store)}'; "
        "when it is back, run the same command again"
    )
