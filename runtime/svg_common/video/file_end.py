"""Whether the end of a file is there, in formats whose headers do not say how long they are: `container` has the others."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from svg_common.video.transport import ts_layout

_GIF, _PNG, _Y4M, _DV = (b"GIF87a", b"GIF89a"), b"\x89PNG\r\n\x1a\n", b"YUV4MPEG2", b"\x1f\x07\x00"
_GIF_END, _GIF_EXTENSION, _GIF_PICTURE = b"\x3b", b"\x21", b"\x2c"
_GIF_NEXT = re.compile(rb"\x21\xf9\x04.{4}\0[\x21\x2c]", re.DOTALL)  # how long a picture is shown, before each one
_PNG_END = b"IEND"
_CHECKSUM = 4  # bytes after the data of a PNG chunk


class FileEnd(Enum):
    """How a file ends."""

    WHOLE = "whole, or of a format that has no end mark"
    UNMARKED = "after a picture, but without the mark of its end"
    CUT = "within a picture"
    LOST = "damaged within a picture, and the pictures after it cannot be found"


def file_end(path: Path, position: int, length: int) -> FileEnd:
    """Return how a GIF, APNG, YUV4MPEG, DV or MPEG-TS file ends. What follows an end mark does not matter, but for pictures.

    Args:
        path: of any file.
        position: where the packet of its last picture begins, as FFmpeg says it.
        length: bytes of that packet.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(len(_Y4M))
        if head.startswith(_GIF):
            return _gif_end(file, size)
        if head.startswith(_PNG):
            return _png_end(file, size)
        if head == _Y4M:
            return FileEnd.UNMARKED if position + length < size else FileEnd.WHOLE  # FFmpeg leaves a part of a picture out
        if head.startswith(_DV):
            return FileEnd.CUT if position + length > size else FileEnd.WHOLE
        return _ts_end(file, size, position)


def _gif_end(file: BinaryIO, size: int) -> FileEnd:
    """GIF: 13 bytes, a colour table, then extensions and pictures, each of sub-blocks up to an empty one.

    Damage makes a sub-block longer or shorter, after which anything may be taken for a mark.
    """
    _skip_gif_head(file, 0)
    while mark := file.read(1):
        begin = file.tell()
        if mark == _GIF_END:
            if file.read(len(_GIF[0])) not in _GIF:
                return FileEnd.LOST if _has_gif_picture(file, begin) else FileEnd.WHOLE
            _skip_gif_head(file, begin)  # another one, as `cat` joins them
            continue
        if mark == _GIF_PICTURE:
            place = file.read(9)
            file.seek(_colours(place[8:]) + 1, 1)  # and the size of the codes
        elif mark == _GIF_EXTENSION:
            file.seek(1, 1)
        else:
            return _after_unknown_mark(mark + file.read())
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], 1)
        else:
            return FileEnd.LOST if _has_gif_picture(file, begin) else FileEnd.CUT
    return FileEnd.UNMARKED if file.tell() <= size else FileEnd.CUT


def _skip_gif_head(file: BinaryIO, begin: int) -> None:
    file.seek(begin + 10)
    file.seek(begin + 13 + _colours(file.read(1)))


def _has_gif_picture(file: BinaryIO, begin: int) -> bool:
    """Whether a picture begins at `begin` or later."""
    file.seek(begin)
    return _GIF_NEXT.search(file.read()) is not None  # FFmpeg has it all in memory as well, in one packet


def _after_unknown_mark(rest: bytes) -> FileEnd:
    """Some programs write zeros before the end mark."""
    ends = {b"": FileEnd.UNMARKED, _GIF_END: FileEnd.WHOLE}
    return ends.get(rest.strip(b"\0"), FileEnd.LOST)


def _colours(flags: bytes) -> int:
    """Bytes of the colour table that the flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _png_end(file: BinaryIO, size: int) -> FileEnd:
    """PNG: chunks, each uint32 big-endian size, type, data, checksum."""
    end = len(_PNG)
    while end < size:
        file.seek(end)
        head = file.read(8)
        if len(head) < 8:
            return FileEnd.UNMARKED
        end += 8 + int.from_bytes(head[:4], "big") + _CHECKSUM
        if head[4:] == _PNG_END:
            return FileEnd.WHOLE if end <= size else FileEnd.UNMARKED
    return FileEnd.UNMARKED if end == size else FileEnd.CUT


def _ts_end(file: BinaryIO, size: int, last_packet: int) -> FileEnd:
    """MPEG-TS: packets of one size, and each picture begins with one."""
    layout = ts_layout(file, last_packet)
    return FileEnd.CUT if layout is not None and (size - last_packet) % layout[0] > layout[1] else FileEnd.WHOLE
