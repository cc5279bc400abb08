"""Packets of MPEG transport streams: each begins with a sync byte, the number of its stream, and a counter of that stream."""

from __future__ import annotations

from typing import BinaryIO

_LAYOUTS = ((188, 0), (192, 4), (204, 0))  # size of a packet and where its head is: plain, time of arrival, error correction
_SYNC = 0x47
_HEADS = 8  # in a row make a transport stream: one or two may be chance
_TABLES = 16  # packets from the table of programs to the first one of a picture: other tables, sound


def ts_layout(file: BinaryIO, position: int) -> tuple[int, int] | None:
    """Size of an MPEG-TS packet and the place of its head, if one is at `position`, and others before or after it."""
    for size, begin in _LAYOUTS:
        for direction in (-1, 1):
            if all(_is_head(_head(file, position + begin + direction * count * size)) for count in range(_HEADS)):
                return size, begin
    return None


def counts_anew(file: BinaryIO, position: int) -> bool:
    """Whether the MPEG-TS packet at `position`, and the table of programs before it, are the first ones that were written."""
    layout = ts_layout(file, position)
    if layout is None:
        return False
    size, begin = layout
    heads = [_head(file, position + begin - count * size) for count in range(_TABLES)]
    table = next((head for head in heads[1:] if _is_head(head) and _stream_id(head) == 0), None)
    return _counter(heads[0]) == 0 and table is not None and _counter(table) == 0


def _head(file: BinaryIO, position: int) -> bytes:
    """Sync byte, stream and counter of a packet; zeros before the file's begin and behind its end."""
    file.seek(max(position, 0))
    return file.read(4).ljust(4, b"\0") if position >= 0 else bytes(4)


def _is_head(head: bytes) -> bool:
    return head[0] == _SYNC


def _stream_id(head: bytes) -> int:
    return int.from_bytes(head[1:3], "big") & 0x1FFF


def _counter(head: bytes) -> int:
    return head[3] & 0x0F
