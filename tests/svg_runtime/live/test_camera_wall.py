"""The display of several cameras: tiles, what is said of a camera, and when the wall is drawn."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import pytest

from svg_common.errors import UsageError
from svg_runtime.errors import SourceLostError
from svg_runtime.live.camera_wall import CameraWall
from svg_runtime.live.overlay import Caption, View
from svg_runtime.live.overlay.names import DEFAULT
from svg_runtime.live.overlay.theme import WARNING
from svg_runtime.live.overlay.wall import SMALL_OVERLAYS, TileView, WallPicture, WallView, check_wall, default_overlays
from svg_runtime.live.rounds import Due
from svg_runtime.live.sources import SourceFrame
from svg_runtime.live.stats import STAGES
from svg_runtime.live.timing import StageTimer

SIZE_WH = 1280, 720


def caption(name: str) -> Caption:
    return Caption(
        model="m", backend="b", source=name, samples=2, horizon=3, interval_s=0.1, frame_hw=(64, 64), lead=3
    )  # fmt: skip


def view_of(brightness: int, tick: int = 0) -> View:
    return View(picture=np.full((48, 64), brightness, np.uint8), futures=np.full((2, 3, 64, 64, 1), 0.5, np.float32),
                frame=np.full((64, 64, 1), brightness / 255, np.float32), tick=tick)  # fmt: skip


def wall_of(*tiles: TileView) -> WallView:
    return WallView(picture=np.zeros((1, 1), np.uint8), tiles=tiles)


def picture_of(count: int, size_wh=SIZE_WH) -> WallPicture:
    return WallPicture([caption(f"camera-{n}") for n in range(count)], size_wh, default_overlays(size_wh, count))


@pytest.mark.parametrize("count", range(2, 10))
@pytest.mark.parametrize("size_wh", [SIZE_WH, (1080, 1920)])
def test_tiles_lie_apart_within_the_picture(count, size_wh):
    covered = np.zeros(size_wh[::-1], np.uint8)
    for tile in picture_of(count, size_wh)._tiles:
        assert tile.rect.x >= 0
        assert tile.rect.right <= size_wh[0]
        assert tile.rect.bottom <= size_wh[1]
        tile.rect.of(covered)[:] += 1
    assert covered.max() == 1
    assert covered.mean() > 0.6


def test_what_can_be_read_is_shown():
    assert default_overlays(SIZE_WH, 1) == default_overlays(SIZE_WH, 2) == DEFAULT
    assert default_overlays(SIZE_WH, 4) == default_overlays(SIZE_WH, 9) == SMALL_OVERLAYS
    assert default_overlays((3840, 2160), 9) == DEFAULT
    for overlays in (("contours",), SMALL_OVERLAYS):
        check_wall(SIZE_WH, overlays, 4)
    for size_wh, overlays, count in (
        (SIZE_WH, DEFAULT, 3), ((640, 480), SMALL_OVERLAYS, 9), (SIZE_WH, ("likely", "before"), 9),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="larger one: --display-size"):
            check_wall(size_wh, overlays, count)


def test_only_what_has_changed_is_drawn_anew():
    picture, dark, light = picture_of(4), view_of(40), view_of(200)
    empty = TileView()
    picture.annotate(wall_of(TileView(dark), empty, empty, empty))
    drawn = []

    def noted(number, real):
        return lambda canvas, content: (drawn.append(number), real(canvas, content))

    for number, tile in enumerate(picture._tiles):
        tile.annotate = noted(number, tile.annotate)
    canvas = picture.annotate(wall_of(TileView(dark), TileView(light), empty, TileView(note="waiting")))
    assert drawn == [1, 3]
    assert picture.composed == [1, 1, 0, 0]
    again = picture.annotate(wall_of(TileView(dark), TileView(light), empty, TileView(note="waiting")))
    assert drawn == [1, 3]
    assert np.array_equal(canvas, again)
    assert canvas is not again


@pytest.mark.parametrize("count", [2, 4])
def test_labels_are_those_of_the_newest_forecast(count):
    """As with --adaptive, for which what was asked for was too much."""
    shown, right = (
        WallPicture([replace(caption("gate"), **asked)] * count, SIZE_WH, default_overlays(SIZE_WH, count))
        for asked in ({"samples": 8, "horizon": 12, "lead": 12}, {"score_lead": 12})
    )
    many = np.full((8, 12, 64, 64, 1), 0.5, np.float32)
    began = TileView(replace(view_of(40), futures=many), arrived_s=1.0)
    shown.annotate(wall_of(began, *[TileView()] * (count - 1)))
    tiles = began, *[TileView(view_of(200), arrived_s=2.0)] * (count - 1)
    assert np.array_equal(shown.annotate(wall_of(*tiles)), right.annotate(wall_of(*tiles)))
    assert shown.composed == [1] * count  # a view that is drawn again was counted already


def test_a_clock_that_is_set_back_makes_no_old_forecast_the_newest():
    wall, (lost, camera), _ = open_wall(2, paced=True)
    composed = wait_for_each(wall)
    many, ahead = np.full((8, 12, 64, 64, 1), 0.5, np.float32), datetime.now(timezone.utc) + timedelta(hours=1)
    begun, view = due(0, lost, 0)
    wall.show([(begun, replace(view, futures=many, time=ahead))])
    composed()
    lost.running = False
    wall.show([due(1, camera, 0)])
    wall.finish(keep=True)
    shown = wall._picture._captions[1]
    assert (shown.samples, shown.horizon) == (2, 3)


@pytest.mark.parametrize("count", [2, 4, 9])
def test_a_lost_camera_is_darker_and_says_so(count):
    picture, rest = picture_of(count), [TileView()] * (count - 1)
    rect = picture._tiles[0].rect
    live = rect.of(picture.annotate(wall_of(TileView(view_of(200)), *rest)))
    lost = rect.of(picture.annotate(wall_of(TileView(picture._drawn[0].view, note="lost since 12:00:00"), *rest)))
    assert not (live == WARNING).all(axis=2).any()
    assert (lost == WARNING).all(axis=2).mean() > 0.01
    bright = live[: rect.height // 2] > 150
    bright[:40] = False  # its name stays
    assert lost[: rect.height // 2][bright].mean() < 0.7 * live[: rect.height // 2][bright].mean()


class Shown:
    """Stands for an output."""

    def __init__(self) -> None:
        self.ticks: list[int] = []

    def write(self, picture: np.ndarray, tick: int) -> None:
        self.ticks.append(tick)

    def close(self, keep: bool) -> None: ...


class Camera:
    """Stands for what the wall asks of a CameraRun."""

    def __init__(self, paced: bool) -> None:
        self.running = True
        self.reader = SimpleNamespace(is_paced=paced)
        self.ended_by: Exception | None = None
        self.tick_s = 0.1
        self.stats = SimpleNamespace(
            interval_s=0.1,
            timer=StageTimer(STAGES),
            alarms=SimpleNamespace(active=False),
            stopped_by="end of source",
            ended_at=datetime(2026, 1, 1, 12, 34, 56, tzinfo=timezone.utc),
            not_shown=0,
        )


def due(number: int, camera: Camera, tick: int) -> tuple[Due, View]:
    return Due(number, camera, SourceFrame(np.zeros((4, 4), np.uint8), tick), 0.0), view_of(10 * tick, tick)


def open_wall(count: int, paced: bool = False, shown: Shown | None = None) -> tuple[CameraWall, list[Camera], Shown]:
    cameras, shown = [Camera(paced) for _ in range(count)], shown or Shown()
    wall = CameraWall(cameras=cameras, picture=picture_of(count), outputs=[shown], recorders=[], interval_s=0.1)
    return wall, cameras, shown


def wait_for_each(wall: CameraWall) -> Callable[[], None]:
    """Return what waits until the outputs have every picture that they were given: in real time the newest wins."""
    waiting = wall._writer

    def composed() -> None:
        end = time.monotonic() + 10
        while waiting._waiting:
            assert time.monotonic() < end
            time.sleep(0.001)

    return composed


def test_views_that_are_left_out_are_counted_while_the_run_goes_on():
    gate = threading.Event()

    class Slow(Shown):
        def write(self, picture: np.ndarray, tick: int) -> None:
            assert gate.wait(10)

    wall, (camera,), _ = open_wall(1, paced=True, shown=Slow())
    for tick in range(20):
        wall.show([due(0, camera, tick)])
    counted = camera.stats.not_shown
    gate.set()
    wall.finish(keep=True)
    assert 10 <= counted <= camera.stats.not_shown


class Held(Shown):
    """An output that begins to write late."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def write(self, picture: np.ndarray, tick: int) -> None:
        assert self.gate.wait(10)
        super().write(picture, tick)


@pytest.mark.parametrize("came", [False, True])
def test_beside_a_camera_that_never_came_or_has_ended_no_picture_of_a_file_is_lost(came):
    wall, (camera, file), shown = open_wall(2, paced=True, shown=Held())
    file.reader.is_paced = False
    if came:
        wall.show([due(0, camera, 0)])
        camera.running = False
    threading.Timer(0.1, shown.gate.set).start()
    for tick in range(12):
        wall.show([due(1, file, tick)])
    wall.finish(keep=True)
    assert len(shown.ticks) == 12 + came
    assert (camera.stats.not_shown, file.stats.not_shown) == (0, 0)


def test_no_output_delays_a_camera_that_runs_beside_a_file():
    wall, (camera, file), shown = open_wall(2, paced=True, shown=Held())
    file.reader.is_paced = False
    for tick in range(12):
        wall.show([due(0, camera, tick)])  # would wait forever
        wall.show([due(1, file, tick)])
    shown.gate.set()
    wall.finish(keep=True)
    assert file.stats.not_shown > 0


def test_there_is_one_picture_per_model_interval():
    """Cameras that are not due together share it; one that starts late begins at the present."""
    wall, (first, second), shown = open_wall(2)
    for tick in range(3):
        wall.show([due(0, first, tick)])
        if tick:
            wall.show([due(1, second, tick - 1)])  # in the same interval
    wall.show([due(0, first, 6), due(1, second, 5)])
    wall.finish(keep=True)
    assert shown.ticks == [0, 1, 2, 6]
    assert first.stats.timer.summary()["end_to_end"]["count"] == 4
    assert second.stats.timer.summary()["end_to_end"]["count"] == 3


def test_no_picture_is_lost_of_a_file_that_is_slower():
    """It goes on at its own rate, with every second interval, after the other has ended."""
    wall, (fast, slow), shown = open_wall(2)
    wall.show([due(0, fast, 0), due(1, slow, 0)])
    for tick in range(1, 9):
        wall.show([due(0, fast, tick)])
    wall.show([due(0, fast, 9), due(1, slow, 2)])
    fast.running = False
    wall.show([])
    for tick in range(4, 12, 2):
        wall.show([due(1, slow, tick)])
    wall.finish(keep=True)
    assert shown.ticks == [*range(10), 11, 13, 15, 17]
    assert (fast.stats.not_shown, slow.stats.not_shown) == (0, 0)
    assert fast.stats.timer.summary()["end_to_end"]["count"] == 10
    assert slow.stats.timer.summary()["end_to_end"]["count"] == 6


@pytest.mark.parametrize(("paced", "ticks"), [(False, [0, 1]), (True, [0, 1, 2])])
def test_the_first_picture_of_a_camera_that_joins_is_shown(paced, ticks):
    wall, (first, second), shown = open_wall(2, paced)
    composed = wait_for_each(wall)
    wall.show([due(0, first, 0)])
    composed()
    wall.show([due(1, second, 0)])
    composed()
    wall.show([due(0, first, 1), due(1, second, 1)])
    wall.finish(keep=True)
    assert shown.ticks == ticks
    assert (first.stats.not_shown, second.stats.not_shown) == (0, 0)


def test_a_camera_in_real_time_that_is_behind_one_that_has_ended_goes_on():
    wall, (ahead, behind), shown = open_wall(2, paced=True)
    composed = wait_for_each(wall)
    wall.show([due(0, ahead, 0), due(1, behind, 0)])
    composed()
    wall.show([due(0, ahead, 20)])
    composed()
    ahead.running = False
    for tick in range(1, 6):
        wall.show([due(1, behind, tick)])
        composed()
    wall.finish(keep=True)
    assert shown.ticks == [0, 20, 21, 22, 23, 24]
    assert behind.stats.not_shown == 1  # which shared the interval of the one ahead


def test_cameras_in_real_time_that_are_not_due_together_share_every_interval():
    wall, (first, second), shown = open_wall(2, paced=True)
    composed = wait_for_each(wall)
    for tick in range(20):
        wall.show([due(0, first, tick)])
        composed()
        wall.show([due(1, second, tick)])
        composed()
    wall.finish(keep=True)
    assert len(shown.ticks) == 21  # one more, with which the second joined
    assert (first.stats.not_shown, second.stats.not_shown) == (0, 0)


def test_what_is_said_of_a_camera(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("svg_runtime.live.camera_wall.time.monotonic", lambda: now[0])
    wall, cameras, _ = open_wall(2, paced=True)
    notes = lambda: [wall._note(camera, shown, now[0]) for camera, shown in zip(cameras, wall._shown, strict=True)]  # noqa: E731
    assert notes() == ["waiting for the first picture"] * 2
    wall.show([due(0, cameras[0], 0)])
    now[0] += 4
    assert notes()[0] == "no picture for 4 s"
    cameras[0].stats.interval_s = 2.0  # as a slow camera's own step: then the next picture is only due
    assert notes()[0] == ""
    for camera, error in zip(cameras, (SourceLostError("gone"), None), strict=True):
        camera.running = False
        camera.ended_by = error
    first, second = notes()
    assert re.fullmatch(r"lost since (\S+ )?\d\d:\d\d:\d\d", first)
    assert second == "ended at 2026-01-01 12:34:56: end of source"  # it never gave a picture
    monkeypatch.setattr("svg_runtime.live.camera_wall.datetime", SimpleNamespace(now=lambda _: cameras[1].stats.ended_at))
    first, second = notes()
    assert re.fullmatch(r"lost since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", first)
    assert second == "ended at 12:34:56: end of source"
    wall.finish(keep=False)
