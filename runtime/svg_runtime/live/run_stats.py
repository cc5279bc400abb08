"""Statistics of a run: of its one camera, or of several with their totals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from svg_runtime.live.adaptive import AdaptiveCounts
from svg_runtime.live.events import EventLog
from svg_runtime.live.outputs.base import Recorder
from svg_runtime.live.stats import LiveStats, changed_counts
from svg_runtime.machine.memory import peak_rss_mib


class RunStats:
    """What all cameras of a process have in common.

    Args:
        about: entries as the run began: model, backend, samples and so on.
        cameras: statistics of each.
        events: of the process, such as those of --adaptive; with one camera, also its own.

    Attributes:
        adaptive: with --adaptive.
        batches: how many pictures were observed together: how often.
        recorders: those of the display of several cameras.
    """

    def __init__(self, about: dict[str, Any], cameras: Sequence[LiveStats], events: EventLog) -> None:
        self.cameras = list(cameras)
        self.events = events
        self.batches: Counter[int] = Counter()
        self.recorders: Sequence[Recorder] = ()
        self._about = about
        self._start = time.monotonic()
        self._adaptive: AdaptiveCounts | None = None

    @property
    def adaptive(self) -> AdaptiveCounts | None:
        """See the class."""
        return self._adaptive

    @adaptive.setter
    def adaptive(self, adaptive: AdaptiveCounts | None) -> None:
        self._adaptive = adaptive
        if len(self.cameras) == 1:
            self.cameras[0].adaptive = adaptive

    @property
    def taken(self) -> int:
        """Pictures that came to the loop."""
        return sum(camera.taken for camera in self.cameras)

    @property
    def forecast(self) -> int:
        """Of these, pictures followed by a forecast."""
        return sum(camera.forecast for camera in self.cameras)

    def summary(self) -> dict[str, Any]:
        """Return everything as plain JSON values: that of the one camera, or totals, and one for each under "cameras"."""
        if len(self.cameras) == 1:
            return self.cameras[0].summary()
        ended_s = [camera.ended_s for camera in self.cameras if camera.ended_s is not None]
        end_s = max(ended_s) if len(ended_s) == len(self.cameras) else time.monotonic()  # closing the files is no forecasting
        duration = end_s - self._start
        frames = Counter[str]()
        for camera in self.cameras:
            frames.update(camera.frames())
        return {
            **self._about,
            **changed_counts(self.cameras[0].counts),  # all have the same
            "duration_s": round(duration, 3),
            "fps": round(self.taken / duration, 3) if duration > 0 else 0.0,
            "frames": dict(frames),
            "alarms": sum(camera.alarms.summary()["count"] for camera in self.cameras),
            "batches": {str(size): count for size, count in sorted(self.batches.items())},
            "events": self._events(),
            "recorded": [recorder.summary() for recorder in self.recorders],
            **({"adaptive": self.adaptive.summary()} if self.adaptive else {}),
            "peak_rss_mib": peak_rss_mib(),
            "cameras": {str(camera.name): _own(camera.summary()) for camera in self.cameras},
        }

    def _events(self) -> dict[str, Any]:
        """Counts of the process and of all cameras; the messages of the process alone, as each camera has its own."""
        own = self.events.summary()
        counts = Counter[str](own["counts"])
        for camera in self.cameras:
            counts.update(camera.events.summary()["counts"])
        return {**own, "counts": dict(counts)}


def _own(summary: dict[str, Any]) -> dict[str, Any]:
    """What is of the camera, not of the process."""
    return {key: value for key, value in summary.items() if key != "peak_rss_mib"}
