"""Reads a bundle out of a tar archive that may be hostile.

Headers are read one by one, with bounded memory, and files are copied by their place in the archive; nothing is unpacked.
Compressed archives are not taken: weights hardly shrink, and a small file could become a large one.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from svg_common.printable import one_line
from svg_runtime.bundle.manifest import FILE_NAME
from svg_runtime.errors import BundleError

_BLOCK = 512
_MOST_ENTRIES = 4096
_MOST_ATTRIBUTES = 1 << 16  # bytes of an entry with attributes of another
_LONGEST_NAME = 4096  # characters, as in Linux
_ATTRIBUTES = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE)  # of the next file or of all; only names count
_PAX_PATH = re.compile(rb"(?:^|\n)\d+ path=([^\n]+)\n")
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_PIECE = 1 << 20
_PACK_AGAIN = "whoever publishes it has to pack it again: tar -cf name.svgb.tar name.svgb"


class TarFiles:
    """The regular files of a tar archive, named from the folder that holds the manifest; see `Files`.

    Args:
        stream: the archive; it stays open as long as files are copied.
        size: of the archive in bytes.

    Raises:
        BundleError: it is not a tar archive, is cut off, or has links, devices, or paths that lead out of it.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        places = _places(stream, size)
        root = _root(places)
        self._offsets = {name[len(root) :]: offset for name, (offset, _) in places.items() if name.startswith(root)}
        self.sizes: Mapping[str, int] = {
            name[len(root) :]: length for name, (_, length) in places.items() if name.startswith(root)
        }

    def copy(self, name: str, destination: Path) -> None:
        """See `Files`."""
        self._stream.seek(self._offsets[name])
        left = self.sizes[name]
        with destination.open("wb") as file:
            while left:
                piece = self._stream.read(min(left, _PIECE))
                if not piece:
                    raise BundleError(f"the archive ends within {name}")
                file.write(piece)
                left -= len(piece)


def _places(stream: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Path of every regular file -> where its content starts, and its length."""
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    long_name: str | None = None  # of the next entry
    for _ in range(_MOST_ENTRIES):
        stream.seek(offset)
        header = stream.read(_BLOCK)
        if not header.strip(b"\0"):  # the end, or a block of zeros, which marks it
            return places
        entry = _entry(header)
        start = offset + _BLOCK
        if not 0 <= entry.size <= size - start:
            raise BundleError(f"the archive is cut off, or not a tar archive\n  {_PACK_AGAIN}")
        if entry.type in _ATTRIBUTES:
            _require(entry.size <= _MOST_ATTRIBUTES, f"attributes of {entry.size} bytes")
            long_name = _long_name(entry.type, stream.read(entry.size)) or long_name
        else:
            name = _plain(long_name or entry.name)
            long_name = None
            _require(entry.isdir() or entry.type in _REGULAR, f"{_shown(name)}, which is neither a file nor a folder")
            if entry.type in _REGULAR:
                _require(name not in places, f"{_shown(name)} twice")
                places[name] = (start, entry.size)
        offset = start + -(-entry.size // _BLOCK) * _BLOCK
    raise BundleError(f"the archive has more than {_MOST_ENTRIES} entries\n  {_PACK_AGAIN}")


def _entry(header: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise BundleError(
            f"not a tar archive, or a damaged one ({error})\n  expected: tar -cf name.svgb.tar name.svgb"
        ) from error


def _long_name(kind: bytes, content: bytes) -> str | None:
    """The name of the next entry in one with its attributes: in GNU's form, or in that of the standard, pax."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        name = content.partition(b"\0")[0]
    else:
        found = _PAX_PATH.search(content) if kind == tarfile.XHDTYPE else None
        name = found[1] if found else b""
    return name.decode("utf-8", "surrogateescape") or None


def _plain(name: str) -> str:
    """The path without ./ before it."""
    _require(len(name) <= _LONGEST_NAME, f"a name of {len(name)} characters")
    path = PurePosixPath(name)
    _require(
        not path.is_absolute() and ".." not in path.parts and "\\" not in name,
        f"the path {_shown(name)}, which leads out of it",
    )
    return str(path)


def _shown(name: str) -> str:
    return f"'{one_line(name[:100])}'"


def _root(places: Mapping[str, tuple[int, int]]) -> str:
    """The folder that holds the manifest, with a slash: the archive itself, or one folder in it."""
    roots = [name.removesuffix(FILE_NAME) for name in places if name == FILE_NAME or name.endswith(f"/{FILE_NAME}")]
    shallow = [root for root in roots if root.count("/") <= 1]
    _require(len(shallow) <= 1, "several bundles")
    return shallow[0] if shallow else ""


def _require(allowed: bool, found: str) -> None:
    if not allowed:
        raise BundleError(f"the archive has {found}\n  expected a bundle alone, packed with: tar -cf name.svgb.tar name.svgb")
