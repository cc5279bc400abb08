"""Picture files: any depth, colours and orientation as eight-bit RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.video.sample_depth import DEPTHS, bits_in_use, depth_note, to_eight_bits

_PROBED = 9  # files of a clip that are looked at for the depth
_HEAD = 1 << 16  # bytes in which an animated PNG says so
_WEBP_ANIMATION = 2  # flag of the extended header


class PictureError(Exception):
    """A picture file cannot be read. The text is the reason, without the file's name."""


class PictureFiles:
    """Reads the picture files of one clip: RGB, upright by their EXIF orientation, transparency ignored.

    16-bit samples: white is the largest value of the smallest of 8, 10, 12, 14 or 16 bits that holds the brightest sample of
    the clip, because cameras store 12 bits in 16 without a note, and such pictures would be black. One depth holds for the
    whole clip, so that its brightness does not change from picture to picture: that of nine pictures spread over it, and more
    from the first picture on that exceeds it.

    Args:
        paths: the files of the clip.

    Attributes:
        bits: depth of its 16-bit samples; None if none were read yet.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.bits: int | None = None

    @property
    def depth_note(self) -> str | None:
        """How samples that do not use their 16 bits are read; None for all others."""
        return None if self.bits is None or self.bits == 16 else depth_note(self.bits)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Return the picture in a file of the clip as (H, W, 3) uint8 RGB.

        Raises:
            PictureError: the file cannot be read, is not a picture, or its samples are neither 8- nor 16-bit.
        """
        image = _decode(path)
        if image.dtype == np.uint16:
            image = self._to_eight_bits(image)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    @staticmethod
    def is_black(path: Path) -> bool:
        """Whether all samples in a file are 0, at the depth that it has.

        Raises:
            PictureError: as for `read`.
        """
        return not _decode(path).any()

    def _to_eight_bits(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        if self.bits is None:
            self.bits = max(map(_bits_of_file, self._paths[:: max(len(self._paths) // _PROBED, 1)]), default=DEPTHS[0])
        self.bits = max(self.bits, bits_in_use(image))
        return to_eight_bits(image, self.bits)


def _bits_of_file(path: Path) -> int:
    try:
        image = _decode(path)
    except PictureError:
        return DEPTHS[0]
    return bits_in_use(image) if image.dtype == np.uint16 else DEPTHS[0]


def _decode(path: Path) -> NDArray[Any]:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise PictureError(error.strerror or "cannot be read") from error
    return decode_picture(content)


def decode_picture(content: NDArray[np.uint8]) -> NDArray[Any]:
    """Decode the bytes of a picture file to (H, W, 3) BGR, uint8 or uint16, upright.

    Raises:
        PictureError: it is not a picture, it is one of several, or its samples are neither 8- nor 16-bit.
    """
    if not content.size:
        raise PictureError("not a readable image: the file is empty")
    advice = _advice_for_animation(content)
    if advice is not None:
        raise PictureError(f"it is an animation of several pictures; {advice}")
    image = _imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image is not None and image.dtype in (np.uint8, np.uint16):
        return image
    if image is None:
        image = _imdecode(content, cv2.IMREAD_UNCHANGED)  # OpenCV reads no single channel of floats as colours
    if image is None:
        raise PictureError("not a readable image")
    raise PictureError(f"its samples are {image.dtype}; expected 8- or 16-bit unsigned")


def _advice_for_animation(content: NDArray[np.uint8]) -> str | None:
    """What to do with a PNG or WebP file of several pictures, of which OpenCV reads the first; None for one picture."""
    head = content[:_HEAD].tobytes()
    control, data = head.find(b"acTL"), head.find(b"IDAT")
    if head.startswith(b"\x89PNG") and 0 < control < data and int.from_bytes(head[control + 4 : control + 8], "big") > 1:
        return "rename it to .apng"
    is_webp = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X"
    if is_webp and head[20] & _WEBP_ANIMATION and content.tobytes().count(b"ANMF") > 1:
        return "convert it to a video"
    return None


def _imdecode(content: NDArray[np.uint8], flags: int) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(content, flags)
    except cv2.error:  # larger than OpenCV's limit
        return None
