"""Fitting of pictures of any size to a model's frame, the same in training data and on the device."""

from __future__ import annotations

import math
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.arguments import check_count
from svg_common.errors import UsageError

Image = NDArray[np.uint8]

_ENLARGED_PIXELS = 1 << 24  # at most: a line of a million pixels would take gigabytes


def covering_size(image: Image, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) to which all of `image` shrinks so that it just covers height x width; it never grows."""
    scale = min(1.0, max(height / image.shape[0], width / image.shape[1]))
    return round(image.shape[0] * scale), round(image.shape[1] * scale)


def fit_frame(image: Image, height: int, width: int, channels: int) -> Image:
    """Scale `image` to cover height x width, crop the centre, and convert to the model's channels.

    Args:
        image: (H, W, 3) RGB or (H, W) / (H, W, 1) gray, uint8.
        height: of the result in pixels.
        width: of the result in pixels.
        channels: 3 for RGB, 1 for gray (ITU-R BT.601 luma).

    Returns:
        (height, width, channels) uint8.

    Raises:
        UsageError: `image` is no such picture, or the size or the channels are not possible.
    """
    _check_fit(image, height, width, channels)
    scale = max(height / image.shape[0], width / image.shape[1])
    if scale > 1 and image.shape[0] * image.shape[1] * scale**2 > _ENLARGED_PIXELS:
        image = _around_the_centre(image, height / scale, width / scale)
    size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
    if scale != 1.0:
        # Area averaging is the only OpenCV filter without aliasing when a camera picture shrinks to 64 pixels.
        image = _uint8(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
    image = image if image.ndim == 3 else image[:, :, None]
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    image = image[top : top + height, left : left + width]
    if image.shape[2] == channels:
        return np.ascontiguousarray(image)
    if channels == 1:
        return _uint8(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[:, :, None]
    return _uint8(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2RGB))


def _around_the_centre(image: Image, height: float, width: float) -> Image:
    """The middle of `image`: twice height x width of its pixels, as far as it has them."""
    top, left = (max(0, (size - math.ceil(2 * kept)) // 2) for size, kept in zip(image.shape[:2], (height, width), strict=True))
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def _check_fit(image: object, height: int, width: int, channels: int) -> None:
    check_count("height", height)
    check_count("width", width)
    if channels not in (1, 3):
        raise UsageError(f"channels is {channels!r}\n  expected 3 for RGB, or 1 for gray")
    expected = "(H, W, 3) RGB or (H, W) gray, uint8"
    if not isinstance(image, np.ndarray):
        raise UsageError(f"the picture is of type {type(image).__name__}\n  expected an array, {expected}")
    if image.dtype != np.uint8 or image.shape[2:] not in ((), (1,), (3,)) or image.ndim < 2 or not image.size:
        raise UsageError(f"the picture is {image.shape} {image.dtype}\n  expected {expected}")


def _uint8(image: NDArray[Any]) -> Image:
    """OpenCV's stubs leave the element type open; it keeps that of the input."""
    return cast("Image", image)
