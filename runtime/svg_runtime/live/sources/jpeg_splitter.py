"""Finds JPEG pictures in a stream by their own markers, whatever a camera sends between them."""

from __future__ import annotations

import re

_BEGIN = b"\xff\xd8\xff"
# A marker that ends a picture, begins the next one, or has a length. The others stand within the compressed data.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_START_OF_IMAGE, _END_OF_IMAGE = 0xD8, 0xD9
_NOTHING = b"\xff\xd8"  # between two begins in a row
_MOST_BYTES = 64 << 20  # of a picture


class JpegSplitter:
    """Cuts received data into JPEG pictures. Each is returned with its last byte: FFmpeg's parser waits for the next picture.

    Attributes:
        count: pictures so far.
        skipped: bytes before the first picture.
    """

    def __init__(self) -> None:
        self.count = 0
        self.skipped = 0
        self._data = bytearray()
        self._at = 0  # the part of the picture before this has been looked at; 0 where none has begun

    def split(self, received: bytes) -> list[bytes]:
        """Return the pictures that end in what was received now."""
        self._data += received
        pictures: list[bytes] = []
        while self._find_begin() and (end := self._find_end()) is not None:
            picture = bytes(self._data[:end])
            self._drop(end)
            if picture != _NOTHING:
                pictures.append(picture)
                self.count += 1
        return pictures

    def _find_begin(self) -> bool:
        """Drop what is before a picture. Whether one has begun."""
        if self._at:
            return True
        begin = self._data.find(_BEGIN)
        before = begin if begin >= 0 else max(0, len(self._data) - len(_BEGIN) + 1)
        self.skipped += 0 if self.count else before
        self._drop(before)
        self._at = 2 if begin >= 0 else 0
        return begin >= 0

    def _find_end(self) -> int | None:
        """Where the picture ends; None if that has not been received. A cut-off one ends where the next one begins."""
        while marker := _MARKER.search(self._data, self._at):
            self._at = marker.start()
            kind = marker[1][0]
            if kind == _END_OF_IMAGE:
                return marker.end()
            if kind == _START_OF_IMAGE:
                return marker.start()
            length = self._data[marker.end() : marker.end() + 2]
            if len(length) < 2:
                return None
            self._at = marker.end() + int.from_bytes(length, "big")  # past a thumbnail, which has markers too
        self._at = max(self._at, len(self._data) - 1)  # its last byte may be the first one of a marker
        if len(self._data) > _MOST_BYTES:
            self._drop(len(self._data))
        return None

    def _drop(self, count: int) -> None:
        del self._data[:count]
        self._at = 0
