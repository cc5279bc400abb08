"""Image messages to arrays and back: every encoding, padded rows, and what is refused."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest

from svg_edge_ros.image_messages import ImageError, image_fields, picture_of, picture_of_compressed
from tests.integrations.ros2.stand_in import message_class

Image = message_class("sensor_msgs/msg/Image")
CompressedImage = message_class("sensor_msgs/msg/CompressedImage")
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
GRAY = RGB[..., 0]


def message_of(rows: np.ndarray, encoding: str, width: int, padding: int = 0, big_endian: bool = False):
    """An image with `padding` bytes after each row."""
    flat = np.pad(rows.reshape(len(rows), -1), ((0, 0), (0, padding)), constant_values=99)
    return Image(
        height=len(rows), width=width, encoding=encoding, step=flat.shape[1], is_bigendian=int(big_endian),
        data=array("B", flat.tobytes()),
    )  # fmt: skip


def with_alpha(picture: np.ndarray) -> np.ndarray:
    return np.concatenate([picture, np.full_like(picture[..., :1], 7)], axis=2)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    ("encoding", "rows", "expected"),
    [
        ("rgb8", RGB, RGB), ("bgr8", RGB[..., ::-1], RGB), ("mono8", GRAY, GRAY), ("8UC1", GRAY, GRAY),
        ("rgba8", with_alpha(RGB), RGB), ("bgra8", with_alpha(RGB[..., ::-1]), RGB),
        ("8UC3", RGB[..., ::-1], RGB), ("8UC4", with_alpha(RGB[..., ::-1]), RGB),
    ],
)  # fmt: skip
def test_every_encoding_is_read(encoding, rows, expected, padding, big_endian):
    message = message_of(rows, encoding, width=8, padding=padding, big_endian=big_endian)
    np.testing.assert_array_equal(picture_of(message), expected)


@pytest.mark.parametrize(
    ("names", "order"), [(("yuv422", "uyvy"), (1, 0, 3, 2)), (("yuv422_yuy2", "yuyv"), (0, 1, 2, 3))], ids=["uyvy", "yuyv"]
)
def test_packed_yuv_has_two_orders(names, order):
    """Two pixels share their colour: Y0 U Y1 V, or U Y0 V Y1. A red and a blue pair, by BT.601."""
    pairs = np.array([[82, 90, 82, 240], [41, 240, 41, 110]], np.uint8)
    for name in names:
        picture = picture_of(message_of(pairs[:, order].reshape(1, 4, 2), name, width=4, padding=3))
        assert picture.shape == (1, 4, 3)
        np.testing.assert_allclose(picture[0, :2], [[255, 0, 0]] * 2, atol=3)
        np.testing.assert_allclose(picture[0, 2:], [[0, 0, 255]] * 2, atol=3)


@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_has_the_colours_that_its_name_says(order):
    """A row after the other, from the corner: `rggb` is red and green, and below them green and blue."""
    colour = {"r": 200, "g": 100, "b": 50}
    mosaic = np.tile(np.array([colour[letter] for letter in order], np.uint8).reshape(2, 2), (3, 4))
    picture = picture_of(message_of(mosaic, f"bayer_{order}8", width=8, padding=3))
    np.testing.assert_array_equal(picture, np.full((6, 8, 3), (200, 100, 50), np.uint8))


def test_the_last_row_may_lack_its_padding():
    message = message_of(RGB, "rgb8", width=8, padding=4)
    message.data = message.data[:-4]
    np.testing.assert_array_equal(picture_of(message), RGB)


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "16UC1", "32FC1", "8UC2", "bayer_rggb16", "nv21", ""])
def test_other_encodings_are_refused_as_one_kind(encoding):
    with pytest.raises(ImageError, match="expected one of: rgb8") as refused:
        picture_of(message_of(np.zeros((4, 4, 2), np.uint8), encoding, width=4))
    assert refused.value.kind == "encoding"


@pytest.mark.parametrize(
    "change",
    [
        {"height": 7}, {"height": 0}, {"height": 2**32 - 1}, {"width": 0}, {"width": 9}, {"step": 0}, {"step": 23},
        {"data": array("B")},
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused(change):
    message = message_of(RGB, "rgb8", width=8)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError) as refused:
        picture_of(message)
    assert refused.value.kind == "layout"


def test_yuv_needs_pairs_of_pixels():
    with pytest.raises(ImageError):
        picture_of(message_of(np.zeros((2, 3, 2), np.uint8), "yuv422", width=3))


def compressed(picture: np.ndarray, suffix: str):
    _, data = cv2.imencode(suffix, picture)
    return CompressedImage(format=suffix[1:], data=array("B", data.tobytes()))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(RGB[..., ::-1], RGB), (GRAY, GRAY), (with_alpha(RGB[..., ::-1]), RGB)],
    ids=["bgr", "gray", "bgra"],
)
def test_compressed_images_are_read(stored, expected):
    np.testing.assert_array_equal(picture_of_compressed(compressed(np.ascontiguousarray(stored), ".png")), expected)


def test_jpeg_is_read():
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)  # RGB
    np.testing.assert_allclose(picture_of_compressed(compressed(smooth[..., ::-1].copy(), ".jpg")), smooth, atol=4)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (compressed(GRAY.astype(np.uint16), ".png"), "depth"),
        (CompressedImage(format="jpeg", data=array("B", b"\xff\xd8 no picture")), "undecodable"),
        (CompressedImage(format="jpeg"), "undecodable"),
    ],
)
def test_compressed_images_that_cannot_be_used_are_refused(message, kind):
    with pytest.raises(ImageError) as refused:
        picture_of_compressed(message)
    assert refused.value.kind == kind


@pytest.mark.parametrize(
    ("picture", "encoding"),
    [(RGB, "rgb8"), (GRAY, "mono8"), (GRAY[..., None], "mono8"), (RGB[..., 0].astype(np.float32) / 255, "32FC1")],
)
def test_what_is_published_is_what_it_was(picture, encoding):
    fields = image_fields(picture)
    assert (fields.height, fields.width, fields.encoding, fields.is_bigendian) == (6, 8, encoding, 0)
    message = Image(**vars(fields))
    message.to_cdr()
    found = np.frombuffer(message.data, "<f4" if encoding == "32FC1" else np.uint8).reshape(picture.shape)
    np.testing.assert_array_equal(found, picture)
    assert message.step * message.height == len(message.data)
