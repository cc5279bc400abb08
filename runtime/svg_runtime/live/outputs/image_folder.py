"""Composed pictures as files, numbered by their model interval, as `svg-live --source` reads them back."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.errors import OutputError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg")
_NUMBER = re.compile(r"%(0\d)?d")
_PNG_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # the default takes three times as long for a tenth less
_JPEG_GOOD = [cv2.IMWRITE_JPEG_QUALITY, 92]


class ImageFolder:
    """Writes each picture to a file of its own.

    Args:
        pattern: such as frames/%06d.png; the number is the model interval, so that a gap in the numbers is a gap in time.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, pattern: Path) -> None:
        self._pattern = pattern
        self._options = _PNG_FAST if pattern.suffix.lower() == ".png" else _JPEG_GOOD
        try:
            pattern.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(pattern, error) from error

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Write one picture beside its destination, and rename it.

        Raises:
            OutputError: the disk is full or gone; the pictures before are kept.
        """
        path = self._pattern.with_name(self._pattern.name % tick)
        partial = path.with_name(f".{path.name}")
        _, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), self._options)
        try:
            partial.write_bytes(data.tobytes())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutputError(path, error) from error

    def close(self, keep: bool) -> None:
        """Nothing is in progress between two pictures; they are kept, because each is complete."""


def check_image_pattern(pattern: Path) -> None:
    """Refuse a pattern without a number, and one that files of another run fit.

    Raises:
        UsageError: for these reasons; the message says what to give.
    """
    numbers = _NUMBER.findall(pattern.name)
    if len(numbers) != 1 or "%" in _NUMBER.sub("", pattern.name):
        raise UsageError(
            f"--output '{pattern}' is not a pattern of numbered pictures\n"
            f"  expected one number in the name, for example --output {pattern.with_name('%06d' + pattern.suffix)}"
        )
    before, after = map(re.escape, _NUMBER.split(pattern.name)[::2])
    taken = re.compile(rf"{before}\d+{after}")
    if pattern.parent.is_dir() and any(taken.fullmatch(path.name) for path in pattern.parent.iterdir()):
        raise UsageError(
            f"'{pattern.parent}' has pictures named as --output '{pattern.name}' already, which would be mixed\n"
            "  remove them, or choose another folder; --record DIR goes on in the same folder, as a service needs it"
        )
