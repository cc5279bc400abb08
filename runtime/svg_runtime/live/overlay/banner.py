"""Panel: one line at the foot of the picture when the model does not fit what it sees."""

from __future__ import annotations

from svg_runtime.bundle.reader import ADAPT_COMMAND
from svg_runtime.live.overlay.theme import BACKGROUND, SEMIBOLD, WARNING, Canvas, Rect, Scale, fill, shorten, text, text_width
from svg_runtime.live.overlay.view import View

_PADDING, _BASELINE = 10, 14
_WHAT = "The model does not fit"
_ADVICE = f"adapt one: {ADAPT_COMMAND}"


class Banner:
    """What is wrong on the left, what to do on the right."""

    def __init__(self, rect: Rect, scale: Scale) -> None:
        self._rect = rect
        self._scale = scale

    def draw_static(self, canvas: Canvas) -> None:
        """Draw nothing: a model that fits has no banner."""

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the reasons and the advice, if the model does not fit."""
        if not view.misfit:
            return
        rect, size, padding = self._rect, self._scale.small, self._scale.near(_PADDING)
        baseline = rect.y + self._scale.near(_BASELINE)
        fill(canvas, rect, WARNING)
        left, right = rect.x + padding, rect.right - padding
        text(canvas, _WHAT, left, baseline, size=size, color=BACKGROUND, weight=SEMIBOLD)
        text(canvas, _ADVICE, right, baseline, size=size, color=BACKGROUND, align="right")
        left += text_width(_WHAT, size, SEMIBOLD) + padding
        room = right - text_width(_ADVICE, size) - 2 * padding - left
        text(canvas, shorten("; ".join(view.misfit), room, size), left, baseline, size=size, color=BACKGROUND)
