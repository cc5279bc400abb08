"""What is known of a scene is forgotten where another one begins, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from svg_runtime.forecast.scores import ForecastScore
from svg_runtime.live.camera_run import CameraRun
from svg_runtime.live.page.controls import Change
from svg_runtime.live.roi import parse_roi
from svg_runtime.live.source_reader import SourceReader
from svg_runtime.live.sources import SourceFrame
from svg_runtime.live.stop import StopRequest
from tests.svg_runtime.live.page.page_helpers import CAPTION, STEP_S, make_stats

BUSY, CALM = "0,0,64,64", "64,0,64,64"
RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 200, (64, 128, 3), np.uint8)


@pytest.fixture
def camera() -> CameraRun:
    """One that looks at the left half of its pictures."""
    return CameraRun(
        reader=SourceReader(lambda stop: pytest.fail("it is not opened"), StopRequest(), STEP_S),
        description="wall",
        caption=CAPTION,
        stats=make_stats(),
        manifest=Bundle.open(EMBEDDED_MODEL).manifest,
        reset_model=lambda: None,
        tick_s=STEP_S,
        roi=parse_roi(BUSY, "roi"),
    )


def show(camera: CameraRun, count: int, first: int = 0) -> int:
    """Show pictures in whose left half a bar moves, and say how many of them count as frozen."""
    before = camera.stats.frozen
    for number in range(first, first + count):
        picture = SCENE.copy()
        picture[:, 3 * number % 48 :][:, :16] = 250
        camera.prepare(SourceFrame(picture, tick=number))
    return camera.stats.frozen - before


def test_a_calm_region_that_is_chosen_on_the_page_is_no_busy_one_that_stops(camera):
    assert show(camera, 150) == 0
    camera.apply(Change(roi=CALM))
    assert show(camera, 60, first=150) == 0


NEXT = {
    "region": ({}, Change(roi=CALM), True),
    "reset": ({}, Change(reset=True), True),
    "threshold": ({}, Change(threshold=3.0), False),
    "size": ({"image": np.tile(SCENE, (2, 1, 1))}, None, True),
    "video": ({"clip": 1}, None, True),
    "pause": ({"clip": 1, "pause_s": 5.0}, None, False),
    "reconnected": ({"clip": 1, "reconnected": True}, None, False),
    "loop": ({"clip": 1, "again": True}, None, False),
}


@pytest.mark.parametrize(("frame", "change", "new_scene"), NEXT.values(), ids=NEXT.keys())
def test_whether_the_model_fits_is_judged_anew_in_another_scene(camera, frame, change, new_scene):
    show(camera, 1)
    fit = camera.stats.fit
    for _ in range(110):
        fit.add(np.zeros((4, 4, 1), np.float32), [ForecastScore(1, 0.0, 0.0, mse_model=0.1, mse_repeat=0.01)])
    assert fit.reasons
    if change is not None:
        camera.apply(change)
    camera.prepare(SourceFrame(**{"image": SCENE, "tick": 1, **frame}))
    assert (fit.reasons == (), fit.gain_db() is None) == (new_scene, new_scene)
