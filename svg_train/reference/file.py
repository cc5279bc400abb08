"""Files of `torch.save`, opened without torch's loader: the zip archive of torch 1.6 and later, the older stream; safetensors.

The first two contain a pickle that refers to storages, and the storages' bytes. The pickle is read by a machine that runs no
code. The bytes are read tensor by tensor, directly into the tensor, so that a file needs only as much memory as the weights in
use.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from svg_train.reference.inert_pickle import PickleFormatError, load_inert
from svg_train.reference.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile
from svg_train.reference.tensors import REBUILD, Storage, StorageTable, StoredTensor, read_stored

MAX_PICKLE_BYTES = 8 << 20  # a VGG-128 checkpoint with the source text of its modules needs 0.5 MB
_CHUNK = 1 << 20
_ENTRY_HEADER = struct.Struct("<26xHH")  # of a zip entry: lengths of its name and of its extra field are the last two fields
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

Format = Literal["zip", "stream", "safetensors", "tar", "other"]


class OtherKindError(PickleFormatError):
    """A file of torch that is not a checkpoint; the message says what it is, and on a second line what to do."""


class TorchFile(Protocol):
    """An open file: `content` with `StoredTensor`s in it, and access to their elements."""

    content: Any

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        """The tensor, contiguous, in the type that it is stored in.

        Raises:
            PickleFormatError: the file ends before the tensor does, or its checksum is wrong.
        """
        ...


def sniff_format(head: bytes) -> Format:
    """The format of a file, from its first 512 bytes. `stream` is torch.save before 1.6, `tar` before 0.1.10."""
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if _MAGIC.to_bytes(10, "little") in head[:64]:
        return "stream"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES:
        return "safetensors"
    return "tar" if head[257:262] == b"ustar" else "other"


@contextmanager
def open_torch_file(path: str | Path) -> Iterator[TorchFile]:
    """Open a file that `sniff_format` calls zip, stream or safetensors.

    Raises:
        OtherKindError: a file of torch that is not a checkpoint.
        PickleFormatError: truncated, damaged, hostile, or of another kind.
        OSError: it cannot be opened.
    """
    with _CappedFile(path) as file:
        opened = _open(file)
        try:
            yield opened
        except (zipfile.BadZipFile, EOFError) as error:  # a wrong checksum, a damaged entry
            raise PickleFormatError(_reason(error)) from error


def _open(file: _CappedFile) -> TorchFile:
    kind = sniff_format(file.read(512))
    file.seek(0)
    if kind != "zip":
        return SafetensorsFile(file) if kind == "safetensors" else _Stream(file)
    try:
        return _ZipArchive(file)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, OverflowError, ValueError, struct.error) as error:
        raise PickleFormatError(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__


class _CappedFile(io.FileIO):
    """A file that refuses large reads: zipfile reads a whole directory at once, however large it claims to be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        if size > MAX_PICKLE_BYTES:
            raise PickleFormatError("its list of entries is larger than a checkpoint's")
        return super().read(size) or b""


class _Stream:
    """magic number, protocol, system, content, storage keys: five pickles; then each storage: element count, elements."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        if load_inert(head) != _MAGIC:
            raise PickleFormatError("it does not start with the magic number of torch.save")
        protocol, system = load_inert(head), load_inert(head)
        if protocol != _PROTOCOL or not isinstance(system, dict):
            raise PickleFormatError("unknown protocol of torch.save")
        self._table = StorageTable()
        try:
            self.content = load_inert(head, REBUILD, self._table.load)
            keys = load_inert(head)
        except PickleFormatError as error:
            if self._size > MAX_PICKLE_BYTES and head.tell() == MAX_PICKLE_BYTES:
                raise PickleFormatError(f"its pickled part is larger than {MAX_PICKLE_BYTES >> 20} MB") from error
            raise
        self._positions = self._locate(keys, head.tell())

    def _locate(self, keys: Any, position: int) -> dict[str, int]:
        """Position in bytes of the first element of each storage. Their sizes are repeated in the file, and must agree."""
        if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
            raise PickleFormatError("its list of storages is malformed")
        positions: dict[str, int] = {}
        for key in map(_text, keys):
            root = self._table.roots.get(key)
            if root is None or key in positions:
                raise PickleFormatError(f"the storage {key[:40]} is listed twice or never used")
            self._file.seek(position)
            stored = self._file.read(8)
            if len(stored) < 8 or struct.unpack("<q", stored)[0] != root.numel:
                raise PickleFormatError(f"the storage {key[:40]} is missing, or its size does not match its tensors")
            positions[key] = position + 8
            position += 8 + root.numel * root.dtype.itemsize
            if position > self._size:
                raise PickleFormatError(f"the file ends within the storage {key[:40]}, {position - self._size} bytes short")
        if missing := len(self._table.roots.keys() - positions.keys()):
            raise PickleFormatError(f"{missing} storages are missing")
        return positions

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        return read_stored(self._file, self._positions[tensor.storage.key], tensor)


class _ZipArchive:
    """name/data.pkl, name/data/KEY for each storage, name/byteorder; stored without compression."""

    def __init__(self, file: io.FileIO) -> None:
        archive = zipfile.ZipFile(file)
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise PickleFormatError("a zip archive that torch.save did not write: it has no data.pkl")
        self._archive = archive
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._folder = pickles[0].rpartition("/")[0]
        if any(name.startswith(f"{self._folder}/code/") for name in archive.namelist()):
            raise OtherKindError(
                "a TorchScript archive: its code would have to run\n"
                "  save its weights in Python: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        pickled = io.BytesIO(self._member(pickles[0], MAX_PICKLE_BYTES))
        self._big_endian = self._byte_order() == b"big"
        table = StorageTable()
        self.content = load_inert(pickled, REBUILD, table.load)
        self._positions = self._locate(list(table.roots.values()))

    def _byte_order(self) -> bytes:
        name = f"{self._folder}/byteorder"
        return self._member(name, 16) if name in self._archive.NameToInfo else b"little"

    def _info(self, name: str) -> zipfile.ZipInfo:
        info = self._archive.NameToInfo.get(name)
        if info is None:
            raise PickleFormatError(f"'{name[:60]}' is missing from the archive")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise PickleFormatError(
                f"'{name[:60]}' is compressed or encrypted, which torch.save never does; "
                "if it was unpacked and packed again, pack it without compression: zip -0r packed.pth FOLDER"
            )
        return info

    def _member(self, name: str, limit: int) -> bytes:
        info = self._info(name)
        if info.file_size > limit:
            raise PickleFormatError(f"'{name[:60]}' has {info.file_size} bytes, more than the {limit} of a checkpoint")
        return self._archive.read(info)

    def _locate(self, roots: list[Storage]) -> dict[str, int]:
        """Position in bytes of the first element of each storage, after checking sizes, overlaps and checksums."""
        entries = {root.key: self._info(f"{self._folder}/data/{root.key}") for root in roots}
        for root in roots:
            size, expected = entries[root.key].file_size, root.numel * root.dtype.itemsize
            if size != expected:
                raise PickleFormatError(f"the storage {root.key[:40]} has {size} bytes, but its tensors need {expected}")
        positions = {key: self._first_byte_of(entry) for key, entry in entries.items()}
        self._refuse_overlaps(positions, entries)
        for entry in entries.values():
            with self._archive.open(entry) as member:
                while member.read(_CHUNK):
                    pass
        return positions

    def _first_byte_of(self, entry: zipfile.ZipInfo) -> int:
        """The end of an entry's own header, whose extra field may be longer or shorter than the one in the list of entries."""
        self._file.seek(entry.header_offset)
        header = self._file.read(_ENTRY_HEADER.size)
        if len(header) < _ENTRY_HEADER.size:
            raise PickleFormatError("the file ends before an entry that it lists")
        name_bytes, extra_bytes = _ENTRY_HEADER.unpack(header)
        return int(entry.header_offset + _ENTRY_HEADER.size + name_bytes + extra_bytes)

    def _refuse_overlaps(self, positions: dict[str, int], entries: dict[str, zipfile.ZipInfo]) -> None:
        """Before anything is read: thousands of entries over the same bytes would take hours, and more memory than the file."""
        end = 0
        for start, size in sorted((position, entries[key].file_size) for key, position in positions.items()):
            if start < end and size:
                raise PickleFormatError("its storages overlap")
            end = max(end, start + size)
        if end > self._size:
            raise PickleFormatError("its storages are larger than the file")

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        # Directly from the file: an entry is stored as it is, and zipfile's own seek would read all that it skips at once.
        position = self._positions[tensor.storage.key]
        return read_stored(self._file, position, tensor, self._big_endian)


def _text(key: str | int) -> str:
    return str(key) if isinstance(key, str) or abs(key) < 1 << 64 else "?"
