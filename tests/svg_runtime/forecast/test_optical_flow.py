"""The last frame carried on along its optical flow, against pictures that really move."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from svg_runtime.forecast.optical_flow import CarriedOn, optical_flow


def texture(channels: int) -> np.ndarray:
    noise = np.random.default_rng(0).random((80, 120, channels)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2).reshape(noise.shape)
    return (smooth - smooth.min()) / np.ptp(smooth)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (-1, 1)])
def test_what_moves_is_carried_on(channels, dx, dy):
    """Ever more slowly: with half of the speed left after each step, three steps lead 1.75 times as far as one."""
    scene = texture(channels)

    def seen(x: int, y: int) -> np.ndarray:
        return np.ascontiguousarray(scene[8 - y : 72 - y, 16 - x : 80 - x])

    before, last = seen(0, 0), seen(dx, dy)
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(optical_flow(last, before)[inner], np.broadcast_to([-dx, -dy], (48, 48, 2)), atol=0.3)
    constant, slower = (CarriedOn(last, before, kept) for kept in (1.0, 0.5))
    for lead in (1, 2, 3):
        made, truth = constant.at(lead), seen((lead + 1) * dx, (lead + 1) * dy)
        assert (made.shape, made.dtype) == (last.shape, np.float32)
        assert ((made - truth)[inner] ** 2).mean() < 0.02 * ((last - truth)[inner] ** 2).mean()
    if abs(dx) == 2:  # 1.5 times as far is a whole pixel, too
        assert ((slower.at(2) - seen(5, 0))[inner] ** 2).mean() < 0.02 * ((last - seen(5, 0))[inner] ** 2).mean()
    np.testing.assert_array_equal(slower.at(1), constant.at(1))


@pytest.mark.parametrize("size", [(1, 1), (8, 11), (12, 12), (12, 128), (8, 64), (4, 64), (64, 4), (13, 320)])
def test_a_small_frame_has_a_flow_too(size):
    """OpenCV's DIS crashes on some of these."""
    first, second = np.random.default_rng(1).random((2, *size, 3), np.float32)
    assert optical_flow(first, second).shape == (*size, 2)
    made = CarriedOn(second, first, 1.0).at(3)
    assert made.shape == second.shape
    assert np.isfinite(made).all()
