"""The size that a video file should have according to its header: the only sure sign that its end is missing.

FFmpeg reads a truncated AVI, MP4 or Matroska file without an error if it ends between two packets.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from svg_common.quantities import count_text, is_or_are

_ISO_BOXES = frozenset(b"ftyp styp moov moof mdat free skip wide uuid sidx mfra meta".split())
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# How files begin whose second one FFmpeg does not read, if they are joined: FLV, ASF, APNG, YUV4MPEG, IVF.
_BEGINS = (
    *(b"FLV\x01", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
    *(b"\x89PNG\r\n\x1a\n", b"YUV4MPEG2 ", b"DKIF\0\0\x20\0"),
)
_LONGEST_BEGIN = max(map(len, _BEGINS))
_SEARCHED = 1 << 20  # bytes after the last packet: what ends a file, such as an index
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
            end = max((end for _, end in _iso_boxes(path)), default=0)
        elif head[:4] == _EBML:
            end = _matroska_end(file)
        else:
            return 0
    return max(0, end - size)


def index_problem(path: Path) -> str | None:
    """What is wrong with the index (moov) of an MP4 or MOV file, which recorders write at the end; None if it is all there.

    Raises:
        OSError: the file cannot be read.
    """
    boxes = _iso_boxes(path)
    kinds = [kind for kind, _ in boxes]
    if not boxes or (b"meta" in kinds and b"moov" not in kinds):  # a still picture, such as HEIC
        return None
    if b"moov" not in kinds:
        return "it has no index (moov)"
    cut = max(end for kind, end in boxes if kind == b"moov") - path.stat().st_size
    return f"its index (moov) is cut: {count_text(cut, 'byte')} {is_or_are(cut)} missing" if cut > 0 else None


def is_joined(path: Path, read_to: int) -> bool:
    """Whether `path` is several files one after the other, as `cat` writes them, of which FFmpeg plays the first.

    Args:
        path: of a file of any kind; MP4, MOV, FLV, ASF, APNG, YUV4MPEG and IVF are known.
        read_to: where the last packet ends that was read whole; 0 if none was.

    Raises:
        OSError: the file cannot be read.
    """
    boxes = _iso_boxes(path)
    if boxes:
        after = {kind for (kind, _), (_, start) in zip(boxes[1:], boxes[:-1], strict=True) if start >= read_to}
        return [kind for kind, _ in boxes].count(b"moov") > 1 and b"mdat" in after
    with path.open("rb") as file:
        head = file.read(_LONGEST_BEGIN)
        begin = next((each for each in _BEGINS if head.startswith(each)), None)
        file.seek(max(read_to, 1))  # not the begin of the file itself
        return begin is not None and begin in file.read(_SEARCHED)


def _iso_boxes(path: Path) -> list[tuple[bytes, int]]:
    """Type and end of the boxes of an MP4 or MOV file; none for other files. The last one may end behind the file."""
    size, end = path.stat().st_size, 0
    boxes: list[tuple[bytes, int]] = []
    with path.open("rb") as file:
        while end < size:
            kind, box_size = _iso_box(file, end)
            if kind not in _ISO_BOXES:
                break
            end = size if box_size is None else end + box_size  # the recorder writes the size of mdat last, too
            boxes.append((kind, end))
    return boxes


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


def _iso_box(file: BinaryIO, start: int) -> tuple[bytes, int | None]:
    """Type and size of the box at `start`, which is uint32 big-endian size, type; no size if the header has none.

    Size 1: the true size follows as uint64. Size 0: the box reaches to the file's end.
    """
    file.seek(start)
    head = file.read(16)
    kind = head[4:8]
    if len(head) < 8:
        return b"", None
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
