"""Fitting of pictures to the model's frame."""

from __future__ import annotations

import numpy as np
import pytest

from svg_common.errors import UsageError
from svg_common.frames import fit_frame


@pytest.mark.parametrize("shape", [(480, 640, 3), (360, 480, 3), (64, 200, 3), (33, 77, 3), (1, 1, 3), (65, 63, 3), (50, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_result_has_exactly_the_size_asked_for(shape, channels):
    fitted = fit_frame(np.full(shape, 77, np.uint8), 64, 48, channels)
    assert fitted.shape == (64, 48, channels)
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    assert np.abs(fitted.astype(int) - 77).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_that_fits_is_left_alone(channels):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, channels), dtype=np.uint8)
    np.testing.assert_array_equal(fit_frame(image, 64, 64, channels), image)
    if channels == 1:
        np.testing.assert_array_equal(fit_frame(image[..., 0], 64, 64, 1), image)


@pytest.mark.parametrize("factor", [0.25, 4])
@pytest.mark.parametrize("portrait", [False, True])
def test_the_centre_is_kept_and_nothing_is_stretched(factor, portrait):
    side = int(64 * factor)
    image = np.zeros((side, 2 * side, 3), np.uint8)
    image[:, : side // 2] = 255  # these two bands are what the crop takes away
    image[:, -side // 2 :] = 255
    ys, xs = np.mgrid[:side, : 2 * side] + 0.5
    disc = (ys - side / 2) ** 2 + (xs - side) ** 2 < (side / 4) ** 2
    image[disc] = 128
    fitted = fit_frame(image.transpose(1, 0, 2) if portrait else image, 64, 64, 3)[..., 0]
    edge = 4 if factor < 1 else 0  # enlarging blurs the outermost columns with what was cropped
    assert fitted[edge : 64 - edge, edge : 64 - edge].max() <= 130
    heights, widths = np.flatnonzero(fitted[:, 32] > 64), np.flatnonzero(fitted[32] > 64)
    inner_h = heights[(heights > 8) & (heights < 56)]
    inner_w = widths[(widths > 8) & (widths < 56)]
    assert abs(len(inner_h) - 32) <= 2
    assert abs(len(inner_w) - 32) <= 2


def test_gray_is_luma_of_rgb_and_rgb_of_gray_is_neutral():
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 200
    assert abs(int(fit_frame(image, 64, 64, 1)[0, 0, 0]) - round(0.299 * 200)) <= 1
    gray = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    coloured = fit_frame(gray, 64, 64, 3)
    for channel in range(3):
        np.testing.assert_array_equal(coloured[..., channel], gray)


def test_shrinking_averages_instead_of_picking():
    image = np.zeros((640, 640, 3), np.uint8)
    image[::2] = 255
    assert np.abs(fit_frame(image, 64, 64, 3).astype(int) - 127).max() <= 1


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (None, "of type NoneType"),
        ([[1, 2], [3, 4]], "of type list"),
        (np.zeros((9, 9, 3), np.float32), r"\(9, 9, 3\) float32"),
        (np.zeros((9, 9, 4), np.uint8), r"\(9, 9, 4\) uint8"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"\(2, 9, 9, 3\) uint8"),
        (np.zeros(9, np.uint8), r"\(9,\) uint8"),
        (np.zeros((0, 9, 3), np.uint8), r"\(0, 9, 3\) uint8"),
    ],
    ids=["None", "list", "float", "RGBA", "frames", "line", "empty"],
)
def test_what_is_no_picture_is_refused(image, given):
    with pytest.raises(UsageError, match=rf"^the picture is {given}\n  expected .*\(H, W, 3\) RGB or \(H, W\) gray, uint8"):
        fit_frame(image, 8, 8, 3)


@pytest.mark.parametrize("name", ["height", "width", "channels"])
@pytest.mark.parametrize("value", [0, 2.5, "3", -1])
def test_impossible_shapes_are_refused(name, value):
    with pytest.raises(UsageError, match=rf"^{name} is {value!r}\n  expected "):
        fit_frame(np.zeros((9, 9, 3), np.uint8), **{"height": 8, "width": 8, "channels": 3, name: value})


@pytest.mark.parametrize("portrait", [False, True])
@pytest.mark.parametrize("sides", [(1, 16_000_000), (3, 5_000_001)])
def test_of_a_line_only_the_middle_is_enlarged(sides, portrait):
    """All of it would take 65 gigabytes."""
    line = np.broadcast_to((np.arange(sides[1]) + 100).astype(np.uint8), sides)  # no jump in the middle
    middle = line[:, sides[1] // 2 - 500 : sides[1] - sides[1] // 2 + 500]
    line, middle = (line.T, middle.T) if portrait else (line, middle)
    fitted, expected = fit_frame(line, 64, 48, 1), fit_frame(middle, 64, 48, 1)
    assert np.ptp(expected) >= 1
    assert np.abs(fitted.astype(int) - expected).max() <= 1
