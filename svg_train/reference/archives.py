"""Archives that hold a checkpoint: named for what they are, with the command that unpacks them. Nothing is unpacked here."""

from __future__ import annotations

import bz2
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from svg_common.path_advice import shell_argument
from svg_train.reference.foreign_files import FETCH_AGAIN

_BLOCK = 512  # bytes; a tar file consists of such blocks
_MAX_SIZE = 1 << 50  # bytes of a member; larger ones are damaged headers, and cannot be skipped
_SHOWN = 400  # characters of a member's name in the message
_MAX_MEMBERS = 10_000  # of an archive that are looked at
_MAX_NAME = 1 << 14  # bytes that are read for a long name
_PATH = re.compile(rb"(?:^|\n)\d+ path=([^\n]*)\n")
_OLD_TORCH = frozenset(("sys_info", "pickle", "storages", "tensors"))  # torch.save before 0.1.10 wrote a tar of these
_SUFFIXES = (".pth", ".pt", ".pth.tar", ".ckpt", ".tar")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_ENOUGH = 1 << 20  # compressed bytes that hold the first block; bzip2 compresses up to 900 kB at once
_MAX_DIRECTORY = 1 << 20  # bytes of the list of entries of a zip archive, which is read at once
_END = struct.Struct("<4s4H2LH")  # end of the list of entries: [5] is its size
_UNPACK = {"gzip": "gunzip -k", "bzip2": "bunzip2 -k", "xz": "unxz -k"}


def describe_archive(path: str | Path) -> str | None:
    """Return what the archive `path` is and how to unpack it, or that it is cut off.

    None: it is none, or a whole one that torch.save wrote.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(_BLOCK)
        kind = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
        if kind is not None:
            holds_tar = is_tar(_first_block(head + file.read(_ENOUGH), kind))
            what = f"a tar archive compressed with {kind}" if holds_tar else f"compressed with {kind}"
            command = "tar -xf" if holds_tar else _UNPACK[kind]
            return f"{what}\n  unpack it with: {command} {shell_argument(path)}\n  then give the checkpoint in it"
        if is_tar(head):
            file.seek(0)
            names = list(_tar_members(file))
            return None if _OLD_TORCH & set(names) else _describe("tar", path, names)
    if head.startswith(b"PK\x03\x04"):
        members = _zip_members(path)
        if members is None:
            return f"cut off: the list of what it holds, which is its end, is missing\n  {FETCH_AGAIN}"
        if members and not any(name.endswith("/data.pkl") for name in members):
            return _describe("zip", path, members)
    return None


def is_tar(block: bytes) -> bool:
    """Whether a file that starts with these 512 bytes is a tar archive; its first header must have the right checksum."""
    digits = block[148:156].strip(b" \0")
    if len(block) < _BLOCK or not digits or not set(digits) <= set(b"01234567"):
        return False
    return int(digits, 8) == sum(block[:148]) + 8 * ord(" ") + sum(block[156:_BLOCK])


def _describe(kind: str, path: str | Path, names: list[str]) -> str:
    unpack, look = ("tar -xf", "tar -tf") if kind == "tar" else ("unzip", "unzip -l")
    archive = shell_argument(path)
    if any(name.rpartition("/")[2] == "manifest.json" for name in names) and any(name.endswith(".onnx") for name in names):
        return (
            f"a packed bundle: graphs, not a checkpoint\n  unpack it with: {unpack} {archive}\n"
            "  then give the folder to a command that takes bundles; svg-export does so with --push, --pack or --triton"
        )
    named = [name[:_SHOWN] for name in names if name.lower().endswith(_SUFFIXES) and not _is_of_macos(name)]
    if not named:
        return f"a {kind} archive; none of its {len(names)} files is named as a checkpoint\n  list them with: {look} {archive}"
    others = f", and {len(named) - 1} more named as checkpoints" if len(named) > 1 else ""
    then = f"unpack it with: {unpack} {archive}\n  then give the file: {shell_argument(named[0])}"
    return f"a {kind} archive that contains '{named[0]}'{others}\n  {then}"


def _is_of_macos(name: str) -> bool:
    """Whether a member holds only what macOS adds to a file of that name."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def _first_block(compressed: bytes, kind: str) -> bytes:
    """The first 512 bytes of a compressed file; no more is decompressed."""
    try:
        if kind == "gzip":
            return zlib.decompressobj(wbits=31).decompress(compressed, _BLOCK)
        decompressor = bz2.BZ2Decompressor() if kind == "bzip2" else lzma.LZMADecompressor(memlimit=1 << 27)
        return decompressor.decompress(compressed, _BLOCK)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return b""


def _tar_members(file: BinaryIO) -> Iterator[str]:
    """Names of the members, read header by header; the contents are skipped, except names too long for a header."""
    long_name = ""
    for _ in range(_MAX_MEMBERS):
        block = file.read(_BLOCK)
        if not is_tar(block):
            return
        kind, size = block[156:157], _tar_size(block)
        prefix = _text(block[345:500]) + "/" if block[257:263] == b"ustar\0" and block[345] else ""
        if kind in (b"0", b"\0", b"7"):  # regular files
            yield long_name or prefix + _text(block[:100])
        if size > _MAX_SIZE:
            return
        start = file.tell()
        long_name = _long_name(kind, file.read(min(size, _MAX_NAME))) if kind in (b"L", b"x") else ""
        file.seek(start + -(-size // _BLOCK) * _BLOCK)


def _tar_size(block: bytes) -> int:
    digits = block[124:136].strip(b" \0")
    return int(digits, 8) if digits and set(digits) <= set(b"01234567") else int.from_bytes(block[125:136], "big")


def _long_name(kind: bytes, content: bytes) -> str:
    """The name of the next member: as GNU tar writes it (L), or as lines of "length path=name" (x)."""
    if kind == b"L":
        return _text(content)
    path = _PATH.search(content)
    return path[1].decode("utf-8", "surrogateescape") if path else ""


def _zip_members(path: str | Path) -> list[str] | None:
    """Names of the members; empty if the archive is damaged, or its list of entries longer than any honest one.

    None: it has no such list.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _ENOUGH - _END.size, 0))
            tail = file.read()
        position = tail.rfind(b"PK\x05\x06")
        if position < 0:
            return None
        if _END.unpack_from(tail, position)[5] > _MAX_DIRECTORY:
            return []
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()[:_MAX_MEMBERS]
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, OverflowError, struct.error):
        return []


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
