"""What is a little unusual, but lasts: a running mean of a signal over about a second."""

from __future__ import annotations

import math

_WINDOW_S = 1.0
_LEAST_STEPS = 10  # in the window, however long a step is: one value does not last
_MOST_STEPS = 2  # that a value stands for, however many pictures before it were dropped
_CLIP_Z = 10.0  # larger values count as this: nor does one damaged picture


class LastingMean:
    """Exponential mean of the values of about the last second, and at least of the last ten steps.

    It starts at 0, and with it anew after each pause; the values of such a window after that do not count.

    Args:
        interval_s: seconds per model step.
    """

    def __init__(self, interval_s: float) -> None:
        self._window = max(float(_LEAST_STEPS), _WINDOW_S / interval_s)  # steps
        self.reset()

    def reset(self) -> None:
        """The next value does not follow the last one."""
        self._mean = 0.0
        self._count = 0  # steps

    def add(self, value: float, steps: int = 1) -> float:
        """The mean with the next value, model `steps` after the one before; it counts as two of them at most."""
        self._count += steps
        if self._count > self._window:
            weight = 1 - math.exp(-min(steps, _MOST_STEPS) / self._window)
            self._mean += weight * (min(value, _CLIP_Z) - self._mean)
        return self._mean
