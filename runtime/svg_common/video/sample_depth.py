"""Depth of 16-bit samples: cameras store 8 to 14 bits in them without a note, and such pictures would be black."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

DEPTHS = (8, 10, 12, 14, 16)


def bits_in_use(image: NDArray[Any]) -> int:
    """Return the smallest of the usual depths that holds the brightest of the samples, uint16."""
    needed = int(image.max()).bit_length()
    return next(bits for bits in DEPTHS if bits >= needed)


def to_eight_bits(image: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return `image`, uint16, with the largest value of `bits` as white."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=255 / (2**bits - 1)), np.uint8)


def depth_note(bits: int) -> str:
    """Return the message about samples that do not use their 16 bits."""
    return f"16-bit pictures that use only {bits} bits: {2**bits - 1} is shown as white"
