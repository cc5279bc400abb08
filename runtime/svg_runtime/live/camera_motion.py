"""How far the camera itself has moved since the last frame: one shift of the whole picture, and how much of it that explains.

    shift  = translation of the frame before that gives this one, by robust least squares (Lucas and Kanade 1981)
    share  = pixels that the shift explains better than standing still, less those that it explains worse, above chance
    motion = shift * share

People and cars move parts of the picture: they get little weight in the fit, and no shift explains the rest. Before a bare wall
they are all that a fit can go by, and look like motion. A change of light, as a factor and a constant, is fitted along, whether
the camera moves or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.small_gray import LEAST_SIDE, small_gray

_Floats = NDArray[np.float32]

_SMOOTH = 1.0  # pixels: gradients of the smoothed picture hold for a shift of some pixels
_ROUNDS = 3
_LARGEST = 4.0  # pixels of shift per frame; beyond, the picture is another scene
_BORDER = 4  # pixels that a shift brings in from outside
_LEAST_SCALE = 1e-3  # of an error, a quarter of a grey level: rounding is not motion
_BETTER = 4e-3  # by how much an error must change to count, a grey level
_CHANCE = 3.0  # standard deviations of the share that a shift explains of noise alone
_STIFF = 1e-3  # keeps the shift of a picture without edges at 0


class CameraMotion:
    """Measures frame by frame; it takes about half a millisecond."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the last frame."""
        self._last: _Gradients | None = None

    def of(self, frame: _Floats) -> float | None:
        """Motion since the last frame (H, W, C), as a share of the shorter side.

        None for the first frame, one of another size than the last, and one below 16 pixels.
        """
        gray = small_gray(frame)
        if min(gray.shape) < LEAST_SIDE:
            return None
        last = self._last
        self._last = _Gradients.of(gray)
        if last is None or last.gray.shape != gray.shape:
            return None
        gray = self._last.gray
        still, moved = (_fit(last, gray, may_move=each) for each in (False, True))
        before, after = (np.abs(each.errors) for each in (still, moved))
        better = float(np.mean(after < before - _BETTER) - np.mean(after > before + _BETTER))
        share = max(0.0, better - _CHANCE / math.sqrt(before.size))
        motion: float = math.hypot(*moved.shift) * share / min(gray.shape)
        return motion


@dataclass(frozen=True)
class _Gradients:
    """A smoothed picture (h, w) and its derivatives."""

    gray: _Floats
    x: _Floats
    y: _Floats

    @classmethod
    def of(cls, gray: _Floats) -> _Gradients:
        smooth = np.asarray(cv2.GaussianBlur(gray, (0, 0), _SMOOTH), np.float32)
        x, y = (np.asarray(cv2.Sobel(smooth, cv2.CV_32F, *order, scale=1 / 8), np.float32) for order in ((1, 0), (0, 1)))
        return cls(smooth, x, y)


@dataclass(frozen=True)
class _Fit:
    """How one picture becomes another: by a shift (x, y) in pixels and a change of light; and what that leaves, (h * w,)."""

    shift: NDArray[np.float64]
    errors: _Floats


def _fit(last: _Gradients, gray: _Floats, may_move: bool) -> _Fit:
    """Errors have Cauchy's weights: outliers hardly count."""
    level = _inner(last.gray)
    light = np.stack([level, np.ones_like(level)])
    basis = np.concatenate([np.stack([_inner(last.x), _inner(last.y)]), light]) if may_move else light
    basis = basis.reshape(len(basis), -1)
    shift, change = np.zeros(2), np.zeros(2)
    for _ in range(_ROUNDS):
        errors = _errors(last, gray, shift).reshape(-1) - change.astype(np.float32) @ basis[-2:]
        scale = 1.4826 * float(np.median(np.abs(errors))) + _LEAST_SCALE
        weighted = basis / (1 + (errors / np.float32(scale)) ** 2)
        matrix = (weighted @ basis.T).astype(np.float64) + _STIFF * np.eye(len(basis))
        step = np.linalg.solve(matrix, (weighted @ errors).astype(np.float64))
        change = change + step[-2:]
        if may_move:
            shift = np.clip(shift - step[:2], -_LARGEST, _LARGEST)
    errors = _errors(last, gray, shift).reshape(-1) - change.astype(np.float32) @ basis[-2:]
    return _Fit(shift, errors)


def _errors(last: _Gradients, gray: _Floats, shift: NDArray[np.float64]) -> _Floats:
    """`gray` moved back by `shift`, less `last`, without the border."""
    back = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float32)
    moved = cv2.warpAffine(gray, back, gray.shape[::-1], borderMode=cv2.BORDER_REFLECT)
    return _inner(np.asarray(moved, np.float32) - last.gray)


def _inner(picture: _Floats) -> _Floats:
    return picture[_BORDER:-_BORDER, _BORDER:-_BORDER]
