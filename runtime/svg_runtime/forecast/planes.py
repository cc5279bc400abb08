"""Planes of numbers, one for each pixel, and pictures with channels.

By OpenCV, which goes through a last axis of three many times as fast as NumPy. Not by products of matrices: those of this size
NumPy gives to all threads of OpenBLAS, which then keep a core busy for a while after each of them, beside the model.
"""

from __future__ import annotations

import cv2
import numpy as np

from svg_runtime.forecast.noise import FloatArray


def mean_of_channels(picture: FloatArray) -> FloatArray:
    """(..., C) -> (...); contiguous."""
    *shape, channels = picture.shape
    if channels == 1:
        return picture[..., 0]
    mean = cv2.transform(picture.reshape(-1, 1, channels), np.full((1, channels), 1 / channels, np.float32))
    return np.asarray(mean, np.float32).reshape(shape)


def to_channels(plane: FloatArray, channels: int) -> FloatArray:
    """(..., W) -> (..., W, C): the same for each channel. A product with it takes far less time than one that broadcasts."""
    flat = plane.reshape(-1, plane.shape[-1])
    return np.asarray(cv2.merge([flat] * channels), np.float32).reshape(*plane.shape, channels)


def mean_around(plane: FloatArray, side: int) -> FloatArray:
    """(H, W) mean of the side x side values around each; of values that are not negative it is not negative either."""
    return np.maximum(cv2.blur(plane, (side, side)), 0)  # 0 may come out of running sums as a little less
