"""Damage that decoders do not notice: holes of zeros, which interrupted downloads and failing disks leave in a file."""

from __future__ import annotations

import re
from typing import Any

_LENGTH_SIZE_BYTE = {"h264": 4, "hevc": 21}  # of the configuration record (ISO/IEC 14496-15); its two lowest bits, plus 1
_FORBIDDEN = b"\0\0\0"
_START_CODE = b"\0\0\1"
# Units that end a sequence or a stream, with their start codes: some muxers leave them at the end of the last picture's unit.
_ENDS = {
    "h264": re.compile(rb"(?:\x00\x00\x01[\x0a\x0b]\x00*)+\Z"),
    "hevc": re.compile(rb"(?:\x00\x00\x01[\x48\x4a]\x01\x00*)+\Z"),
}
_ARITHMETIC = frozenset(("vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1"))
_LONGEST_RUN = 32  # zeros; encoders fill up with fewer, and arithmetic coding gives no more than a few in a row


class HoleFinder:
    """Looks for zeros in packets where an intact one has none.

    In H.264 and H.265, emulation prevention forbids three in a row in the NAL units of pictures.

    Args:
        codec: FFmpeg's name of the decoder.
        length_size: bytes before each NAL unit that hold its length; 0 for start codes.
    """

    def __init__(self, codec: str, length_size: int) -> None:
        self._codec = codec
        self._length_size = length_size

    @classmethod
    def of(cls, codec_context: Any) -> HoleFinder | None:
        """The finder for a stream; None for a codec in which intact packets may have long runs of zeros."""
        codec, record = codec_context.name, codec_context.extradata or b""
        place = _LENGTH_SIZE_BYTE.get(codec)
        if place is None:
            return cls(codec, 0) if codec in _ARITHMETIC else None
        has_lengths = len(record) > place and record[0] == 1
        return cls(codec, (record[place] & 3) + 1 if has_lengths else 0)

    def has_hole(self, packet: Any) -> bool:
        """Whether a part of the picture in `packet` was overwritten with zeros."""
        data = bytes(packet)
        if self._codec not in _LENGTH_SIZE_BYTE:
            return bytes(_LONGEST_RUN) in data
        if self._length_size:
            return self._has_hole_between_lengths(data)
        return any(self._is_picture(unit) and _FORBIDDEN in unit.rstrip(b"\0") for unit in data.split(_START_CODE))

    def _has_hole_between_lengths(self, data: bytes) -> bool:
        start = 0
        while start + self._length_size < len(data):
            end = start + self._length_size
            length = int.from_bytes(data[start:end], "big")
            if not length:
                return bool(data[end:].strip(b"\0")) or len(data) - start > _LONGEST_RUN
            unit = _ENDS[self._codec].sub(b"", data[end : end + length])
            picture = unit.rstrip(b"\0")
            # Encoders write other units without emulation prevention.
            if self._is_picture(unit) and (_FORBIDDEN in picture or len(unit) - len(picture) > _LONGEST_RUN):
                return True
            start = end + length
        return False

    def _is_picture(self, unit: bytes) -> bool:
        if not unit:
            return False
        return 1 <= unit[0] & 31 <= 5 if self._codec == "h264" else (unit[0] >> 1) & 63 < 32
