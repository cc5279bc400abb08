"""JPEG pictures in a stream of bytes, found by their own markers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from svg_runtime.live.sources.jpeg_splitter import JpegSplitter
from tests.svg_runtime.live.network_cameras import picture


def jpeg(number: int, progressive: bool = False, restart: int = 0) -> bytes:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    return cv2.imencode(".jpg", picture(number), options)[1].tobytes()


def with_thumbnail(number: int) -> bytes:
    """A picture with another one, whole, in a segment of its header."""
    content = b"Exif\0\0" + jpeg(number + 100)
    return jpeg(number)[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + jpeg(number)[2:]


@pytest.mark.parametrize("piece", [1, 2, 3, 100, 1 << 20])
def test_pictures_are_found_whatever_is_between_them(piece):
    pictures = [jpeg(0), jpeg(1, progressive=True), jpeg(2, restart=1), with_thumbnail(3), jpeg(4)]
    between = [b"--frame\r\nX-Odd\r\n\r\n", b"", b"\xff", b"\xff\xd8 \xff\xd9", b"\r\n"]
    sent = b"".join(text + one for text, one in zip(between, pictures, strict=True))
    splitter, found = JpegSplitter(), []
    for start in range(0, len(sent), piece):
        found += splitter.split(sent[start : start + piece])
    assert found == pictures
    assert splitter.count == len(pictures)
    assert splitter.skipped == len(between[0])


def test_a_picture_is_there_with_its_last_byte():
    splitter = JpegSplitter()
    assert splitter.split(jpeg(0)[:-1]) == []
    assert splitter.split(jpeg(0)[-1:]) == [jpeg(0)]


def test_a_cut_off_picture_ends_where_the_next_one_begins():
    half = jpeg(0)[: len(jpeg(0)) * 3 // 4]
    assert JpegSplitter().split(half + jpeg(1)) == [half, jpeg(1)]


def test_two_begins_in_a_row_are_no_picture():
    splitter = JpegSplitter()
    assert splitter.split(b"\xff\xd8" + jpeg(0)) == [jpeg(0)]
    assert splitter.count == 1


def test_any_bytes_end_in_pictures_again():
    noise = np.random.default_rng(0).integers(0, 256, 1 << 18).astype(np.uint8).tobytes()
    splitter = JpegSplitter()
    found = splitter.split(noise + b"\xff\xd8\xff" + bytes(100) + 3 * jpeg(1) + 100 * jpeg(2))
    assert found[-50:] == 50 * [jpeg(2)]


def test_a_picture_without_end_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.jpeg_splitter._MOST_BYTES", 1000)
    splitter = JpegSplitter()
    for _ in range(10):
        assert splitter.split(jpeg(0)[:700] + bytes(700)) == []
        assert len(splitter._data) <= 1000
    assert splitter.split(jpeg(1)[:500]) == []
