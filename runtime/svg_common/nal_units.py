"""Damage in H.264 and H.265 that a decoder does not notice: zeros where none can be."""

from __future__ import annotations

from typing import Any

_LENGTH_SIZE_BYTE = {"h264": 4, "hevc": 21}  # of the configuration record (ISO/IEC 14496-15); its two lowest bits, plus 1
_FORBIDDEN = b"\0\0\0"


class NalReader:
    """Looks for three zeros in a row in the NAL units of pictures, where emulation prevention forbids them.

    Holes in a file are zeros: interrupted downloads and failing disks leave them. Decoders take them for pictures.

    Args:
        codec: "h264" or "hevc".
        length_size: bytes before each NAL unit that hold its length.
    """

    def __init__(self, codec: str, length_size: int) -> None:
        self._is_h264 = codec == "h264"
        self._length_size = length_size

    @classmethod
    def of(cls, codec_context: Any) -> NalReader | None:
        """The reader for a stream with lengths before its NAL units, as in MP4 and Matroska; None for others."""
        place = _LENGTH_SIZE_BYTE.get(codec_context.name)
        record = codec_context.extradata or b""
        if place is None or len(record) <= place or record[0] != 1:
            return None
        return cls(codec_context.name, (record[place] & 3) + 1)

    def is_damaged(self, packet: Any) -> bool:
        """Whether a part of the picture in `packet` was overwritten with zeros."""
        data, start = bytes(packet), 0
        while start + self._length_size < len(data):
            end = start + self._length_size
            stop = end + int.from_bytes(data[start:end], "big")
            unit = data[end:stop]
            # Encoders fill up with zeros behind a unit, and write other units without emulation prevention.
            if self._is_picture(unit) and _FORBIDDEN in unit.rstrip(b"\0"):
                return True
            start = stop
        return False

    def _is_picture(self, unit: bytes) -> bool:
        if not unit:
            return False
        return 1 <= unit[0] & 31 <= 5 if self._is_h264 else (unit[0] >> 1) & 63 < 32
