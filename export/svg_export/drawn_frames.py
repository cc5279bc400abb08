"""Frames for the gate where there are no held-out sequences: drawn, so that the same model always gets the same ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_common.digits import digit_stream
from svg_train.data import Frames
from svg_train.families.base import FamilyConfig

_SEED = 7  # of no split of a data set
_DIGITS = 2
_LEAST_SIDE = 64  # pixels; digits have 28


def digit_frames(seed: int | tuple[int, ...], count: int, height: int, width: int) -> NDArray[np.float32]:
    """(count, height, width) of bouncing digits; of frames too small for them, what passes through the middle."""
    side = max(height, width, _LEAST_SIDE)
    step, top, left = digit_stream(seed, _DIGITS, side), (side - height) // 2, (side - width) // 2
    return np.stack([step()[top : top + height, left : left + width] for _ in range(count)])


class DrawnSequences:
    """Bouncing digits, which have edges as well as flat parts; in RGB each colour has digits of its own.

    They say how a model rounds, and nothing about its quality: it need not have been trained on digits.
    """

    frame_interval_s: float | None = None

    def __init__(self, model: FamilyConfig, count: int, length: int) -> None:
        self.description = "bouncing digits drawn for the purpose"
        self._size = model.height, model.width
        self._channels = model.channels
        self._count = count
        self._length = length

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frames:
        """(T, H, W, C) uint8."""
        seeds = [(_SEED, index, channel) for channel in range(self._channels)]
        frames = np.stack([digit_frames(seed, self._length, *self._size) for seed in seeds], axis=-1)
        return (frames * 255 + 0.5).astype(np.uint8)
