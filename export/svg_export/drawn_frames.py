"""Frames for the gate where there are no held-out sequences: drawn, so that the same model always gets the same ones."""

from __future__ import annotations

import numpy as np

from svg_common.digits import digit_stream
from svg_train.data import Frames
from svg_train.families.base import FamilyConfig

_SEED = 7  # of no split of a data set
_DIGITS = 2


class DrawnSequences:
    """Bouncing digits, which have edges as well as flat parts; in RGB each colour has digits of its own.

    They say how a model rounds, and nothing about its quality: it need not have been trained on digits.
    """

    frame_interval_s: float | None = None

    def __init__(self, model: FamilyConfig, count: int, length: int) -> None:
        self.description = "bouncing digits drawn for the purpose"
        self._size = model.image_size
        self._channels = model.channels
        self._count = count
        self._length = length

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frames:
        """(T, H, W, C) uint8."""
        steps = [digit_stream((_SEED, index, channel), _DIGITS, self._size) for channel in range(self._channels)]
        frames = np.stack([np.stack([step() for step in steps], axis=-1) for _ in range(self._length)])
        return (frames * 255 + 0.5).astype(np.uint8)
