"""Damage in picture files that OpenCV decodes nevertheless: errors in the data of a JPEG, holes of zeros in JPEG and WebP."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN_TABLES, _START_OF_SCAN = 0xC4, 0xDA
_WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xDA))
_STANDARD_TABLES = {0: 0x01, 1: 0x00}  # first codes for brightness and colour, of a file without tables
_END_OF_BLOCK = 0x00
_FFMPEG_MARGIN, _FFMPEG_BYTES = 128, 2**31 - 1  # of the largest picture that FFmpeg decodes, at eight bytes a pixel
_HOLE = bytes(64)  # more than two blocks whose every coefficient is not 0
_VP8_BLOCK = 16  # pixels, each way
_ZEROS_PER_BLOCK = 8  # of plain areas in WebP: 0.03 if blocks can be skipped; else 0.7, and up to 6.4 beside noise
_LONGEST_RUN = 32  # zeros in what is not plain: arithmetic coding gives no more than a few in a row


def is_jpeg(content: NDArray[np.uint8]) -> bool:
    """Whether a file is a JPEG, by its first bytes."""
    return content[: len(_START_OF_IMAGE)].tobytes() == _START_OF_IMAGE


def find_damage(content: NDArray[np.uint8]) -> str | None:
    """What is wrong with the data of a picture that OpenCV can decode; None if nothing is known to be.

    OpenCV returns a damaged JPEG garbled, and its decoder only prints a warning. So FFmpeg decodes it as well, which can be
    told to refuse errors, unless the JPEG is of a kind that FFmpeg does not support, such as arithmetic coding.

    Args:
        content: of a file; other formats than JPEG and lossy WebP are not looked at.
    """
    if is_jpeg(content):
        return _damage_of_jpeg(content.tobytes())
    if content[:4].tobytes() != b"RIFF":  # files of other formats may be large: they are not even copied
        return None
    return "it has a hole of zeros" if _vp8_has_hole(_vp8_data(content.tobytes())) else None


def _damage_of_jpeg(content: bytes) -> str | None:
    segments = list(_segments(content))
    frames = [(marker, body) for marker, body, _ in segments if marker in _START_OF_FRAME]
    if not frames or frames[0][0] not in (*_BASELINE, _PROGRESSIVE) or frames[0][1][:1] != b"\x08":
        return None
    if frames[0][0] in _BASELINE and _zeros_are_no_picture(segments):
        start = segments[-1][2]
        content = _without_padding(content, start)
        if content.find(_HOLE, start, _end_of_scan(content, start)) >= 0:
            return "it has a hole of zeros"
    return "it decodes with errors" if not _is_too_large(frames[0][1]) and _is_refused(content) else None


def _is_too_large(frame: bytes) -> bool:
    """Whether FFmpeg refuses a picture for its size, which says nothing about its data."""
    height, width = (int.from_bytes(frame[at : at + 2], "big") for at in (1, 3))
    return 8 * (width + _FFMPEG_MARGIN) * (height + _FFMPEG_MARGIN) >= _FFMPEG_BYTES


def _is_refused(content: bytes) -> bool:
    import av

    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1  # there is one picture
    decoder.options = {"err_detect": "explode"}
    try:
        decoder.decode(av.Packet(content))
    except av.InvalidDataError:
        return True
    except av.FFmpegError:  # not supported, or a want of memory: it says nothing about the file
        return False
    return False


def _segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """The segments of a JPEG up to its first scan: marker, content, and where it ends."""
    at = len(_START_OF_IMAGE)
    while (at := content.find(b"\xff", at)) >= 0:
        marker, start = content[at + 1 : at + 2], at + 4
        if not marker:
            return
        if marker[0] in _WITHOUT_LENGTH or marker == b"\xff":  # 0xFF before a marker fills up
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : start], "big")
        yield marker[0], content[start:end], end
        if marker[0] == _START_OF_SCAN or end < start:
            return
        at = end


def _zeros_are_no_picture(segments: list[tuple[int, bytes, int]]) -> bool:
    """Whether many zeros in a row cannot be part of a picture; only known of a JPEG with one scan.

    Where the shortest code ends a block, which encoders that optimize their tables choose for plain areas, zeros are such an
    area. Else each block of a run of zeros has none but coefficients that are not 0.
    """
    marker, scan, _ = segments[-1]
    components = next((body[5] for kind, body, _ in segments if kind in _BASELINE and len(body) > 5), 0)
    if marker != _START_OF_SCAN or not scan or scan[0] != components:
        return False
    tables = {scan[2 + 2 * number] & 15 for number in range(components) if len(scan) > 2 + 2 * number}
    first = _first_ac_codes(segments)
    return any(first.get(table, _END_OF_BLOCK) != _END_OF_BLOCK for table in tables)


def _end_of_scan(content: bytes, start: int) -> int:
    end = content.find(_END_OF_IMAGE, start)
    return end if end >= 0 else len(content)


def _without_padding(content: bytes, start: int) -> bytes:
    """A JPEG with fewer zeros at the end of its scan than a hole has.

    Some cameras fill up to a fixed length there. If the zeros stand for lost data instead, FFmpeg will miss what was cut.
    """
    end = _end_of_scan(content, start)
    kept = start + len(content[start:end].rstrip(b"\0")) + len(_HOLE) - 1
    return content[:kept] + content[end:] if kept < end else content


def _first_ac_codes(segments: list[tuple[int, bytes, int]]) -> dict[int, int]:
    """What a code of zeros stands for in each Huffman table of coefficients."""
    first = dict(_STANDARD_TABLES)
    for marker, body, _ in segments:
        at = 0
        while marker == _HUFFMAN_TABLES and at + 17 < len(body):
            if body[at] >> 4:
                first[body[at] & 15] = body[at + 17]
            at += 17 + sum(body[at + 1 : at + 17])
    return first


def _vp8_has_hole(data: bytes) -> bool:
    """Whether a coded picture (RFC 6386, 9.1) has more zeros in a row than plain areas have."""
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    blocks = -(-width // _VP8_BLOCK) * -(-height // _VP8_BLOCK)
    return bytes(_LONGEST_RUN + blocks * _ZEROS_PER_BLOCK) in data


def _vp8_data(content: bytes) -> bytes:
    """The coded picture of a lossy WebP; empty for all other files."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return b""
    at = 12
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if content[at : at + 4] == b"VP8 ":
            return content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return b""
