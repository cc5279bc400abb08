"""Panel: one line at the foot of the picture when it carries nothing, or when the model does not fit what it sees."""

from __future__ import annotations

from svg_runtime.bundle.reader import ADAPT_COMMAND
from svg_runtime.live.overlay.theme import BACKGROUND, SEMIBOLD, WARNING, Canvas, Rect, Scale, fill, shorten, text, text_width
from svg_runtime.live.overlay.view import Trouble, View
from svg_runtime.live.roi import REGION_OUTSIDE

_PADDING, _BASELINE = 10, 14
_WHAT = "The model does not fit"
_ADVICE = f"adapt one: {ADAPT_COMMAND}"
_TROUBLES: dict[Trouble, tuple[str, str, str]] = {  # what, why, advice
    "blank": ("The picture is of one colour", "the lens is covered, or it is dark", "look at the camera"),
    "frozen": ("The picture is frozen", "nothing in it changes", "look at the camera"),
    "roi_outside": ("No forecasts", REGION_OUTSIDE, "give another --roi"),
}


class Banner:
    """What is wrong on the left, what to do on the right."""

    def __init__(self, rect: Rect, scale: Scale) -> None:
        self._rect = rect
        self._scale = scale

    def draw_static(self, canvas: Canvas) -> None:
        """Draw nothing: a model that fits has no banner."""

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw what is wrong."""
        problem = problem_of(view)
        if problem is not None:
            self._draw(canvas, *problem)

    def _draw(self, canvas: Canvas, what: str, why: str, advice: str) -> None:
        rect, size, padding = self._rect, self._scale.small, self._scale.near(_PADDING)
        baseline = rect.y + self._scale.near(_BASELINE)
        fill(canvas, rect, WARNING)
        left, right = rect.x + padding, rect.right - padding
        text(canvas, what, left, baseline, size=size, color=BACKGROUND, weight=SEMIBOLD)
        text(canvas, advice, right, baseline, size=size, color=BACKGROUND, align="right")
        left += text_width(what, size, SEMIBOLD) + padding
        room = right - text_width(advice, size) - 2 * padding - left
        text(canvas, shorten(why, room, size), left, baseline, size=size, color=BACKGROUND)


def problem_of(view: View) -> tuple[str, str, str] | None:
    """What is wrong, why, and what to do; that the picture carries nothing comes before a model that does not fit it."""
    if view.trouble is not None:
        return _TROUBLES[view.trouble]
    return (_WHAT, "; ".join(view.misfit), _ADVICE) if view.misfit else None
