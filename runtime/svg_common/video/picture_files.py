"""Picture files: any depth, colours and orientation as eight-bit RGB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.opencv_log import silence_opencv
from svg_common.printable import one_line
from svg_common.video.picture_damage import find_damage, is_jpeg
from svg_common.video.sample_depth import DEPTHS, bits_in_use, depth_note, to_eight_bits
from svg_common.video.tiff import has_several_pages, with_plain_colours

_PROBED = 9  # files of a clip that are looked at for the depth, and for damage that all of them have
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

    Damaged JPEG and WebP are refused; JPEG not if the first nine pictures of the clip and nine spread over it are all
    damaged: some cameras end every one too early.

    Args:
        paths: the files of the clip.

    Attributes:
        bits: depth of its 16-bit samples; None if none were read yet.
        unreadable: a file, and why the system could not read it now, though it may well be whole; None if there was none.
            A file may also have been looked at for the depth or the damage of another.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._damage_is_habit: bool | None = None  # None: no JPEG decided it yet; a single intact one does, for good
        self.bits: int | None = None
        self.unreadable: str | None = None

    @property
    def depth_note(self) -> str | None:
        """How samples that do not use their 16 bits are read; None for all others."""
        return None if self.bits is None or self.bits == 16 else depth_note(self.bits)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Return the picture in a file of the clip as (H, W, 3) uint8 RGB.

        Raises:
            PictureError: the file cannot be read, is not a picture, is damaged, or its samples are neither 8- nor 16-bit.
        """
        content = self._content(path)
        image = decode_picture(content)
        self._refuse_damage(content)
        if image.dtype == np.uint16:
            image = self._to_eight_bits(image)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    @staticmethod
    def is_black(path: Path) -> bool:
        """Whether all samples in a file are 0, at the depth that it has.

        Raises:
            PictureError: as for `read`, but of damage only where nothing can be decoded.
        """
        return not decode_picture(_content(path)).any()

    def _content(self, path: Path) -> NDArray[np.uint8]:
        try:
            return _content(path)
        except PictureError as error:
            self.unreadable = f"'{one_line(path.name)}': {error}"
            raise

    def _refuse_damage(self, content: NDArray[np.uint8]) -> None:
        if self._damage_is_habit and is_jpeg(content):
            return
        damage = find_damage(content)
        if damage is None:
            self._damage_is_habit = False if is_jpeg(content) else self._damage_is_habit
            return
        if self._damage_is_habit is None and is_jpeg(content):
            # The first ones as well: those that are spread may all be damaged where every tenth picture is.
            self._damage_is_habit = self._all_are_damaged({*self._paths[:_PROBED], *self._probes()})
        if not (self._damage_is_habit and is_jpeg(content)):
            raise PictureError(f"it is damaged: {damage}")

    def _probes(self) -> Sequence[Path]:
        return self._paths[:: max(len(self._paths) // _PROBED, 1)]

    def _to_eight_bits(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        if self.bits is None:
            self.bits = max(map(self._bits_of, self._probes()), default=DEPTHS[0])
        self.bits = max(self.bits, bits_in_use(image))
        return to_eight_bits(image, self.bits)

    def _bits_of(self, path: Path) -> int:
        try:
            image = decode_picture(self._content(path))
        except PictureError:
            return DEPTHS[0]
        return bits_in_use(image) if image.dtype == np.uint16 else DEPTHS[0]

    def _all_are_damaged(self, paths: Iterable[Path]) -> bool:
        """Whether several of the files are JPEG, and no intact one is among them."""
        jpegs = 0
        for path in paths:
            try:
                content = self._content(path)
            except PictureError:
                continue
            if is_jpeg(content):
                jpegs += 1
                if find_damage(content) is None:
                    return False
        return jpegs > 1


def _content(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file. An error is always of the system, never of the content."""
    try:
        return np.frombuffer(path.read_bytes(), np.uint8)  # NumPy's own fromfile takes an error in the middle for the end
    except OSError as error:
        raise PictureError(error.strerror or "cannot be read") from error


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
    if has_several_pages(content):
        raise PictureError("it has several pages; save each page as a file of its own")
    content = with_plain_colours(content)
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
    silence_opencv()
    try:
        return cv2.imdecode(content, flags)
    except cv2.error:  # larger than OpenCV's limit
        return None
