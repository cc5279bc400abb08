"""Pages of Ogg files: each has a checksum and a number within its stream. FFmpeg passes over damaged pages silently."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MARK = b"OggS"
_HEAD = 27  # bytes; then the sizes of the segments, as many as the last of these bytes says
_VERSION, _FLAGS, _CHECKSUM = 4, 5, slice(22, 26)
_FIRST, _LAST, _ALL_FLAGS = 2, 4, 7  # flags: of the pages of a stream
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # Ogg counts the bits the other way round than zlib
_SEARCHED = 1 << 16  # bytes at once


@dataclass(frozen=True)
class _Page:
    position: int
    end: int
    stream: bytes
    number: int
    flags: int


class OggPages:
    """Follows the reading of a file, and finds which pages of the film are missing. A file that is not Ogg has none.

    Args:
        path: of any file.

    Raises:
        OSError: the file cannot be read; also raised by the methods.
    """

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        self._pages = _undamaged_pages(path)
        self._ahead = next(self._pages, None)
        self._latest: dict[bytes, _Page] = {}
        self._incomplete: set[bytes] = set()  # streams of which pages are missing
        self._film: bytes | None = None
        self._end = 0

    def missing_before(self, position: int) -> bool:
        """Whether pages of the film are missing since the last call, up to the one at `position`, in which a packet begins."""
        page = self._advance(position)
        self._film = page.stream if page is not None else self._film
        missing = self._film in self._incomplete
        self._incomplete.discard(self._film or b"")
        return missing

    def missing_at_end(self) -> bool:
        """Whether pages of the film are missing since the last call, up to the end of the file."""
        self._advance(math.inf)
        film = self._latest.get(self._film or b"")
        return film is not None and (self._film in self._incomplete or (not film.flags & _LAST and self._end < self._size))

    def _advance(self, position: float) -> _Page | None:
        """Read all pages up to the one at `position`, and return it if it is there."""
        page = None
        while self._ahead is not None and self._ahead.position <= position:
            page = self._ahead
            before = self._latest.get(page.stream)
            if before is not None and page.number != before.number + 1 and not page.flags & _FIRST:
                self._incomplete.add(page.stream)
            self._latest[page.stream] = page
            self._end = page.end
            self._ahead = next(self._pages, None)
        return page if page is not None and page.position == position else None


def _undamaged_pages(path: Path) -> Iterator[_Page]:
    with path.open("rb") as file:
        position: int | None = 0 if file.read(len(_MARK)) == _MARK else None
        while position is not None:
            page = _page(file, position)
            if page is None:
                position = _next_mark(file, position + 1)
            else:
                yield page
                position = page.end


def _page(file: BinaryIO, position: int) -> _Page | None:
    """The page that begins at `position`, if one does and it is not damaged."""
    file.seek(position)
    head = file.read(_HEAD)
    # Version and flags are checked first: summing what a mark within the data leads to takes long.
    if len(head) < _HEAD or not head.startswith(_MARK) or head[_VERSION] != 0 or head[_FLAGS] > _ALL_FLAGS:
        return None
    sizes = file.read(head[-1])
    body = sizes + file.read(sum(sizes))
    summed = head[: _CHECKSUM.start] + bytes(4) + head[_CHECKSUM.stop :] + body
    checksum = zlib.crc32(summed.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    if checksum.to_bytes(4, "big").translate(_MIRRORED) != head[_CHECKSUM]:
        return None
    return _Page(
        position=position,
        end=position + len(summed),
        stream=head[14:18],
        number=int.from_bytes(head[18:22], "little"),
        flags=head[_FLAGS],
    )


def _next_mark(file: BinaryIO, position: int) -> int | None:
    file.seek(position)
    while len(piece := file.read(_SEARCHED)) >= len(_MARK):
        found = piece.find(_MARK)
        if found >= 0:
            return file.tell() - len(piece) + found
        file.seek(1 - len(_MARK), 1)
    return None
