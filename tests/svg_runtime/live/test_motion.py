"""Motion: unusual where nothing ever moves, or faster than what else moves there; usual where it always is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from svg_runtime.live.motion import Motion

STEP_S = 0.1
RNG = np.random.default_rng(0)
STREET = cv2.GaussianBlur(RNG.random((64, 96, 3), dtype=np.float32), (0, 0), 2.0) * 4 - 1.5
TEXTURE = cv2.GaussianBlur(RNG.random((12, 12, 3), dtype=np.float32), (0, 0), 1.5) * 4 - 1.5


def street(x: float | None = None, y: float = 40.0, noise: float = 0.01) -> np.ndarray:
    """The street, and something at (x, y) in it."""
    picture = STREET.copy()
    if x is not None:
        place = np.array([[1, 0, x], [0, 1, y]], np.float32)
        mask = cv2.warpAffine(np.ones((12, 12), np.float32), place, (96, 64))[..., None]
        picture += mask * (cv2.warpAffine(TEXTURE, place, (96, 64)) - picture)
    return np.clip(picture + RNG.normal(0, noise, picture.shape), 0, 1).astype(np.float32)


def passing(motion: Motion, speed: float, y: float = 40.0, steps: int = 1) -> float:
    """Something crosses the street at so many pixels a step, of which the last of each `steps` is seen; the largest value."""
    values = [motion.of(street(x, y), steps) for x in np.arange(0, 84, speed * steps)]
    motion.skip()
    return max(value for value in values if value is not None)


def watched(speed: float | None) -> Motion:
    """A camera that has watched something pass again and again, or nothing."""
    motion = Motion(STEP_S)
    for _ in range(15):
        if speed is None:
            for _ in range(40):
                motion.of(street())
        else:
            passing(motion, speed)
    return motion


def test_a_still_scene_with_noise_hardly_moves():
    motion = watched(None)
    assert 1 <= motion.of(street()) < 1.5


def test_something_that_moves_where_nothing_ever_does_is_unusual():
    empty, busy = watched(None), watched(3.0)
    first, usual = passing(empty, 3.0), passing(busy, 3.0)
    assert first > 20
    assert usual < first / 2
    assert passing(busy, 3.0, y=10.0) > 2 * usual  # at another place


def test_faster_than_usual_is_unusual():
    busy = watched(1.0)
    assert passing(busy, 3.0) > 3 * passing(busy, 1.0)


def test_the_usual_speed_is_no_faster_where_pictures_are_dropped():
    busy = watched(1.0)
    assert passing(busy, 1.0, steps=3) < 1.5 * passing(busy, 1.0)


def test_motion_is_as_unusual_where_every_picture_is_many_steps_after_the_last():
    slow, fast = Motion(STEP_S), Motion(STEP_S)
    frames = [street() for _ in range(20)] + [street(20.0), street(23.0)]
    values = [(fast.of(frame), slow.of(frame, steps=10, usual_steps=10)) for frame in frames][1:]
    np.testing.assert_allclose(*zip(*values, strict=True), rtol=1e-3)
    assert values[-1][0] > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_same_for_larger_frames(channels):
    values = []
    for scale in (1, 4):
        motion, frames = Motion(STEP_S), []
        for x in (20.0, 23.0):
            picture = cv2.resize(street(x, noise=0.0), None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
            frames.append(picture if channels == 3 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None])
        assert motion.of(frames[0]) is None
        values.append(motion.of(frames[1]))
    assert values[0] > 10
    assert values[1] == pytest.approx(values[0], rel=0.3)


def test_there_is_none_for_the_first_frame_another_size_and_tiny_frames():
    motion = Motion(STEP_S)
    assert motion.of(street()) is None
    assert motion.of(street()) is not None
    assert motion.of(street()[:, :70]) is None
    motion.skip()
    assert motion.of(street()[:, :70]) is None
    assert [motion.of(np.zeros((8, 8, 1), np.float32)) for _ in range(3)] == [None] * 3


def test_a_pause_keeps_what_places_are_like_and_reset_forgets_it():
    busy = watched(3.0)
    usual = passing(busy, 3.0)
    assert passing(busy, 3.0) < 1.5 * usual
    busy.reset()
    assert busy.of(street()) is None
    for _ in range(40):
        busy.of(street())
    assert passing(busy, 3.0) > 2 * usual
