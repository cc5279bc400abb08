"""What OpenCV does not say of a TIFF: that it has several pages, and that its colours are multiplied by its transparency."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _EXTRA_SAMPLES = 254, 255, 338
_REDUCED, _MASK = 1, 4  # bits of the new subfile type
_OLD_REDUCED = 2
_SHORT = 3  # type of two bytes
_PREMULTIPLIED, _TRANSPARENCY = 1, 2  # kinds of extra samples
_MOST_DIRECTORIES, _MOST_ENTRIES = 256, 4096  # a crafted file whose directories overlap would take hours


@dataclass(frozen=True)
class _Form:
    """How a TIFF writes its numbers: `order`, and the format of an offset and of the count of a directory's entries."""

    order: str
    offset: str
    count: str

    def read(self, content: NDArray[np.uint8], kind: str, at: int) -> int:
        """The number at a place of the file.

        Raises:
            struct.error: it is beyond the end.
        """
        if at > content.size:  # it may even be too large for Python's indices
            raise struct.error
        return int(struct.unpack_from(self.order + kind, content.data, at)[0])


@dataclass(frozen=True)
class _Entry:
    """A tag of a directory: the type and number of its values, and where the first one is."""

    kind: int
    count: int
    at: int


def has_several_pages(content: NDArray[np.uint8]) -> bool:
    """Whether a file is a TIFF of several pictures; thumbnails and masks of a picture are none."""
    form = _form(content)
    if form is None:
        return False
    pages = 0
    for entries in _directories(content, form):
        pages += not _is_aside(content, form, entries)
        if pages > 1:
            return True
    return False


def with_plain_colours(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same file, but a TIFF with transparency says that its colours are multiplied by it already: else libtiff does so."""
    form = _form(content)
    first = next(_directories(content, form), {}) if form is not None else {}
    extra = first.get(_EXTRA_SAMPLES)
    if form is None or extra is None or extra.kind != _SHORT or not 0 <= extra.at <= content.size - 2:
        return content
    if form.read(content, "H", extra.at) != _TRANSPARENCY:
        return content
    plain: NDArray[np.uint8] = content.copy()
    struct.pack_into(form.order + "H", plain.data, extra.at, _PREMULTIPLIED)
    return plain


def _form(content: NDArray[np.uint8]) -> _Form | None:
    """None if it is not a TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2].tobytes())
    if order is None or content.size < 16:
        return None
    magic = struct.unpack_from(order + "H", content.data, 2)[0]
    return {42: _Form(order, "I", "H"), 43: _Form(order, "Q", "Q")}.get(magic)


def _directories(content: NDArray[np.uint8], form: _Form) -> Iterator[dict[int, _Entry]]:
    """The directories of a TIFF, one for each picture, up to the first that is broken, and not more than a few hundred."""
    at = form.read(content, form.offset, struct.calcsize("=" + form.offset))
    seen: set[int] = set()
    while at and at not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(at)
        try:
            entries, at = _directory(content, form, at)
        except struct.error:
            return
        yield entries


def _directory(content: NDArray[np.uint8], form: _Form, at: int) -> tuple[dict[int, _Entry], int]:
    """The entries of one directory, and where the next one is; 0 if there is none.

    Raises:
        struct.error: it is broken.
    """
    entries: dict[int, _Entry] = {}
    count = form.read(content, form.count, at)
    if count > _MOST_ENTRIES:
        raise struct.error
    at += struct.calcsize("=" + form.count)
    head = struct.Struct(form.order + "HH" + form.offset)
    size = struct.calcsize("=" + form.offset)
    for _ in range(count):
        tag, kind, number = head.unpack_from(content.data, at)
        value = at + head.size
        if kind == _SHORT and 2 * number > size:
            value = form.read(content, form.offset, value)
        entries[tag] = _Entry(kind, number, value)
        at += head.size + size
    return entries, form.read(content, form.offset, at)


def _is_aside(content: NDArray[np.uint8], form: _Form, entries: dict[int, _Entry]) -> bool:
    """Whether a directory holds something that belongs to another picture."""
    new, old = entries.get(_NEW_SUBFILE_TYPE), entries.get(_SUBFILE_TYPE)
    try:
        if new is not None:
            return bool(form.read(content, "H" if new.kind == _SHORT else "I", new.at) & (_REDUCED | _MASK))
        return old is not None and form.read(content, "H", old.at) == _OLD_REDUCED
    except struct.error:  # it points beyond the end of the file
        return False
