"""Which pictures of a stream the model observes: those nearest to the multiples of its interval, by their time stamps."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from svg_common.video.sampling import MAX_STEP_S, longest_hold_s
from svg_edge_ros.image_messages import ImageError

_RATE_PICTURES = 20  # the rate of the camera is told from so many
_AS_LONG = 1.5  # times the gap before it: a second one is the camera's rate, not another pause


@dataclass(frozen=True)
class Step:
    """A picture that is observed.

    Attributes:
        skipped: intervals without a picture before it: the model was busy, or the camera sent none.
        new_scene: what was seen before is no context for it: a pause, or time that went backwards, as in a bag that loops.
    """

    skipped: int = 0
    new_scene: bool = False


class StampSchedule:
    """Decides picture by picture, so that none has to be waited for.

    A picture counts from half a period of the camera before an interval is due: the next one would be further from it. Due
    times count from the first picture, so that rounding never adds up to a drift. Pauses are as in `svg_common.video.sampling`,
    and a second one that is about as long is none: so far apart are the pictures of this camera.

    Args:
        interval_s: seconds between observed pictures.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self.reset()

    def reset(self) -> None:
        """Let the next picture be the first one."""
        self._start_s: float | None = None
        self._last_s = 0.0
        self._tick = 0
        self._gaps: deque[float] = deque(maxlen=_RATE_PICTURES)  # of this scene
        self._expected_gap_s = self._interval_s  # while there are none

    @property
    def camera_interval_s(self) -> float | None:
        """Usual seconds between two pictures, observed or not; None until the scene has twenty of them."""
        return median(self._gaps) if len(self._gaps) == _RATE_PICTURES else None

    def take(self, stamp_s: float) -> Step | None:
        """Return how the picture of this time is observed; None if it is not, because it is not due, or was seen.

        Raises:
            ImageError: the time is not finite. It is as if the picture had not come.
        """
        if not math.isfinite(stamp_s):
            raise ImageError("stamp", f"an image is left out: its time stamp is {stamp_s}\n  expected a finite time in seconds")
        if self._start_s is None:
            self._begin(stamp_s)
            return Step(new_scene=True)
        gap_s = stamp_s - self._last_s
        if gap_s == 0:
            return None
        if gap_s < 0 or gap_s > self._longest_gap_s():
            self._expected_gap_s = self._usual_gap_s() if gap_s < 0 else min(gap_s, MAX_STEP_S)
            self._gaps.clear()
            self._begin(stamp_s)
            return Step(new_scene=True)
        self._gaps.append(gap_s)
        self._last_s = stamp_s
        early_s = min(self._usual_gap_s(), self._interval_s) / 2
        tick = math.floor((stamp_s - self._start_s + early_s) / self._interval_s + 1e-6)
        if tick <= self._tick:
            return None
        skipped = tick - self._tick - 1
        self._tick = tick
        return Step(skipped=skipped)

    def _begin(self, stamp_s: float) -> None:
        self._start_s = self._last_s = stamp_s
        self._tick = 0

    def _longest_gap_s(self) -> float:
        """Of two pictures that is no pause; never less than three of the model's intervals."""
        if self._gaps:
            return longest_hold_s(1 / max(self._usual_gap_s(), self._interval_s))
        return max(longest_hold_s(1 / self._interval_s), _AS_LONG * self._expected_gap_s)

    def _usual_gap_s(self) -> float:
        return median(self._gaps) if self._gaps else self._expected_gap_s
