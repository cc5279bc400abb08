"""Checks of the Forecaster's arguments, before anything changes: frames, noise, counts; and of what it returns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svg_common.arguments import check_count
from svg_runtime.bundle.manifest import FrameSpec
from svg_runtime.errors import ForecastError, FrameError, UsageError
from svg_runtime.forecast.noise import FloatArray

COUNT_LIMIT = 1 << 16  # of samples and of horizon: larger values are more likely typing errors
_ROUNDING = 1e-3  # beyond [0, 1]: a resized white picture has 1.0000001; bytes that were never divided by 255 are far off


def checked_frame(values: ArrayLike, spec: FrameSpec) -> FloatArray:
    """Return a float32 copy of a frame, in C order, after checking shape, type, range and finiteness.

    Rounding beyond [0, 1] is clipped.

    Args:
        values: (H, W, C) float32 in [0, 1].
        spec: the frame that the model expects.

    Raises:
        FrameError: a check failed.
    """
    expected = f"expected ({spec.height}, {spec.width}, {spec.channels}) float32 in [0, 1]"
    try:
        frame = _as_array(values)
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises the last one: a tensor that requires a gradient
        raise FrameError(f"the frame is not an array: {error}\n  {expected}") from error
    if frame.dtype != np.float32:
        raise FrameError(f"the frame's type is {frame.dtype}\n  {expected}{_conversion(frame.dtype)}")
    if frame.shape != (spec.height, spec.width, spec.channels):
        raise FrameError(f"the frame's shape is {frame.shape}\n  {expected}; resize and crop with svg_common.frames.fit_frame")
    low, high = float(frame.min()), float(frame.max())
    if not (low >= np.float32(-_ROUNDING) and high <= np.float32(1.0 + _ROUNDING)):  # also false for NaN
        raise FrameError(f"the frame's values lie in [{low}, {high}]\n  {expected}")
    clipped = np.clip(frame, 0.0, 1.0)  # a copy: the caller may reuse the array
    # Equal frames give the same bits: np.clip keeps the layout, by which later sums choose their order.
    return np.ascontiguousarray(clipped)


def checked_frames(values: ArrayLike, spec: FrameSpec) -> list[FloatArray]:
    """As `checked_frame`, of (T, H, W, C).

    Raises:
        FrameError: a check of a frame failed, or there are no frames in `values`.
    """
    try:
        frames = list(_as_array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        expected = f"expected (horizon, {spec.height}, {spec.width}, {spec.channels}) float32 in [0, 1]"
        raise FrameError(f"the frames are not an array: {error}\n  {expected}") from error
    return [checked_frame(frame, spec) for frame in frames]


def _as_array(values: ArrayLike) -> NDArray[Any]:
    """As `np.asarray`, which would read what lies under a mask.

    Raises:
        TypeError, ValueError, RuntimeError: it is not an array, or values are masked.
    """
    given = np.ma.asarray(values) if isinstance(values, (list, tuple)) else values  # of frames, each with its mask
    masked = np.ma.getmaskarray(given).sum() if np.ma.isMaskedArray(given) else 0
    if masked:
        raise ValueError(f"{masked} of its values are masked; fill them first, such as with array.filled(0)")
    return np.asarray(values)


def _conversion(given: np.dtype[np.generic]) -> str:
    """How to make float32 in [0, 1] of pixels of a type; nothing for types that hold no pixels."""
    if given.kind in "fb":
        return "; convert with frame.astype('float32')"
    white = 65535 if given == np.uint16 else 255  # wider integers hold bytes that were added up or subtracted
    return f"; convert with frame.astype('float32') / {white}" if given.kind in "iu" else ""


def checked_noise(name: str, values: ArrayLike | None, shape: tuple[int, ...]) -> FloatArray | None:
    """Return `values` as float32 after checking shape and finiteness; None, which means seeded draws, stays None.

    Raises:
        UsageError: wrong shape, not numbers, or non-finite values.
    """
    if values is None:
        return None
    try:
        with np.errstate(over="ignore"):
            given = _as_array(values)
            if np.iscomplexobj(given):
                raise TypeError("they are complex")
            noise = given.astype(np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} is not an array of numbers: {error}\n  expected shape {shape}") from error
    if noise.shape != shape:
        raise UsageError(f"{name} has shape {noise.shape}\n  expected {shape}")
    if not np.isfinite(noise).all():
        raise UsageError(f"{name} contains values that are not finite\n  expected standard normal draws, of shape {shape}")
    return noise


def check_counts(samples: int, horizon: int) -> None:
    """Refuse impossible numbers of samples and forecast frames.

    Raises:
        UsageError: a value is not a whole number from 1 to COUNT_LIMIT.
    """
    for name, value in (("samples", samples), ("horizon", horizon)):
        check_count(name, value, COUNT_LIMIT)


def check_pairs_of_counts(pairs: Iterable[tuple[int, int]]) -> None:
    """As `check_counts`, of several pairs.

    Raises:
        UsageError: they are not pairs, or a value is not a whole number from 1 to COUNT_LIMIT.
    """
    try:
        checked = [(samples, horizon) for samples, horizon in pairs]
    except (TypeError, ValueError) as error:
        raise UsageError(f"counts is {pairs!r}\n  expected pairs (samples, horizon), such as [(4, 10)]") from error
    for samples, horizon in checked:
        check_counts(samples, horizon)


def check_finite(values: FloatArray | float, problem: str) -> None:
    """Refuse results that no caller can use: a model with damaged weights, an overflow in fp16, a faulty device.

    Raises:
        ForecastError: a value is not finite; `problem` says where.
    """
    if not np.isfinite(values).all():
        raise ForecastError(
            f"{problem}\n"
            "  call reset() to start anew; if it fails again, try backend='cpu' with precision='fp32', or export it anew"
        )


def checked_futures(futures: FloatArray) -> FloatArray:
    """Return the frames that a model has forecast, clipped in place: rounding takes them a little out of [0, 1].

    Raises:
        ForecastError: a value is not finite.
    """
    check_finite(futures, "the forecast contains values that are not finite")
    return np.clip(futures, 0.0, 1.0, out=futures)
