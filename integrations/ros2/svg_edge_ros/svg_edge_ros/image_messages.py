"""Between image messages and arrays, without cv_bridge: it would bring an OpenCV and a numpy of its own."""

from __future__ import annotations

from array import array
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

# sensor_msgs/image_encodings.hpp: bytes per pixel, and OpenCV's conversion to RGB or gray. The first two names of packed
# YUV 4:2:2 are those of ROS 2 from Iron on, the others the older ones: "yuv422" is UYVY. What cv_bridge was given
# without an encoding is named by its channels, "8UC3", and comes from OpenCV: BGR. Names of a mosaic are its first two rows, as
# in OpenCV's longer names: its BayerRG is another one than its BayerRGGB.
_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "mono8": (1, None),
    "8UC1": (1, None),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGRBG2RGB),
}


class ImageError(ValueError):
    """A message holds no picture that can be used.

    Attributes:
        kind: what is wrong, the same text for all messages of a kind: such a problem is reported once.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def picture_of(message: Any) -> Picture:
    """Return the picture of a sensor_msgs/Image: (H, W, 3) RGB or (H, W) gray, uint8.

    Rows may be padded, to `step` bytes. `is_bigendian` is ignored for samples of one byte; those of two are refused.

    Raises:
        ImageError: the encoding is not supported, or the data do not fit their description.
    """
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    if encoding not in _ENCODINGS:
        raise ImageError(
            "encoding",
            f"images with encoding '{encoding}' are left out\n"
            f"  expected one of: {', '.join(_ENCODINGS)}; set the camera's driver to one of them",
        )
    channels, conversion = _ENCODINGS[encoding]
    data = np.frombuffer(message.data, np.uint8)
    row = width * channels
    if min(height, width) < 1 or step < row or len(data) < step * (height - 1) + row or (channels == 2 and width % 2):
        size = f"{len(data)} bytes in steps of {step}"
        raise ImageError("layout", f"an image is left out: {size} are no {width}x{height} picture with encoding '{encoding}'")
    rows = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
    picture = rows if channels == 1 else rows.reshape(height, width, channels)
    if conversion is None:
        return picture
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(picture), conversion), np.uint8)


def check_picture(picture: NDArray[Any]) -> None:
    """Whether it can be observed.

    Raises:
        ImageError: it is not (H, W, 3) or (H, W) uint8, or has no pixels.
    """
    known = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (1, 3))
    if picture.dtype != np.uint8 or not known or picture.size == 0:
        raise ImageError(
            "picture",
            f"an image is left out: its shape is {picture.shape}, of {picture.dtype}\n"
            "  expected (height, width, 3) RGB or (height, width) gray, of uint8",
        )


def picture_of_compressed(message: Any) -> Picture:
    """Return the picture of a sensor_msgs/CompressedImage, JPEG or PNG, as `picture_of`.

    Raises:
        ImageError: it cannot be decoded, or its samples have more than 8 bits, as in depth images.
    """
    data = np.frombuffer(message.data, np.uint8)
    image = None
    with suppress(cv2.error):  # what is no image, and what would be too large a one
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        found = f"{len(data)} bytes of '{message.format}'"
        raise ImageError("undecodable", f"a compressed image is left out: {found} are no JPEG or PNG")
    if image.dtype != np.uint8:
        raise ImageError("depth", f"compressed images with {image.dtype} samples are left out\n  expected 8 bits per sample")
    if image.ndim == 2:
        return np.asarray(image, np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGB), np.uint8)


@dataclass(frozen=True)
class ImageFields:
    """The fields of a sensor_msgs/Image, but for its header."""

    height: int
    width: int
    encoding: str
    step: int
    data: array[int]  # of type code B, the only one that rclpy takes without a look at each byte
    is_bigendian: int = 0


def image_fields(picture: NDArray[np.uint8] | NDArray[np.float32]) -> ImageFields:
    """Describe a picture: (H, W, 3) uint8 as rgb8, (H, W) or (H, W, 1) uint8 as mono8, (H, W) float32 as 32FC1."""
    height, width = picture.shape[:2]
    is_color = picture.ndim == 3 and picture.shape[2] == 3
    encoding = "32FC1" if picture.dtype == np.float32 else "rgb8" if is_color else "mono8"
    little_endian = np.ascontiguousarray(picture, picture.dtype.newbyteorder("<"))
    data = array("B", little_endian.tobytes())
    return ImageFields(height=height, width=width, encoding=encoding, step=len(data) // height, data=data)
