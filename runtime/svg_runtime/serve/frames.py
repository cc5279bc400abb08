"""The body of a request becomes the model's frame: raw numbers, or a PNG or JPEG as svg-live reads its pictures."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.video.picture_files import PictureError, decode_picture
from svg_common.video.sample_depth import bits_in_use, to_eight_bits
from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.serve.problems import ProblemError
from svg_runtime.serve.schema import Dtype, FrameForm

RAW, PNG, JPEG = "application/octet-stream", "image/png", "image/jpeg"
MEDIA_TYPES = (RAW, PNG, JPEG)
SHAPE_PATTERN = r"^[1-9][0-9]{0,8},[1-9][0-9]{0,8}(,[13])?$"

_SAMPLE_BYTES = {"float32": 4, "uint8": 1}
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # tables and an extension lie between them
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_MAX_SCANS = 64  # of a progressive JPEG; each of them costs the time of the whole picture
_MAX_CHUNKS = 4096  # before the pixels of a PNG
_MAX_MARKERS = 4096  # before the size of a JPEG; a colour profile takes 255 of them at most


class FrameReader:
    """Reads the frames of one session.

    Args:
        frame: what the model sees.
        max_pixels: of a picture.
    """

    def __init__(self, frame: FrameForm, max_pixels: int) -> None:
        self._shape = frame.height, frame.width, frame.channels
        self._max_pixels = max_pixels
        self._preprocessor = Preprocessor(*self._shape)
        self.reset()

    def reset(self) -> None:
        """Forget the frames read so far."""
        self._bits = 8  # that the 16-bit samples of its PNGs have used so far, as in `svg_common.video.picture_files`

    def read(self, body: bytes, media_type: str, dtype: Dtype, shape: str | None) -> NDArray[np.float32]:
        """Return the model's frame (H, W, C), float32.

        Args:
            body: of the request.
            media_type: one of `MEDIA_TYPES`.
            dtype: of raw numbers. float32 is the model's frame as it is; uint8 is a picture of any size.
            shape: of raw numbers: height,width or height,width,channels; None: the model's.

        Raises:
            ProblemError: the body is not what it claims to be, or too large.
        """
        if shape is not None and re.fullmatch(SHAPE_PATTERN, shape, re.ASCII) is None:
            raise ProblemError("invalid", f"shape={shape[:40]}", "height,width or height,width,channels with 1 or 3 channels")
        if media_type != RAW:
            return self._preprocessor.fit(self._decode(body, media_type))
        values = self._raw(body, dtype, shape)
        return self._preprocessor.fit(values) if dtype == "uint8" else values.astype(np.float32, copy=False)

    def _raw(self, body: bytes, dtype: Dtype, shape: str | None) -> NDArray[Any]:
        sizes = self._shape if shape is None else tuple(map(int, shape.split(",")))
        sizes = sizes if len(sizes) == 3 else (*sizes, 1)
        self._check_pixels(sizes[0], sizes[1])
        if dtype == "float32" and sizes != self._shape:
            raise ProblemError(
                "invalid", f"a float32 frame of shape {sizes}", f"{self._shape}, the model's",
                advice="fit it yourself, or send uint8, image/png or image/jpeg, which this server fits",
            )  # fmt: skip
        expected = math.prod(sizes) * _SAMPLE_BYTES[dtype]
        if len(body) != expected:
            raise ProblemError(
                "invalid", f"{len(body)} bytes", f"{expected} bytes: {dtype} of shape {sizes}, rows from the top",
                advice="say what you send with the query: ?dtype=uint8&shape=480,640,3",
            )  # fmt: skip
        return np.frombuffer(body, "<f4" if dtype == "float32" else "u1").reshape(sizes)

    def _decode(self, body: bytes, media_type: str) -> NDArray[np.uint8]:
        """Return the picture as (H, W, 3) RGB."""
        size = _png_size(body) if media_type == PNG else _jpeg_size(body)
        if size is None:
            raise ProblemError("invalid", f"the body is not a whole {media_type[6:].upper()} picture", f"one, as {media_type}")
        self._check_pixels(*size)
        body = _without_colour_profile(body) if media_type == PNG else body
        try:
            image = decode_picture(np.frombuffer(body, np.uint8))
        except PictureError as error:
            raise ProblemError("invalid", f"the picture cannot be decoded: {error}", f"a valid {media_type}") from error
        if image.dtype == np.uint16:
            self._bits = max(self._bits, bits_in_use(image))
            image = to_eight_bits(image, self._bits)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def _check_pixels(self, height: int, width: int) -> None:
        if height * width > self._max_pixels:
            raise ProblemError(
                "too-large",
                f"a picture of {width}x{height} pixels",
                f"at most {self._max_pixels} pixels",
                advice="send it smaller",
            )


def _png_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a PNG by its header; None if it is none, or has no end."""
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or b"IEND" not in content[-64:]:
        return None
    width, height = struct.unpack(">II", content[16:24])
    return (height, width) if height and width else None


def _without_colour_profile(content: bytes) -> bytes:
    """The same PNG without colour profiles, which nothing here uses: libpng prints their names, control characters and all.

    Raises:
        ProblemError: very many chunks lie before its pixels.
    """
    kept = [content[:8]]
    at = 8
    for _ in range(_MAX_CHUNKS):
        kind = content[at + 4 : at + 8]
        if kind in (b"IDAT", b""):  # libpng reads no profile behind the first pixels
            return b"".join(kept) + content[at:]
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if kind != b"iCCP":
            kept.append(content[at:end])
        at = end
    raise ProblemError("invalid", f"a PNG of more than {_MAX_CHUNKS} chunks before its pixels", "fewer")


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG by its first frame header; None if it is none, has no end, or more scans than a camera's.

    What is not exactly a marker is refused: a decoder would look on behind it, and could find another header than this one.
    """
    whole = content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda") > 0
    if not whole or content.count(b"\xff\xda") > _MAX_SCANS:
        return None
    at = 2
    for _ in range(_MAX_MARKERS):
        marker = content[at + 1] if at + 9 <= len(content) and content[at] == 0xFF else 0
        if not marker:
            return None
        if marker in _START_OF_FRAME:
            height, width = struct.unpack(">HH", content[at + 5 : at + 9])
            return (height, width) if height and width else None
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None
