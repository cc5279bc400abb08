"""Panel: surprise over the last frames, or the signal of alarms with its threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.overlay.layout import title_baseline
from svg_runtime.live.overlay.theme import (
    ACCENT,
    LINE,
    MUTED,
    PANEL,
    SEMIBOLD,
    WARNING,
    Canvas,
    Rect,
    Scale,
    fill,
    shorten,
    text,
    text_width,
)
from svg_runtime.live.overlay.view import TRACE_STEPS, Caption, View

_SHADE = 0.16  # strength of the tint below the curve
_SUBPIXEL_BITS = 4
_DASH = 6  # pixels of the threshold's dashes, and between them
_UNITS = {
    "nats": "KL posterior to prior, nats",
    "relative": "error of the prediction, 1 is usual",
    None: "none: the model has no latents",
}
_SIGNALS = {
    "combined": "Combined signal", "surprise": "Surprise", "error": "Forecast error", "motion": "Motion",
    "scene": "Change of scene", "camera_motion": "Camera motion",
}  # fmt: skip


class TracePanel:
    """How far each frame was from what was expected: the model's surprise; with alarms, the signal that raises them."""

    def __init__(self, rect: Rect, scale: Scale, caption: Caption) -> None:
        self._rect = rect
        self._scale = scale
        self._span_s = TRACE_STEPS * caption.interval_s
        self._has_alarms = caption.alarm_signal is not None
        self._title = "Surprise" if caption.alarm_signal is None else _SIGNALS[caption.alarm_signal]
        self._unit = "standard deviations above the usual" if self._has_alarms else _UNITS[caption.surprise_unit]

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title, unit, and the time axis."""
        rect, scale, baseline = self._rect, self._scale, title_baseline(self._rect, self._scale)
        text(canvas, self._title, rect.x, baseline, size=scale.title, weight=SEMIBOLD)
        room = rect.right - self._value_x - text_width("10.00", scale.title, SEMIBOLD) - scale.near(12)
        if room > text_width(self._unit, scale.small) // 2:  # less would not be understood
            unit = shorten(self._unit, room, scale.small)
            text(canvas, unit, rect.right, baseline, size=scale.small, color=MUTED, align="right")
        fill(canvas, rect, PANEL)
        for share in (0.0, 0.5):
            y = rect.y + round(share * (rect.height - 1))
            cv2.line(canvas, (rect.x, y), (rect.right - 1, y), LINE, scale.px(1))
        below = rect.bottom + scale.near(18)
        text(canvas, f"-{self._span_s:.3g} s", rect.x, below, size=scale.small, color=MUTED)
        text(canvas, "now", rect.right, below, size=scale.small, color=MUTED, align="right")

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the curve, with gaps where the context was reset, the value axis, and the threshold of alarms."""
        scale = self._scale
        values = view.signal if self._has_alarms else view.surprise
        threshold = view.threshold if self._has_alarms else None
        begin_s = view.position_s - self._span_s
        trace = [(time_s, value) for time_s, value in zip(view.trace_s, values, strict=True) if time_s >= begin_s]
        known = [value for _, value in trace if value is not None]
        top = _round_up(max([*known, threshold or 0.0]))
        for value, share in ((top, 0.0), (top / 2, 0.5), (0.0, 1.0)):
            y = self._rect.y + round(share * (self._rect.height - 1))
            text(
                canvas,
                f"{value:g}",
                self._rect.x - scale.near(12),
                y + scale.near(5),
                size=scale.small,
                color=MUTED,
                align="right",
            )
        for run in _known_runs(trace):
            self._draw_run(canvas, run, view.position_s, top)
        if threshold is not None:
            self._draw_threshold(canvas, threshold / top)
        if known:
            latest = f"{known[-1]:.2f}"
            baseline = title_baseline(self._rect, scale)
            color = WARNING if view.alarm else ACCENT
            text(canvas, latest, self._value_x, baseline, size=scale.title, color=color, weight=SEMIBOLD)

    @property
    def _value_x(self) -> int:
        return self._rect.x + text_width(self._title, self._scale.title, SEMIBOLD) + self._scale.near(10)

    def _draw_run(self, canvas: Canvas, run: list[tuple[float, float]], now_s: float, top: float) -> None:
        ago_s = now_s - np.array([time_s for time_s, _ in run])
        positions = (1 - ago_s / self._span_s) * (self._rect.width - 1)
        shares = np.array([max(value, 0.0) for _, value in run]) / top  # less than the usual is not of interest
        heights = (1 - shares) * (self._rect.height - 4) + 2
        points: NDArray[np.float64] = np.stack([positions, heights], 1)
        plot = self._rect.of(canvas)
        foot = [(points[-1, 0], self._rect.height - 1.0), (points[0, 0], self._rect.height - 1.0)]
        shaded = plot.copy()
        cv2.fillPoly(shaded, [np.concatenate([points, foot]).round().astype(np.int32)], ACCENT)
        plot[:] = cv2.addWeighted(shaded, _SHADE, plot, 1 - _SHADE, 0)
        fine = (points * 2**_SUBPIXEL_BITS).round().astype(np.int32)
        curve = np.ascontiguousarray(plot)
        cv2.polylines(curve, [fine], False, ACCENT, self._scale.px(2), cv2.LINE_AA, _SUBPIXEL_BITS)
        plot[:] = curve

    def _draw_threshold(self, canvas: Canvas, share: float) -> None:
        plot, scale = self._rect.of(canvas), self._scale
        y = 2 + round((1 - share) * (self._rect.height - 4))
        for x in range(0, self._rect.width, 2 * scale.px(_DASH)):
            cv2.line(plot, (x, y), (x + scale.px(_DASH) - 1, y), WARNING, scale.px(1))


def _known_runs(trace: Sequence[tuple[float, float | None]]) -> Iterator[list[tuple[float, float]]]:
    """Split pairs of time and value into runs without an unknown value."""
    run: list[tuple[float, float]] = []
    for time_s, value in trace:
        if value is not None:
            run.append((time_s, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _round_up(value: float) -> float:
    """Next value of 1, 2, 5, 10, 20, ... above `value`, at least 0.1."""
    power = 10.0 ** math.floor(math.log10(max(value, 0.1)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= max(value, 0.1) * 0.999)
