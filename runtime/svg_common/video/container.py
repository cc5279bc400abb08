"""The size that a video file should have according to its header: the only sure sign that its end is missing.

FFmpeg reads a truncated AVI, MP4 or Matroska file without an error if it ends between two packets.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_ISO_BOXES = frozenset(b"ftyp styp moov moof mdat free skip wide uuid sidx mfra meta".split())
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_UNSET_SIZES = (0, 0xFFFFFFFF)  # a recorder that was interrupted never filled in the RIFF size


def missing_bytes(path: Path) -> int:
    """Return how many bytes `path` lacks according to its header; 0 if it is complete, or if the format has no size.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF":
            end = _riff_end(file, size)
        elif head[4:8] in _ISO_BOXES:
            end = _iso_end(file, size)
        elif head[:4] == _EBML:
            end = _matroska_end(file)
        else:
            return 0
    return max(0, end - size)


def lacks_index(path: Path) -> bool:
    """Whether `path` is an MP4 or MOV file with pictures but without the index (moov) that recorders write at the end.

    Raises:
        OSError: the file cannot be read.
    """
    size, kinds, end = path.stat().st_size, set(), 0
    with path.open("rb") as file:
        while end < size:
            kind, box_size = _iso_box(file, end)
            if box_size is None and kind != b"mdat":
                break
            kinds.add(kind)
            if box_size is None:
                break  # the recorder writes the size of mdat last, too
            end += box_size
    return b"mdat" in kinds and b"moov" not in kinds


def _riff_end(file: BinaryIO, file_size: int) -> int:
    """AVI: RIFF chunks one after the other, each b"RIFF", uint32 little-endian size, content."""
    end = 0
    while end < file_size:
        file.seek(end)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            break
        (size,) = struct.unpack("<I", head[4:])
        if size in _UNSET_SIZES:
            break
        end += 8 + size + size % 2
    return end - 1 if end == file_size + 1 else end  # the padding byte of the last chunk is often left out


def _iso_end(file: BinaryIO, file_size: int) -> int:
    """MP4 and MOV: boxes one after the other, each uint32 big-endian size, type.

    Size 1: the true size follows as uint64. Size 0: the box reaches to the file's end.
    """
    end = 0
    while end < file_size:
        _, size = _iso_box(file, end)
        if size is None:
            break
        end += size
    return end


def _iso_box(file: BinaryIO, start: int) -> tuple[bytes, int | None]:
    """Type and size of the box at `start`; no size if the header has none, or is no known box."""
    file.seek(start)
    head = file.read(16)
    kind = head[4:8]
    if len(head) < 8 or kind not in _ISO_BOXES:
        return kind, None
    (size,) = struct.unpack(">I", head[:4])
    if size == 1 and len(head) == 16:
        (size,) = struct.unpack(">Q", head[8:])
    return kind, size if size >= 8 else None


def _matroska_end(file: BinaryIO) -> int:
    """Matroska and WebM: the EBML header, then one Segment that holds everything."""
    file.seek(4)
    header_size = _ebml_size(file)
    if header_size is None:
        return 0
    file.seek(header_size, 1)
    if file.read(4) != _SEGMENT:
        return 0
    segment_size = _ebml_size(file)
    return 0 if segment_size is None else file.tell() + segment_size


def _ebml_size(file: BinaryIO) -> int | None:
    """EBML's variable-length integer: as many further bytes as the first one has leading zero bits. None: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    further = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> further)]) + file.read(further), "big")
    return None if value == (1 << 7 * (further + 1)) - 1 else value
