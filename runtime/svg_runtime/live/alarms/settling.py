"""When signals may raise an alarm: not at once after pictures that carried nothing, nor after a reset of the context."""

from __future__ import annotations

_SETTLE_S = 1.0  # until the model has seen enough that is new
_ROUNDING_S = 1e-6  # of times that are multiples of an interval


class Settling:
    """Says of every observed frame whether its signals may raise an alarm."""

    def __init__(self) -> None:
        self._until_s: float | None = None  # None: a second after the next frame

    def reset(self) -> None:
        """The context starts anew."""
        self._until_s = None

    def add(self, time_s: float, empty: bool) -> bool:
        """Record the time of the next frame, which increases; `empty`: its picture carries nothing."""
        if empty or self._until_s is None:
            self._until_s = time_s + _SETTLE_S
        return time_s >= self._until_s - _ROUNDING_S
