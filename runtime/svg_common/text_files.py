"""Text files that people edit: UTF-8, with or without the byte order mark that some editors write."""

from __future__ import annotations

import codecs

_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32 LE starts as UTF-16 LE


class EncodingError(ValueError):
    """A text file is not UTF-8; the message says what it is and what to do, without its name."""


def decode_text(content: bytes, errors: str = "strict") -> str:
    """Decode the content of a text file.

    Args:
        content: its bytes.
        errors: how to treat bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        EncodingError: it is UTF-16 or UTF-32, or not UTF-8 in another way.
    """
    # Without a mark, UTF-16 shows by the zero bytes of its ASCII characters, which UTF-8 text never contains.
    if content.startswith(_WIDE_MARKS) or b"\0" in content[:512]:
        raise EncodingError("it is UTF-16 or UTF-32, or not text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise EncodingError(
            f"it is not UTF-8: invalid byte 0x{content[error.start]:02x} in line {line}; save it as UTF-8"
        ) from error
