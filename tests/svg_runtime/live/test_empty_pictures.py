"""Pictures that carry nothing are noticed, and pictures that only look like it are not."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_runtime.live.empty_pictures import FROZEN_AFTER_S, PictureCheck
from svg_runtime.live.events import EventLog
from svg_runtime.live.overlay import Caption, ForecastPicture, View
from svg_runtime.live.sources.files import FileSource
from svg_runtime.live.stop import StopRequest

RNG = np.random.default_rng(0)
SCENE = np.linspace(40, 200, 96, dtype=np.float32)[None, :, None] * np.ones((72, 1, 3), np.float32)


def noisy(picture: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    return np.clip(picture + RNG.normal(0, sigma, picture.shape), 0, 255).astype(np.uint8)


def verdicts(pictures, interval_s: float = 0.1, steps: int = 1) -> tuple[list[str | None], dict[str, int]]:
    events = EventLog()
    check = PictureCheck(interval_s, events)
    return [check.add(picture, steps) for picture in pictures], dict(events.counts)


@pytest.mark.parametrize("level", [0, 8, 128, 255])
@pytest.mark.parametrize("size", [(64, 64), (480, 640, 3)])
def test_one_colour_with_the_noise_of_a_sensor_is_blank_at_once(level, size):
    found, events = verdicts([noisy(np.full(size, level, np.float32), 1.5) for _ in range(8)])
    assert found == ["blank"] * 8
    assert events == {"blank_picture": 1}


def test_a_dark_scene_and_a_white_wall_are_not_blank():
    night = np.zeros((480, 640, 3), np.uint8)
    night[100:130, 200:240] = 60  # a window far away
    wall = noisy(SCENE * 0.1 + 200)  # the light comes from one side
    assert verdicts([night, wall])[0] == [None, None]


def test_a_short_fade_to_black_is_counted_but_not_said():
    pictures = [noisy(SCENE), *[np.zeros((72, 96, 3), np.uint8)] * 3, noisy(SCENE)]
    assert verdicts(pictures) == ([None, "blank", "blank", "blank", None], {})


def test_the_beginning_and_the_end_are_said_once():
    black = [np.zeros((72, 96, 3), np.uint8)] * 20
    _, events = verdicts([*black, noisy(SCENE), *black, noisy(SCENE)])
    assert events == {"blank_picture": 2, "picture_back": 2}


def test_the_same_picture_is_frozen_after_a_while_and_until_it_changes():
    still = noisy(SCENE)
    found, events = verdicts([still] * 130 + [noisy(SCENE)])
    first = found.index("frozen")
    assert first * 0.1 == pytest.approx(FROZEN_AFTER_S, abs=0.11)
    assert found == [None] * first + ["frozen"] * (130 - first) + [None]
    assert events == {"frozen_picture": 1, "picture_back": 1}


def test_a_driver_that_gives_its_last_buffers_in_turns_is_frozen():
    buffers = [noisy(SCENE) for _ in range(4)]
    assert verdicts([buffers[n % 4] for n in range(130)])[0][-1] == "frozen"


def test_a_camera_that_looks_at_a_still_scene_is_not_frozen():
    assert set(verdicts([noisy(SCENE, 0.4) for _ in range(200)])[0]) == {None}


def test_the_synthetic_camera_is_neither():
    draw = digit_stream(0, num_digits=1, image_size=64)
    assert set(verdicts([(draw() * 255).astype(np.uint8) for _ in range(300)])[0]) == {None}


def test_time_is_that_of_the_pictures():
    still = noisy(SCENE)
    assert "frozen" not in verdicts([still] * 130, interval_s=1 / 30)[0]
    assert verdicts([still] * 30, interval_s=0.5)[0][-1] == "frozen"


def test_time_passes_where_pictures_are_dropped():
    still, black = noisy(SCENE), np.zeros((72, 96, 3), np.uint8)
    assert verdicts([still] * 25, steps=5)[0].index("frozen") == 20  # half a second each
    assert verdicts([still, black, noisy(SCENE)], steps=5)[1] == {}  # it may have been black for a tenth
    assert verdicts([still, black, black, noisy(SCENE)], steps=5)[1] == {"blank_picture": 1, "picture_back": 1}


def write_still_scene(path: Path, keyframe_s: float, noise: float, seconds: int = 30) -> Path:
    """A still scene as a camera of 10 fps sends it: at a low bit rate the noise is gone but for the key frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "32", "preset": "veryfast", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        stream.codec_context.gop_size = round(keyframe_s * 10)
        for _ in range(seconds * 10):
            picture = noisy(SCENE, noise) if noise else SCENE.astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_still_scene_in_compressed_video_is_not_frozen_as_long_as_key_frames_come(tmp_path):
    path = write_still_scene(tmp_path / "still.mp4", keyframe_s=5, noise=2.0)
    pictures = [frame.image for frame in FileSource(path, 0.1, StopRequest(), EventLog()).frames()]
    same = [np.array_equal(a, b) for a, b in itertools.pairwise(pictures)]
    assert sum(same) > 100  # the encoder copied most of them, or this test proves nothing
    assert set(verdicts(pictures)[0]) == {None}


def test_a_single_picture_as_video_is_frozen(tmp_path):
    path = write_still_scene(tmp_path / "paused.mp4", keyframe_s=60, noise=0.0)
    found, _ = verdicts([frame.image for frame in FileSource(path, 0.1, StopRequest(), EventLog()).frames()])
    assert found[-1] == "frozen"


@pytest.mark.parametrize("trouble", ["blank", "frozen", "roi_outside"])
def test_the_banner_says_it_before_that_the_model_does_not_fit(trouble):
    picture = ForecastPicture(Caption("m.svgb", "cpu, fp32", "a camera", 4, 4, 0.1, (64, 64), 4))
    plain, misfit, both, alone = (
        picture.annotate(View(noisy(SCENE) * 0, trouble=trouble if has_trouble else None, misfit=("dark",) if misfits else ()))
        for has_trouble, misfits in ((False, False), (False, True), (True, True), (True, False))
    )
    assert np.array_equal(both, alone)
    assert not np.array_equal(alone, misfit)
    assert (alone != plain).any(-1).any(1).nonzero()[0].min() > 690  # nothing else changes
