"""Smooth deviations: samples that differ from their mean in large, lasting parts rather than in details that flicker.

A model's samples may spread as far as its errors and still none comes near the truth, when they differ in finer details than
the errors do. Whether smoothing them helps depends on the model: it is tried, and done only while it does.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from svg_runtime.forecast.noise import FloatArray

_STEPS = 5  # length of the binomial filter over leads
_WORTH_IT = 0.97  # error beside that of samples as they are, below which samples are smoothed
_TINY = np.float32(1e-7)  # variance below which nothing is scaled up


def smoothed(deviations: FloatArray, variance: FloatArray, side: int, weight: float) -> FloatArray:
    """Smooth deviations (S, T, H, W, C) of samples over places and leads. Their `variance` (T, H, W) stays.

    Each becomes itself + `weight` times the mean over a block of about `side` pixels, then a mean over five leads. The filter
    is the same for all samples, so that their mean stays zero. What stays is the mean variance of the 3 x 3 pixels around
    each, and of channels.
    """
    import cv2  # not at the top: programs that do not post-process need no OpenCV

    horizon, channels = deviations.shape[1], deviations.shape[-1]
    # 1) over places and leads
    taps = np.array([comb(_STEPS - 1, k) for k in range(_STEPS)], np.float32) / 2 ** (_STEPS - 1)
    one, block = np.ones(1, np.float32), (side | 1, side | 1)
    result = np.empty_like(deviations)
    for sample, smooth in zip(deviations, result, strict=True):
        for frame, target in zip(sample, smooth, strict=True):
            target[:] = cv2.blur(frame, block).reshape(frame.shape)
        smooth *= np.float32(weight)
        smooth += sample
        rows = smooth.reshape(horizon, -1)
        smooth[:] = cv2.sepFilter2D(rows, -1, one, taps, borderType=cv2.BORDER_REPLICATE).reshape(smooth.shape)
    # 2) the variance that was there
    for target, was, now in zip(result.swapaxes(0, 1), variance, variance_of(result), strict=True):
        ratio = (cv2.blur(was, (3, 3)) + _TINY) / (cv2.blur(now, (3, 3)) + _TINY)
        target *= np.repeat(np.sqrt(ratio)[..., None], channels, axis=-1)
    return result


def variance_of(deviations: FloatArray) -> FloatArray:
    """(S, T, H, W, C) deviations from the mean over samples -> (T, H, W) variance, the mean of channels."""
    squared: FloatArray = np.einsum("sthwc,sthwc->thwc", deviations, deviations)
    return mean_of_channels(squared / np.float32(len(deviations)))


def mean_of_channels(values: FloatArray) -> FloatArray:
    """(..., C) -> (...); as a product of matrices, which is far faster than `mean` over an axis of 3."""
    channels = values.shape[-1]
    mean: FloatArray = values @ np.full(channels, 1 / channels, np.float32)
    return mean


class SmoothingTrial:
    """Whether the best of smooth samples comes nearer to the truth than the best of the samples as they are.

    Each lead decides for itself: of a model that is right about the next frame, samples of later ones may still be too fine.
    One forecast at a time is made both ways and followed until all its frames have come. Nothing is smoothed before the first
    of these has ended.
    """

    def __init__(self, memory_steps: int, memory_limit: int) -> None:
        self._memory_steps = memory_steps
        self._memory_limit = memory_limit
        self.reset()

    def reset(self) -> None:
        """Forget all trials."""
        self._ways: tuple[FloatArray, FloatArray] | None = None  # (S, T, H, W, C) as they are, and smooth
        self._index = -1  # of the last frame before them
        self._errors = np.zeros((2, 0, 0))  # squared, of each way, sample and lead
        self._best = np.zeros((2, 0))  # those of the best sample, of each way and lead, of all trials that are remembered

    def leads(self, horizon: int) -> NDArray[np.bool_]:
        """(horizon,) at which leads samples should be smoothed now."""
        plain, smooth = self._best[:, :horizon]
        return np.pad(smooth < _WORTH_IT * plain, (0, horizon - len(plain)))

    def is_due(self, futures: FloatArray) -> bool:
        """Whether a forecast like this should be made both ways: none is under trial, and it is not too large to keep."""
        return self._ways is None and len(futures) > 1 and 2 * futures.nbytes <= self._memory_limit

    def begin(self, index: int, ways: tuple[FloatArray, FloatArray]) -> None:
        """Follow a forecast after frame `index`, as it is and smooth, (S, T, H, W, C) each. They are not changed."""
        self._ways = ways
        self._index = index
        self._errors = np.zeros((2, *ways[0].shape[:2]))

    def observe(self, index: int, frame: FloatArray) -> None:
        """Compare frame `index` with the forecast under trial."""
        if self._ways is None or index <= self._index:
            return
        lead, horizon = index - self._index - 1, self._ways[0].shape[1]
        if lead >= horizon:  # frames were left out
            self._ways = None
            return
        for errors, samples in zip(self._errors, self._ways, strict=True):
            errors[:, lead] = np.square(samples[:, lead] - frame).mean((1, 2, 3))
        if lead + 1 == horizon:
            known = min(horizon, self._best.shape[1])
            best = self._errors.min(1)
            best[:, :known] += self._best[:, :known] * (1 - 1 / self._memory_steps) ** horizon
            self._best = best
            self._ways = None
