"""One way to look at a sequence of frames: where, how large, mirrored, lighter or darker, by a camera that moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.frames import fit_frame
from svg_train.data import Frames
from svg_train.data.frame_cache import FrameShape


@dataclass(frozen=True)
class CameraPath:
    """How a camera moves from the first to the last frame of a sequence: evenly.

    Attributes:
        down: in sides of the crop half-way.
        right: likewise.
        zoom: logarithm of the side of the first crop over that of the last one.
    """

    down: float = 0.0
    right: float = 0.0
    zoom: float = 0.0


@dataclass(frozen=True)
class View:
    """One way to look at a sequence, the same for all of its frames.

    Attributes:
        share: side of the crop, relative to the largest crop of the model's shape. No crop is smaller than the model's frame.
        top: place of the crop, from 0 (top) to 1 (bottom).
        left: place of the crop, from 0 (left) to 1 (right).
        mirrored: left to right.
        gain: factor of all values.
        path: of a camera that moves; its crops stay within the picture, so it may go less far, and start larger or smaller.
    """

    share: float = 1.0
    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False
    gain: float = 1.0
    path: CameraPath | None = None

    def show(self, frames: Sequence[NDArray[np.uint8]], shape: FrameShape, moments: Sequence[float] | None = None) -> Frames:
        """T times (H, W, C) of any size -> (T, height, width, C) of the model's `shape`.

        Args:
            frames: of a sequence.
            shape: of the model's frames.
            moments: of the frames, from 0, the first one of the sequence, to 1, the last one; default: evenly from 0 to 1.
        """
        times = np.linspace(0, 1, len(frames)).tolist() if moments is None else moments
        crops = self._still(frames, shape) if self.path is None else self._moving(frames, shape, self.path, times)
        shown = np.stack([fit_frame(crop, shape.height, shape.width, shape.channels) for crop in crops])
        if self.mirrored:
            shown = np.ascontiguousarray(shown[:, :, ::-1])
        return shown if self.gain == 1 else _gain_table(self.gain)[shown]

    def _still(self, frames: Sequence[NDArray[np.uint8]], shape: FrameShape) -> list[NDArray[np.uint8]]:
        height, width = frames[0].shape[:2]
        scale = self._scale(height, width, shape)
        rows, columns = _slice(height, scale * shape.height, self.top), _slice(width, scale * shape.width, self.left)
        return [frame[rows, columns] for frame in frames]

    def _moving(
        self, frames: Sequence[NDArray[np.uint8]], shape: FrameShape, path: CameraPath, times: Sequence[float]
    ) -> list[NDArray[np.uint8]]:
        """Crops of one size in pixels, cut out between pixels too: a camera does not move in whole ones."""
        height, width = frames[0].shape[:2]
        sides = np.array([height, width], float)
        model = np.array([shape.height, shape.width], float)
        widening = math.exp(abs(path.zoom) / 2)  # of the widest crop over that half-way
        scale = min(self._scale(height, width, shape), (sides / model).min() / widening)
        room = sides - scale * widening * model  # that is left to move in
        reach = np.clip(scale * model * [path.down, path.right], -room, room)
        half_way = sides / 2 + ([self.top, self.left] - np.array(0.5)) * (room - abs(reach))
        size = np.maximum(1, np.round(scale * model))
        crops = []
        for frame, time in zip(frames, times, strict=True):
            step = scale * math.exp(path.zoom * (0.5 - time)) * model / size  # pixels of the picture per pixel of the crop
            first = half_way + (time - 0.5) * reach + step / 2 * (1 - size) - 0.5
            place = np.array([[step[1], 0, first[1]], [0, step[0], first[0]]])
            size_xy = int(size[1]), int(size[0])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            crop = cv2.warpAffine(np.ascontiguousarray(frame), place, size_xy, flags=flags, borderMode=cv2.BORDER_REPLICATE)
            crops.append(cast("NDArray[np.uint8]", crop))
        return crops

    def _scale(self, height: float, width: float, shape: FrameShape) -> float:
        """Pixels of the crop per pixel of the model's frame."""
        largest = min(height / shape.height, width / shape.width)
        return min(largest, max(1.0, self.share * largest))


def _slice(room: int, wanted: float, place: float) -> slice:
    size = max(1, min(room, round(wanted)))
    start = round(place * (room - size))
    return slice(start, start + size)


def _gain_table(gain: float) -> Frames:
    table: Frames = np.clip(np.arange(256) * gain + 0.5, 0, 255).astype(np.uint8)
    return table
