"""TFRecord files of tf.train.Example messages, read without TensorFlow.

A record is: uint64 length, masked CRC-32C of these 8 bytes, the content, masked CRC-32C of the content, all little-endian.
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from svg_common.command import require_modules
from svg_common.errors import SvgError
from svg_common.protobuf_wire import WireError, length_delimited, read_fields
from svg_train.data.frame_cache import Problems

_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")
_OVERHEAD = _LENGTH.size + 2 * _CRC.size
_MASK_DELTA = 0xA282EAD8
_MAX_RECORD = 1 << 28  # bytes; a BAIR trajectory has 0.75 MB


class ExampleError(SvgError):
    """A record is not a tf.train.Example."""


class TFRecordReader:
    """Iterator over the contents of the records of a file. One pass; open again for another.

    A damaged record is skipped, and so is everything after a damaged length or at a truncated end.

    Args:
        path: a local, uncompressed TFRecord file.
        problems: collects what is wrong with the file.

    Attributes:
        number: of the last record that was read, from 1.
        done: share of the file that was read, 0 to 1.

    Raises:
        OSError: the file cannot be read, here or during the iteration.
        MissingExtraError: the library for checksums is not installed.
    """

    def __init__(self, path: Path, problems: Problems) -> None:
        require_modules("reading TFRecord files", "train", "google_crc32c")
        self.number = 0
        self.done = 0.0
        self._problems = problems
        self._size = path.stat().st_size
        self._file = path.open("rb")

    def __enter__(self) -> TFRecordReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[bytes]:
        while (start := self._file.tell()) < self._size:
            self.number += 1
            length = self._read_length(start)
            if length is None:
                return
            content, crc = self._file.read(length), self._file.read(_CRC.size)
            self.done = self._file.tell() / self._size
            if _CRC.pack(masked_crc32c(content)) == crc:
                yield content
            else:
                self._problems.add(f"record {self.number} has a wrong checksum")

    def _read_length(self, start: int) -> int | None:
        """Read the length of the record at byte `start`; None if the rest of the file cannot be read."""
        rest = self._size - start
        head, crc = self._file.read(_LENGTH.size), self._file.read(_CRC.size)
        if len(crc) < _CRC.size:
            self._problems.add(f"the file is truncated in record {self.number}")
            return None
        if _CRC.pack(masked_crc32c(head)) != crc:
            self._problems.add(
                f"the length of record {self.number} has a wrong checksum, and the last {rest} bytes cannot be read"
                if start
                else "it is not a TFRecord file: the length of its first record has a wrong checksum"
            )
            return None
        (length,) = _LENGTH.unpack(head)
        if length > rest - _OVERHEAD:
            self._problems.add(f"the file is truncated in record {self.number}")
            return None
        if length > _MAX_RECORD:
            self._problems.add(f"record {self.number} announces {length} bytes, over the limit of {_MAX_RECORD}")
            return None
        return int(length)


def masked_crc32c(content: bytes) -> int:
    """CRC-32C of `content`, rotated right by 15 bits plus a constant, as in TFRecord files."""
    import google_crc32c

    crc = int(google_crc32c.value(content))
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def bytes_features(example: bytes) -> dict[str, memoryview]:
    """Return the first value of each bytes feature of a serialized tf.train.Example; other features are skipped.

    The messages, in protobuf's notation: Example {Features features = 1}, Features {map<string, Feature> feature = 1},
    Feature {BytesList bytes_list = 1}, BytesList {repeated bytes value = 1}; a map entry is {key = 1, value = 2}.

    Raises:
        ExampleError: it is damaged, or another message.
    """
    try:
        return dict(_read_bytes_features(memoryview(example)))
    except WireError as error:
        raise ExampleError(str(error)) from error


def _read_bytes_features(example: memoryview) -> Iterator[tuple[str, memoryview]]:
    for features in _children(example, 1):
        for entry in _children(features, 1):
            fields = read_fields(entry)
            keys = length_delimited(fields, 1)
            lists = [child for value in length_delimited(fields, 2) for child in _children(value, 1)]
            contents = [content for child in lists for content in _children(child, 1)]
            if keys and contents:
                yield _text(keys[-1]), contents[0]


def _children(message: memoryview, number: int) -> list[memoryview]:
    """Contents of the fields `number` of a protobuf message."""
    return length_delimited(read_fields(message), number)


def _text(view: memoryview) -> str:
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError as error:
        raise ExampleError("the name of a feature is not UTF-8") from error
