"""`--adaptive`: fewer samples, then a shorter horizon, while this machine cannot hold the camera's rate; then more again."""

from __future__ import annotations

from collections import deque
from typing import Any

from svg_common.video.sampling import longest_hold_s
from svg_runtime.forecast.forecaster import MAX_CACHED_ROLLOUTS
from svg_runtime.live.events import EventLog

Counts = tuple[int, int]  # samples, horizon

_FEWEST_SAMPLES = 2  # one alone has no spread
_FULL = 0.9  # busy share of the interval above which the rate is in danger: what is left is for capture and output
_FREE = 0.7  # busy share that a richer forecast may be expected to take
_JUDGED_S = 1.0  # before fewer
_CALM_S = 5.0  # before more; doubled whenever more turned out to be too much, until more has lasted
_LONGEST_CALM_S = 60.0  # and what lasts as long was not too much: what is too much later has another cause
_FEWEST_JUDGED = 3  # pictures, however far apart they are
_MOST_KEPT = 10_000  # pictures; bounded, because a camera may run for weeks
_ROUNDING_S = 1e-6  # of sums of intervals


def levels(samples: int, horizon: int, fewer_samples: bool = True) -> list[Counts]:
    """Return what may be forecast, the richest first: fewer samples, down to two, then half the horizon.

    There are no more of them than the forecaster keeps ready, so that going up or down compiles nothing.
    """
    most = MAX_CACHED_ROLLOUTS - (horizon > 1)  # one is left for a shorter horizon, where it can be
    fewer = _sample_steps(samples, most) if fewer_samples else [samples]
    steps = [(count, horizon) for count in fewer]
    while horizon > 1 and len(steps) < MAX_CACHED_ROLLOUTS:
        horizon = (horizon + 1) // 2
        steps.append((fewer[-1], horizon))
    return steps


def _sample_steps(samples: int, most: int) -> list[int]:
    """At most `most` numbers of samples, from `samples` down to the fewest: halves, or larger steps where these are more."""
    ratio = max(2.0, (samples / _FEWEST_SAMPLES) ** (1 / (most - 1)))
    steps = [samples]
    while steps[-1] > _FEWEST_SAMPLES:
        last = len(steps) == most - 1  # a root is not exact
        steps.append(_FEWEST_SAMPLES if last else max(_FEWEST_SAMPLES, int(samples / ratio ** len(steps))))
    return steps


def counts_in_words(samples: int, horizon: int) -> str:
    """'1 sample x 4 steps'."""
    return f"{samples} sample{'s' if samples > 1 else ''} x {horizon} step{'s' if horizon > 1 else ''}"


class AdaptiveCounts:
    """Chooses samples and horizon from how busy the loop is. All seconds are those of the source.

    Args:
        steps: what may be forecast, the richest first, see `levels`.
        events: receives one event per change.
    """

    def __init__(self, steps: list[Counts], events: EventLog) -> None:
        self._levels = steps
        self._events = events
        self._level = 0
        self._shares: deque[tuple[float, float]] = deque(maxlen=_MOST_KEPT)  # seconds, busy share; since the last change
        self._since_change_s = 0.0
        self._calm_s = _CALM_S
        self._raised = False  # by the last change
        self._reduced_s = 0.0

    @property
    def counts(self) -> Counts:
        """Samples and horizon of the next forecast."""
        return self._levels[self._level]

    def add(self, busy_ms: float, interval_s: float | None, passed_s: float) -> None:
        """Record how long the loop was busy with one picture, from taking it to being ready for the next.

        Args:
            busy_ms: see above.
            interval_s: seconds until the next picture of the source; None: not known yet, so that nothing is judged.
            passed_s: seconds until the next picture that was taken: longer where some were dropped, and over a pause.
        """
        self._reduced_s += passed_s if self._level > 0 else 0.0
        if interval_s is None:
            return
        judged_s = min(passed_s, longest_hold_s(1 / interval_s))  # a pause is no time in which the loop was calm
        self._shares.append((judged_s, busy_ms / 1e3 / interval_s))
        self._since_change_s += judged_s
        if self._raised and self._lasts(_LONGEST_CALM_S):
            self._raised = False
            self._calm_s = _CALM_S
        if self._lasts(_JUDGED_S) and self._share(_JUDGED_S) > _FULL:
            self._lower()
        elif self._level > 0 and self._lasts(self._calm_s):
            richer = self._share(self._calm_s) * self._work(self._level - 1) / self._work(self._level)
            if richer <= _FREE:  # time grows with the work at most
                self._change(self._level - 1, "more", richer)
                self._raised = True

    def summary(self) -> dict[str, Any]:
        """Return the present counts and for how long they were reduced, as plain JSON values."""
        samples, horizon = self.counts
        return {"samples": samples, "horizon": horizon, "reduced_s": round(self._reduced_s, 3)}

    def _lower(self) -> None:
        if self._level + 1 == len(self._levels):
            self._events.once(
                "too_slow",
                f"even {self._words(self._level)} are too much for this machine at this rate: "
                "a camera's frames are dropped, and a file falls behind\n"
                "  try another --backend, a smaller model, or leave more of the processor to svg-live",
            )
            return
        if self._raised:  # more was too much: the next try waits longer
            self._calm_s = min(2 * self._calm_s, _LONGEST_CALM_S)
        self._change(self._level + 1, "fewer", self._share(_JUDGED_S))
        self._raised = False

    def _change(self, level: int, direction: str, share: float) -> None:
        took = f"{100 * share:.0f} % of the time between two frames"
        why = f"forecasts took {took}" if direction == "fewer" else f"they need about {took}"
        self._events.add(f"adaptive_{direction}", f"now {self._words(level)} instead of {self._words(self._level)}: {why}")
        self._level = level
        self._shares.clear()
        self._since_change_s = 0.0

    def _words(self, level: int) -> str:
        return counts_in_words(*self._levels[level])

    def _work(self, level: int) -> int:
        samples, horizon = self._levels[level]
        return samples * horizon

    def _lasts(self, seconds: float) -> bool:
        """Whether the last change was so long ago."""
        return len(self._shares) >= _FEWEST_JUDGED and self._since_change_s >= seconds - _ROUNDING_S

    def _share(self, seconds: float) -> float:
        """The mean of the last seconds."""
        recent: list[float] = []
        recent_s = 0.0
        for passed_s, share in reversed(self._shares):
            if len(recent) >= _FEWEST_JUDGED and recent_s >= seconds - _ROUNDING_S:
                break
            recent.append(share)
            recent_s += passed_s
        return sum(recent) / len(recent)
