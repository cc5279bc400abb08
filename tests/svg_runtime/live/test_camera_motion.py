"""Motion of the camera: found where the whole picture moves, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from svg_runtime.live.camera_motion import CameraMotion

STREET = cv2.GaussianBlur(np.random.default_rng(0).random((140, 200, 3), dtype=np.float32), (0, 0), 3.0) * 4 - 1.5


def seen(x: float = 0.0, y: float = 0.0, height: int = 64, width: int = 64) -> np.ndarray:
    """The street with the camera at (x, y), in pixels."""
    place = np.array([[1, 0, -30 - x], [0, 1, -30 - y]], np.float32)
    return np.asarray(np.clip(cv2.warpAffine(STREET, place, (width, height)), 0, 1), np.float32)


def motions(*frames: np.ndarray) -> list[float | None]:
    motion = CameraMotion()
    return [motion.of(frame) for frame in frames]


@pytest.mark.parametrize(("x", "y"), [(1.0, 0.0), (0.0, -1.5), (-1.2, 0.9), (2.0, 1.0)])
def test_a_moved_camera_is_measured(x, y):
    first, moved, still = motions(seen(), seen(x, y), seen(x, y))
    assert first is None
    assert 0.6 < moved / (np.hypot(x, y) / 64) < 1.05  # the share of the picture that it explains is below 1
    assert still == 0


def test_it_is_a_share_of_the_shorter_side_whatever_the_size_and_the_colours():
    small = motions(seen(), seen(1.5))[1]
    gray = motions(*(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY)[:, :, None] for each in (seen(), seen(1.5))))[1]
    large = motions(*(cv2.resize(each, (256, 256), interpolation=cv2.INTER_CUBIC) for each in (seen(), seen(1.5))))[1]
    wide = motions(seen(width=120), seen(1.5, width=120))[1]
    assert [gray, large, wide] == pytest.approx([small] * 3, rel=0.2)


def test_noise_light_and_what_moves_in_the_picture_are_no_motion_of_the_camera():
    rng, still, shaken = np.random.default_rng(0), seen(), motions(seen(), seen(0.7, 0.7))[1]
    noise = (rng.normal(0, 0.02, still.shape).astype(np.float32) for _ in range(2))
    noisy = motions(*(still + each for each in noise))[1]
    lighter = motions(still, still * 0.8)[1]
    walker = [still.copy(), still.copy()]
    walker[0][10:50, 10:30] = walker[1][10:50, 13:33] = rng.random((40, 20, 3), dtype=np.float32)  # a fifth of the picture
    walked = motions(*walker)[1]
    assert max(noisy, lighter, walked) < shaken / 10


def test_light_that_changes_over_smooth_shades_is_no_motion():
    shades = np.linspace(0, 0.8, 64, dtype=np.float32)[None, :, None] * np.ones((64, 1, 3), np.float32)
    wall = shades + 0.5 * seen()
    shaken = motions(wall, np.roll(wall, 2, axis=1))[1]
    for light in (lambda frame: frame + 0.02, lambda frame: frame * 0.95, lambda frame: 0.9 * frame + 0.05):
        assert motions(shades, light(shades))[1] < 1e-4
        assert motions(wall, light(wall))[1] < shaken / 20


def test_a_picture_without_edges_does_not_move_and_a_tiny_one_is_not_known():
    assert motions(*[np.full((64, 64, 3), 0.5, np.float32)] * 2)[1] == 0
    assert motions(*[np.zeros((8, 8, 1), np.float32)] * 2) == [None, None]


def test_another_size_begins_anew():
    assert motions(seen(), seen(width=100), seen(1.0, width=100))[1] is None


def test_after_a_reset_nothing_is_compared():
    motion = CameraMotion()
    motion.of(seen())
    motion.reset()
    assert motion.of(seen(2.0)) is None
