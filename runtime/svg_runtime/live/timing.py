"""Latency per stage of the live loop: percentiles over the most recent frames, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray

_WINDOW = 10_000  # frames; bounded, because a camera may run for weeks
_AWAY_S = 5.0


def away_after_s(interval_s: float) -> float:
    """From how many seconds without a picture on a camera counts as away: five, or ten steps if these are longer."""
    return max(_AWAY_S, 10 * interval_s)


def wall_clock(monotonic_s: float | None) -> datetime:
    """The date and time, in UTC, at a recent moment of `time.monotonic()`; None: now."""
    ago_s = 0.0 if monotonic_s is None else time.monotonic() - monotonic_s
    return datetime.now(timezone.utc) - timedelta(seconds=ago_s)


class RecentValues:
    """A stream of numbers. Percentiles and mean cover the last `size` values, count and maximum all of them."""

    def __init__(self, size: int = _WINDOW) -> None:
        self._ring: NDArray[np.float32] = np.zeros(size, np.float32)
        self.count = 0
        self.last = 0.0
        self.total = 0.0  # of all values
        self._largest = 0.0

    def add(self, value: float) -> None:
        """Record one non-negative value."""
        self._ring[self.count % len(self._ring)] = value
        self.count += 1
        self.last = value
        self.total += value
        self._largest = max(self._largest, value)

    def summary(self) -> dict[str, float]:
        """Return p50, p95, p99 and mean of the recent values, max and count of all; empty without values."""
        if self.count == 0:
            return {}
        kept = self._ring[: min(self.count, len(self._ring))]
        p50, p95, p99 = (round(float(value), 4) for value in np.percentile(kept, (50, 95, 99)))
        mean, largest = round(float(kept.mean()), 4), round(self._largest, 4)
        return {"p50": p50, "p95": p95, "p99": p99, "mean": mean, "max": largest, "count": self.count}


class StageTimer:
    """Latency of named stages. Use: `with timer.stage("observe"): ...`.

    Args:
        names: the stages, in the order in which the summary lists them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._stages = {name: RecentValues() for name in names}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as one run of `name`. A block that raises is not recorded."""
        start = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - start) * 1e3)

    def add(self, name: str, ms: float) -> None:
        """Record one duration of `name` in milliseconds."""
        self._stages[name].add(ms)

    def last_ms(self, name: str) -> float:
        """Return the most recent duration of `name` in milliseconds; 0 if it never ran."""
        return self._stages[name].last

    def totals(self) -> dict[str, tuple[int, float]]:
        """Return how often each stage ran, and its milliseconds in all."""
        return {name: (window.count, window.total) for name, window in self._stages.items()}

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the summary of each stage that ran, see `RecentValues.summary`."""
        return {name: window.summary() for name, window in self._stages.items() if window.count}
