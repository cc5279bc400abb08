"""The picture shows what it was given: panels follow their data and nothing else."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from svg_runtime.live.overlay import Caption, ForecastPicture, View
from svg_runtime.live.overlay.images import heat_map, put_picture
from svg_runtime.live.overlay.layout import DEFAULT_SIZE_WH, Layout, make_frame, shown_steps
from svg_runtime.live.overlay.layout import make_layout as layout_in
from svg_runtime.live.overlay.theme import ACCENT, WARNING, Rect, shorten, text, text_width
from svg_runtime.live.overlay.trace_panel import _known_runs, _round_up


def caption(samples: int = 8, horizon: int = 10, frame_hw: tuple[int, int] = (64, 64), lead: int = 10) -> Caption:
    return Caption("m.svgb", "cpu, fp32", "synthetic://digits", samples, horizon, 0.1, frame_hw, min(lead, horizon))


WIDTH, HEIGHT = DEFAULT_SIZE_WH


def make_layout(frame_hw: tuple[int, int], samples: int, horizon: int, size_wh: tuple[int, int] = DEFAULT_SIZE_WH) -> Layout:
    frame = make_frame(size_wh)
    return layout_in(tile=frame.body, scale=frame.scale, frame_hw=frame_hw, samples=samples, horizon=horizon)


def futures(samples: int = 8, horizon: int = 10, shape: tuple[int, ...] = (64, 64, 1)) -> np.ndarray:
    return np.random.default_rng(0).random((samples, horizon, *shape), dtype=np.float32)


def changed(a: np.ndarray, b: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.where((a != b).any(-1))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


@pytest.mark.parametrize(
    ("samples", "horizon", "shape"),
    [
        (8, 10, (64, 64, 1)),
        (1, 1, (64, 64, 3)),
        (2, 3, (128, 128, 1)),
        (16, 40, (64, 64, 3)),
        (4, 10, (48, 96, 3)),
        (4, 10, (96, 48, 1)),
    ],
)
def test_any_model_gives_a_picture_of_the_same_size(samples, horizon, shape):
    picture = ForecastPicture(caption(samples, horizon, shape[:2]))
    trace = traced([None, 1.0, 2.0])
    view = View(np.zeros((48, 64, 3), np.uint8), futures(samples, horizon, shape), **trace)
    canvas = picture.annotate(view)
    assert canvas.shape == (HEIGHT, WIDTH, 3)
    assert canvas.dtype == np.uint8
    margin = np.ones((HEIGHT, WIDTH), bool)
    margin[20 : HEIGHT - 20, 30 : WIDTH - 30] = False
    assert len(np.unique(canvas[margin], axis=0)) == 1  # nothing is drawn over the margin


@pytest.mark.parametrize("frame_hw", [(64, 64), (48, 96), (96, 48)])
@pytest.mark.parametrize(("samples", "horizon"), [(1, 1), (4, 10), (9, 33)])
@pytest.mark.parametrize("size_wh", [(1280, 720), (640, 480), (3840, 2160), (720, 1280)])
def test_panels_do_not_overlap(frame_hw, samples, horizon, size_wh):
    layout = make_layout(frame_hw, samples, horizon, size_wh)
    panels = [layout.live, layout.mean, layout.spread, layout.bar, layout.trace, layout.status]
    panels += [cell for row in layout.cells for cell in row]
    taken = np.zeros(size_wh[::-1], int)
    for panel in panels:
        taken[panel.y : panel.bottom, panel.x : panel.right] += 1
    assert taken.max() == 1
    assert sum(panel.width * panel.height for panel in panels) == taken.sum()  # none leaves the canvas


def test_cell_shows_its_sample_at_its_step():
    made = np.zeros((8, 10, 64, 64, 1), np.float32)
    picture = ForecastPicture(caption())
    before = picture.annotate(View(np.zeros((64, 64), np.uint8), made.copy()))
    made[2, 6] = 1.0
    after = picture.annotate(View(np.zeros((64, 64), np.uint8), made))
    cell = make_layout((64, 64), 8, 10).cells[2][6]
    rows, columns = changed(before, after)
    assert (rows, columns) == (slice(cell.y, cell.bottom), slice(cell.x, cell.right))
    assert after[cell.y + 5, cell.x + 5].tolist() == [255, 255, 255]


def test_mean_and_spread_are_those_of_the_chosen_step():
    made = np.zeros((2, 10, 64, 64, 1), np.float32)
    made[0, 3] = 1.0  # mean 0.5, std 0.5
    layout = make_layout((64, 64), 2, 10)
    canvas = ForecastPicture(caption(samples=2, lead=4)).annotate(View(np.zeros((64, 64), np.uint8), made))
    assert np.unique(canvas[layout.mean.y : layout.mean.bottom, layout.mean.x : layout.mean.right]).tolist() == [128]
    top_of_scale = cv2.applyColorMap(np.full((1, 1), 255, np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    assert np.array_equal(canvas[layout.spread.y + 9, layout.spread.x + 9], top_of_scale)
    other = ForecastPicture(caption(samples=2, lead=5)).annotate(View(np.zeros((64, 64), np.uint8), made))
    assert other[layout.mean.y + 9, layout.mean.x + 9].tolist() == [0, 0, 0]


def test_the_previous_picture_leaves_no_trace():
    picture = ForecastPicture(caption())
    first = View(np.zeros((64, 64), np.uint8), waiting=2)
    clean = picture.annotate(first)
    picture.annotate(View(np.full((64, 64), 200, np.uint8), futures(), fps=30, seen=100, **traced([1.0] * 100)))
    assert np.array_equal(picture.annotate(first), clean)


def test_live_picture_is_cropped_as_the_model_sees_it():
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, :100] = (255, 0, 0)
    wide[:, 200:] = (0, 0, 255)
    canvas = np.zeros((50, 50, 3), np.uint8)
    put_picture(canvas, Rect(0, 0, 50, 50), wide)
    assert canvas.max() == 0  # both colored thirds are cut away


@pytest.mark.parametrize("size_hw", [(40, 1), (1, 40)])
def test_a_picture_one_pixel_wide_is_drawn(size_hw):
    for rect in (Rect(0, 0, 300, 50), Rect(0, 0, 50, 300)):
        canvas = np.zeros((rect.height, rect.width, 3), np.uint8)
        put_picture(canvas, rect, np.full((*size_hw, 3), 200, np.uint8))
        assert canvas.min() == 200


def test_surprise_trace_is_broken_where_it_is_unknown():
    trace = list(enumerate([None, 1.0, 2.0, None, None, 3.0]))
    assert list(_known_runs(trace)) == [[(1, 1.0), (2, 2.0)], [(5, 3.0)]]


def traced(surprise: list[float | None], step_s: float = 0.1) -> dict[str, Any]:
    """What a view has of frames so far apart, of which the last is that of the view."""
    times_s = [step_s * number for number in range(len(surprise))]
    return {"trace_s": deque(times_s), "surprise": deque(surprise), "position_s": times_s[-1]}


def trace_of(view: View, signal: str | None) -> np.ndarray:
    """The picture around the trace, its title and its axis."""
    picture = ForecastPicture(replace(caption(), alarm_signal=signal)).annotate(view)
    trace = make_layout((64, 64), 8, 10).trace
    return picture[trace.y - 40 : trace.bottom + 40, trace.x : trace.right].copy()


def colored(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (picture == color).all(-1)


def test_with_alarms_the_trace_shows_their_signal_and_threshold():
    dark = np.zeros((48, 64, 3), np.uint8)
    view = View(dark, signal=deque([-3.0, 1.0, 4.0] * 20), threshold=4.5, **traced([0.1] * 60))
    quiet = trace_of(view, "combined")
    assert colored(quiet, WARNING).any(1).sum() == 1  # one dashed line
    higher = trace_of(replace(view, threshold=4.9), "combined")
    assert colored(higher, WARNING).any(1).argmax() < colored(quiet, WARNING).any(1).argmax()
    alarm = trace_of(replace(view, alarm=True), "combined")
    assert colored(alarm, WARNING)[:40].any()  # the latest value, in the title
    assert not colored(quiet, WARNING)[:40].any()


def test_without_alarms_the_trace_shows_surprise():
    dark = np.zeros((48, 64, 3), np.uint8)
    view = View(dark, **traced([0.1] * 50))
    assert not colored(trace_of(view, None), WARNING).any()
    assert np.array_equal(trace_of(view, None), trace_of(replace(view, signal=deque([4.0] * 50)), None))
    assert not np.array_equal(trace_of(view, None), trace_of(replace(view, surprise=deque([0.2, 0.1] * 25)), None))


def curve_of(view: View) -> tuple[float, float]:
    """Where the curve begins and ends, as shares of the width of its axis."""
    picture = ForecastPicture(caption()).annotate(view)
    trace = make_layout((64, 64), 8, 10).trace
    columns = np.where((trace.of(picture) == ACCENT).all(-1).any(0))[0]
    return columns[0] / trace.width, columns[-1] / trace.width


def test_the_trace_is_drawn_by_time_where_pictures_are_dropped_or_come_slowly():
    """28 frames half a second apart are 13.5 s: more than an axis of 12 s, and a quarter of one of a minute."""
    dark = np.zeros((48, 64, 3), np.uint8)
    dropped = View(dark, **traced([0.1] * 28, step_s=0.5))
    assert curve_of(dropped) == pytest.approx((0.0, 1.0), abs=0.02)
    assert curve_of(replace(dropped, step_s=0.5)) == pytest.approx((1 - 13.5 / 60, 1.0), abs=0.02)
    away = replace(dropped, step_s=0.5, position_s=dropped.position_s + 30.0)  # what came last is old
    assert curve_of(away) == pytest.approx((0.5 - 13.5 / 60, 0.5), abs=0.02)


@pytest.mark.parametrize(("value", "top"), [(0.0, 0.1), (0.11, 0.2), (1.0, 1.0), (1.1, 2.0), (7.0, 10.0), (130.0, 200.0)])
def test_axis_ends_at_a_round_value(value, top):
    assert _round_up(value) == pytest.approx(top)


def test_steps_shown_of_a_long_horizon_end_with_the_last():
    assert shown_steps(10) == list(range(1, 11))
    assert shown_steps(3) == [1, 2, 3]
    steps = shown_steps(47)
    assert len(steps) == 10
    assert steps[-1] == 47


def test_heat_map_clips_above_its_scale():
    colors = heat_map(np.array([[0.0, 0.5, 9.0]], np.float32), 0.5)
    assert np.array_equal(colors[0, 1], colors[0, 2])
    assert not np.array_equal(colors[0, 0], colors[0, 1])


def test_text_is_shortened_to_fit():
    assert text_width(shorten("a very long name of a source " * 5, 200)) <= 200
    assert shorten("short", 200) == "short"


def test_text_works_with_the_stroke_fonts_of_opencv_4(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.overlay.theme._face", lambda: None)
    text_width.cache_clear()
    canvas = np.zeros((40, 200, 3), np.uint8)
    text(canvas, "+1.0 s", 190, 30, align="right")
    text_width.cache_clear()
    columns = np.where(canvas.any((0, 2)))[0]
    assert columns.size > 0
    assert columns.max() <= 192


@pytest.mark.parametrize(
    ("interval_s", "expected"),
    [(0.1, ["+0.1 s", "+0.2 s"]), (0.1001, ["+0.1 s", "+0.2 s"]), (0.2, ["+0.2 s", "+0.4 s"]), (0.25, ["+0.25 s", "+0.50 s"]),
     (0.125, ["+0.12 s", "+0.25 s"]), (1 / 30, ["+0.03 s", "+0.07 s"])],
)  # fmt: skip
def test_lead_times_are_as_fine_as_the_step(interval_s, expected):
    caption = Caption("m", "b", "s", samples=1, horizon=2, interval_s=interval_s, frame_hw=(64, 64), lead=1)
    assert [caption.lead_label(lead) for lead in (1, 2)] == expected
