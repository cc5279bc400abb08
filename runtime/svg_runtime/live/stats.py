"""Statistics of a live run: counts, latency, surprise and forecast scores, for `--json` and the summary."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from svg_common.metrics import psnr
from svg_runtime.live.alarms.monitor import AlarmMonitor
from svg_runtime.live.empty_pictures import EmptyPicture
from svg_runtime.live.events import EventLog
from svg_runtime.live.fit import FitMonitor
from svg_runtime.live.timing import RecentValues, StageTimer, away_after_s
from svg_runtime.machine.memory import peak_rss_mib

if TYPE_CHECKING:
    from svg_runtime.forecast.scores import ForecastScore
    from svg_runtime.live.adaptive import AdaptiveCounts
    from svg_runtime.live.outputs.base import Recorder

# capture: waiting for a picture. age: of a camera's picture when the loop takes it. queue: waiting for the output thread.
# end_to_end: from its capture (camera) or arrival to its last output; the stages between add up to it.
STAGES = ("capture", "age", "preprocess", "observe", "forecast", "queue", "overlay", "output", "end_to_end")
_RATE_FRAMES = 30  # the displayed rate is averaged over this many frames
_LATE = 3  # intervals between two frames after which the next one is late


class ScoreTable:
    """Forecast quality per lead. PSNR is computed from the mean squared error over all frames, not averaged in dB."""

    def __init__(self, horizon: int) -> None:
        self._count: NDArray[np.int64] = np.zeros(horizon, np.int64)
        self._mse_sum: NDArray[np.float64] = np.zeros((horizon, 3))  # best sample, mean forecast, repeated last frame

    def add(self, scores: Iterable[ForecastScore]) -> None:
        """Add the scores of earlier forecasts of one observed frame."""
        for score in scores:
            self._mse_sum[score.lead - 1] += score.mse_best, score.mse_mean, score.mse_repeat
            self._count[score.lead - 1] += 1

    def psnr(self, lead: int) -> tuple[float, float, float] | None:
        """PSNR in dB at `lead` of the best sample, the mean forecast and the repeated last frame; None without scores."""
        if self._count[lead - 1] == 0:
            return None
        mse = self._mse_sum[lead - 1] / self._count[lead - 1]
        best, mean, repeat = (round(psnr(value), 3) for value in mse.tolist())
        return best, mean, repeat

    def summary(self, interval_s: float) -> list[dict[str, float]]:
        """Return one row per lead that was scored."""
        rows = []
        for lead, count in enumerate(self._count.tolist(), 1):
            decibels = self.psnr(lead)
            if decibels is not None:
                best, mean, repeat = decibels
                ahead = round(lead * interval_s, 4)
                rows.append({"lead": lead, "seconds": ahead, "frames": count,
                             "psnr_best": best, "psnr_mean": mean, "psnr_repeat": repeat})  # fmt: skip
        return rows


class LiveStats:
    """Counters and timers of a run.

    Args:
        about: entries as the run began: model, backend, samples and so on.
        horizon: forecast steps.
        interval_s: seconds per step; it follows the rate of a camera.
        events: the event log of the run, filled by other parts.
        fit: whether the model fits what it sees.
        alarms: signals, and the alarms that follow from them.
        surprise_unit: nats, or relative to the usual error of the model's predictions.
        name: of one of several cameras.
    """

    def __init__(
        self,
        about: dict[str, Any],
        horizon: int,
        interval_s: float,
        events: EventLog,
        fit: FitMonitor,
        alarms: AlarmMonitor,
        surprise_unit: Literal["nats", "relative"] = "nats",
        name: str | None = None,
    ) -> None:
        self.name = name
        self._about = about
        self._surprise_unit = surprise_unit
        self.interval_s = interval_s
        self._start = time.monotonic()
        self.ended_s: float | None = None  # `time.monotonic()`; None: it goes on
        self._recent_ends: deque[float] = deque(maxlen=_RATE_FRAMES)
        self.events = events
        self.fit = fit
        self.alarms = alarms
        self.adaptive: AdaptiveCounts | None = None  # with --adaptive
        self.timer = StageTimer(STAGES)
        self.scores = ScoreTable(horizon)
        self.surprise = RecentValues()
        self.taken = 0  # pictures that came to the loop, some of which cannot be observed
        self.seen = 0  # of these, pictures that the model observed
        self.most_in_a_row = 0  # frames that the model observed without a reset of the context
        self.forecast = 0  # of these, pictures followed by a forecast
        self.resets = 0  # resets of the context
        self.captured = 0  # pictures that the source took or decoded, used or not
        self.dropped = 0  # model intervals of a camera whose picture was missed because the loop was busy
        self.not_shown = 0  # pictures that were observed but never composed, because the outputs were slower
        self.held = 0  # pictures that were shown to the model again, because none came in a short gap
        self.blank = 0  # pictures of one colour
        self.frozen = 0  # pictures that were the same for long
        self.pauses = 0  # gaps so long that the context started anew
        self.counts: tuple[int, int] | None = None  # samples and horizon, once a client of the page has changed them
        self.stopped_by: str | None = None  # None: it goes on
        self.ended_at: datetime | None = None  # of the clock of this machine; None: it goes on
        self.recorders: Sequence[Recorder] = ()

    def begin(self, at_s: float) -> None:
        """Count the time from then on, of `time.monotonic()`: a camera that is alone was waited for until then."""
        self._start = max(self._start, at_s)

    def count_empty(self, found: EmptyPicture | None) -> EmptyPicture | None:
        """Count a picture that carries nothing, and return what was found."""
        self.blank += found == "blank"
        self.frozen += found == "frozen"
        return found

    def frame_done(self) -> None:
        """Record that one more picture was processed completely."""
        self._recent_ends.append(time.monotonic())

    def end(self, reason: str) -> None:
        """There are no more pictures: rates and durations are those until now. Only the first reason counts."""
        if self.ended_s is None:
            self.ended_s = time.monotonic()
            self.stopped_by = reason
            self.ended_at = datetime.now().astimezone()

    @property
    def fps(self) -> float:
        """Recent rate in pictures per second; 0 when the source has ended or is away."""
        ends = list(self._recent_ends)
        if len(ends) < 2 or self.ended_s is not None:
            return 0.0
        interval_s = max(ends[-1] - ends[0], 1e-9) / (len(ends) - 1)
        if time.monotonic() - ends[-1] > max(away_after_s(self.interval_s), _LATE * interval_s):
            return 0.0
        return 1 / interval_s

    def frames(self) -> dict[str, int]:
        """Return the counts of pictures."""
        return {"captured": self.captured, "seen": self.seen, "forecast": self.forecast, "dropped": self.dropped,
                "not_shown": self.not_shown, "unused": max(0, self.captured - (self.taken - self.held)),
                "held": self.held, "blank": self.blank, "frozen": self.frozen}  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Return everything as plain JSON values; milliseconds, dB, MiB, and surprise in the unit of its name."""
        duration = (time.monotonic() if self.ended_s is None else self.ended_s) - self._start
        return {
            **self._about,
            **({} if self.name else changed_counts(self.counts)),
            "interval_s": self.interval_s,
            "stopped_by": self.stopped_by,
            "duration_s": round(duration, 3),
            "fps": round(self.taken / duration, 3) if duration > 0 else 0.0,
            "frames": self.frames(),
            "resets": self.resets,
            "pauses": self.pauses,
            "events": self.events.summary(),
            "latency_ms": self.timer.summary(),
            f"surprise_{self._surprise_unit}": self.surprise.summary(),
            "score": self.scores.summary(self.interval_s),
            "fit": self.fit.summary(),
            "alarms": self.alarms.summary(),
            "recorded": [recorder.summary() for recorder in self.recorders],
            **({"adaptive": self.adaptive.summary()} if self.adaptive else {}),
            "peak_rss_mib": peak_rss_mib(),
        }


def changed_counts(counts: tuple[int, int] | None) -> dict[str, Any]:
    """Entries of the statistics of a process that replace those of its start: `counts`, see `LiveStats`."""
    return {} if counts is None else {"samples": counts[0], "horizon": counts[1], "counts_changed": True}
