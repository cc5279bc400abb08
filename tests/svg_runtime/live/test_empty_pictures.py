"""Pictures that carry nothing are noticed, and pictures that only look like it are not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_runtime.live.empty_pictures import PictureCheck
from svg_runtime.live.events import EventLog
from svg_runtime.live.overlay import Caption, ForecastPicture, View
from svg_runtime.live.sources.files import FileSource
from svg_runtime.live.standstill import FROZEN_AFTER_S, STOPPED_AFTER_S
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


def moving(count: int, speed: float = 3.0, first: int = 0) -> list[np.ndarray]:
    """A bright bar passes over a still scene again and again, in front of a sensor without noise."""
    return [with_bar(int(number * speed) % 80) for number in range(first, first + count)]


def with_bar(left: int) -> np.ndarray:
    picture = SCENE.astype(np.uint8)
    picture[20:50, left : left + 16] = 250
    return picture


def test_a_picture_that_stops_in_full_motion_is_frozen_after_a_second():
    pictures = moving(150)
    found, events = verdicts([*pictures, *[pictures[-1]] * 30, *moving(20, first=151)])
    assert found.index("frozen") - 149 == pytest.approx(STOPPED_AFTER_S / 0.1, abs=1)
    assert set(found[165:180]) == {"frozen"}
    assert set(found[180:]) == {None}
    assert events == {"frozen_picture": 1, "picture_back": 1}


def test_the_event_tells_for_how_long_it_was_the_same():
    messages = []
    check = PictureCheck(0.1, EventLog(announce=messages.append))
    pictures = moving(150)
    for picture in [*pictures, *[pictures[-1]] * 30]:
        check.add(picture)
    assert re.search(r"has stood still for 1(\.1)? s", messages[0])


def test_what_comes_to_rest_or_leaves_is_not_frozen():
    before = moving(160, first=160)  # the last one has the bar at column 77
    slower = [with_bar(int(77 - way)) for way in np.cumsum(np.linspace(3, 0, 20))]
    leaving = [with_bar(left) for left in range(80, 100, 3)]
    for end in (slower, leaving):
        assert set(verdicts([*before, *end, *[end[-1]] * 80])[0]) == {None}


def test_what_vanishes_may_look_frozen_until_it_is_known_for_how_long_pictures_stay_the_same():
    gone = [SCENE.astype(np.uint8)] * 40
    _, events = verdicts([*moving(150), *gone, *moving(150), *gone])
    assert events == {"frozen_picture": 1, "picture_back": 1}


def test_a_picture_that_stops_too_early_to_know_what_is_usual_is_not_frozen():
    pictures = moving(90)
    assert set(verdicts([*pictures, *[pictures[-1]] * 80])[0]) == {None}


def test_a_camera_that_often_repeats_its_pictures_is_frozen_when_it_does_so_for_longer_than_ever():
    pictures = [picture for number, picture in enumerate(moving(60)) for _ in range(1 + 5 * (number % 20 == 10))]
    pictures += moving(60, first=60)
    found = verdicts([*pictures, *[pictures[-1]] * 40])[0]
    assert set(found[: len(pictures)]) == {None}
    assert found.index("frozen") + 1 - len(pictures) == pytest.approx(3 * 5, abs=1)


def test_a_slow_camera_needs_five_pictures():
    pictures = moving(150)
    found = verdicts([*pictures, *[pictures[-1]] * 10], interval_s=0.5)[0]
    assert found.index("frozen") - 149 == 5


@pytest.mark.parametrize("steps", [5, 10])
def test_where_pictures_are_dropped_one_that_comes_twice_is_not_frozen(steps):
    pictures = moving(150)
    assert set(verdicts([*pictures, *[pictures[-1]] * 4], steps=steps)[0]) == {None}
    assert verdicts([*pictures, *[pictures[-1]] * 5], steps=steps)[0][-1] == "frozen"
    stalled = PictureCheck(0.1, EventLog())
    assert {stalled.add(picture) for picture in pictures} == {None}
    assert stalled.add(pictures[-1], 10) is None


def test_what_is_usual_is_known_after_ten_seconds_however_many_pictures_are_dropped():
    for seconds, knows in ((9, False), (11, True)):
        pictures = moving(2 * seconds)
        found = verdicts([*pictures, *[pictures[-1]] * 6], steps=5)[0]
        assert ("frozen" in found) == knows


@pytest.mark.parametrize(("levels", "stops"), [(1, False), (30, True)])
def test_what_hardly_changes_anyway_does_not_stop(levels, stops):
    pictures = [SCENE.astype(np.uint8) for _ in range(150)]
    for number, picture in enumerate(pictures):
        picture[20:50, 3 * number % 80 :][:, :16] += levels
    assert ("frozen" in verdicts([*pictures, *[pictures[-1]] * 80])[0]) == stops


def test_however_long_pictures_stay_the_same_ten_seconds_are_enough():
    still = [with_bar(0)] * 60
    pictures = [*moving(50), *still, *moving(150)]
    found = verdicts([*pictures, *[pictures[-1]] * 110])[0]
    assert found.index("frozen") + 1 - len(pictures) == pytest.approx(FROZEN_AFTER_S / 0.1, abs=1)


def test_after_an_hour_a_standstill_is_forgotten():
    check = PictureCheck(0.1, EventLog())
    for picture in [*moving(150), *[with_bar(0)] * 60, *moving(150)]:
        assert check.add(picture) != "blank"
    for hour in (False, True):
        if hour:
            for picture in moving(7200):
                check.add(picture, 5)
        for picture in moving(120):
            check.add(picture)
        assert ("frozen" in [check.add(with_bar(40)) for _ in range(20)]) == hour


def test_a_picture_held_over_a_missing_one_of_a_time_lapse_is_not_frozen(svg_live):
    Path("lapse").mkdir()
    for number in set(range(8)) - {4}:
        picture = np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)
        cv2.imwrite(f"lapse/{number:04d}.png", picture)
    code, stderr, stats = svg_live("--headless", "--source", "lapse", "--source-fps", "0.1", "--json", "stats.json")
    assert code == 0, stderr
    assert (stats["frames"]["held"], "frozen_picture" in stats["events"]["counts"]) == (1, False)


def test_a_new_clip_that_begins_with_a_still_is_not_frozen(svg_live):
    Path("clips").mkdir()
    write_compressed(Path("clips/1.mp4"), moving(150), keyframe_s=5, crf=0)
    write_compressed(Path("clips/2.mp4"), [*[SCENE.astype(np.uint8)] * 30, *moving(10)], keyframe_s=5, crf=0)
    code, stderr, stats = svg_live("--headless", "--source", "clips", "--json", "stats.json", "--horizon", "2")
    assert code == 0, stderr
    assert stats["events"]["counts"]["new_clip"] == 1
    assert stats["frames"]["frozen"] == 0


def test_black_pictures_are_no_standstill():
    black = [np.zeros((72, 96, 3), np.uint8)] * 50
    pictures = [*moving(50), *black, *moving(150)]
    found = verdicts([*pictures, *[pictures[-1]] * 20])[0]
    assert found.index("frozen") + 1 - len(pictures) == pytest.approx(STOPPED_AFTER_S / 0.1, abs=1)


def test_what_is_usual_at_another_size_is_learned_anew():
    small = [picture[::2, ::2] for picture in moving(150)]
    for seconds, knows in ((9, False), (11, True)):
        pictures = moving(10 * seconds)
        found = verdicts([*small, *pictures, *[pictures[-1]] * 20])[0]
        assert ("frozen" in found) == knows


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
    assert verdicts([still] * 3, interval_s=5)[0] == [None, None, "frozen"]


def test_time_passes_where_pictures_are_dropped():
    still, black = noisy(SCENE), np.zeros((72, 96, 3), np.uint8)
    assert verdicts([still] * 25, steps=5)[0].index("frozen") == 20  # half a second each
    assert verdicts([still, black, noisy(SCENE)], steps=5)[1] == {}  # it may have been black for a tenth
    assert verdicts([still, black, black, noisy(SCENE)], steps=5)[1] == {"blank_picture": 1, "picture_back": 1}


def write_compressed(path: Path, pictures: Iterable[np.ndarray], keyframe_s: float, crf: int = 32) -> Path:
    """What a camera of 10 fps sends at a low bit rate; with a `crf` of 0 nothing is lost."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": str(crf), "preset": "veryfast", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        stream.codec_context.gop_size = round(keyframe_s * 10)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_still_scene(path: Path, keyframe_s: float, noise: float, seconds: int = 30) -> Path:
    """A still scene: compressed, its noise is gone but for the key frames."""
    return write_compressed(path, (noisy(SCENE, noise) for _ in range(seconds * 10)), keyframe_s)


def decoded(path: Path) -> list[np.ndarray]:
    return [frame.image for frame in FileSource(path, 0.1, StopRequest(), EventLog()).frames()]


def test_a_still_scene_in_compressed_video_is_not_frozen_as_long_as_key_frames_come(tmp_path):
    path = write_still_scene(tmp_path / "still.mp4", keyframe_s=5, noise=2.0)
    pictures = decoded(path)
    same = [np.array_equal(a, b) for a, b in itertools.pairwise(pictures)]
    assert sum(same) > 100  # the encoder copied most of them, or this test proves nothing
    assert set(verdicts(pictures)[0]) == {None}


def test_a_single_picture_as_video_is_frozen(tmp_path):
    path = write_still_scene(tmp_path / "paused.mp4", keyframe_s=60, noise=0.0)
    assert verdicts(decoded(path))[0][-1] == "frozen"


def test_compressed_video_is_frozen_where_the_camera_hangs_and_not_where_all_has_left(tmp_path):
    passing = [*moving(160, first=160), *(with_bar(left) for left in range(80, 100, 3))]
    scenes = [noisy(picture.astype(np.float32)) for picture in [*passing, *[SCENE] * 90]]
    pictures = decoded(write_compressed(tmp_path / "passing.mp4", scenes, keyframe_s=5))
    same = [np.array_equal(a, b) for a, b in itertools.pairwise(pictures)]
    assert not any(same[:159])
    assert sum(same[167:]) > 30  # the encoder copied many of them, or this test proves nothing
    assert set(verdicts(pictures)[0]) == {None}
    hanging = verdicts([*pictures[:140], *[pictures[139]] * 20])[0]
    assert hanging.index("frozen") - 139 == pytest.approx(STOPPED_AFTER_S / 0.1, abs=1)


def test_a_sensor_that_hangs_before_its_encoder_is_frozen_though_pictures_still_differ(tmp_path):
    passing = [noisy(picture.astype(np.float32)) for picture in moving(140)]
    pictures = decoded(write_compressed(tmp_path / "hangs.mp4", [*passing, *[passing[-1]] * 40], keyframe_s=30, crf=26))
    same = [np.array_equal(a, b) for a, b in itertools.pairwise(pictures)]
    assert not all(same[139:150])  # the encoder goes on refining, or this test proves nothing
    found = verdicts(pictures)[0]
    assert set(found[:140]) == {None}
    assert found.index("frozen") - 139 == pytest.approx(STOPPED_AFTER_S / 0.1, abs=3)


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
