"""Files of the safetensors format: the length of a JSON header, the header, and the bytes of all tensors.

The header maps names to {dtype, shape, data_offsets}, and `__metadata__` to texts (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import io
import json
import math
import os
from typing import Any

import torch

from svg_train.reference.inert_pickle import PickleFormatError
from svg_train.reference.tensors import Storage, StoredTensor, count, read_stored

MAX_HEADER_BYTES = 1 << 20  # the header of a model with 250 tensors has 30 KB
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class SafetensorsFile:
    """An open file. `content` is {"state_dict": {name: StoredTensor}}, and beside it the metadata, as JSON where it is JSON.

    Raises:
        PickleFormatError: truncated, malformed or hostile.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        length = int.from_bytes(file.read(_LENGTH_BYTES) or b"", "little")
        self._start = _LENGTH_BYTES + length
        size = os.fstat(file.fileno()).st_size
        if length > MAX_HEADER_BYTES or self._start > size:
            raise PickleFormatError("its header is larger than the file or than a model's")
        header = _parse_json(file.read(length))
        if not isinstance(header, dict):
            raise PickleFormatError("its header is not a table of tensors")
        metadata = header.pop(_METADATA, {})
        self._positions: dict[str, int] = {}
        tensors = {name: self._tensor(name, entry) for name, entry in header.items()}
        self._refuse_overlaps(tensors, size)
        texts = metadata if isinstance(metadata, dict) else {}
        self.content: Any = {**{name: _parsed(value) for name, value in texts.items()}, "state_dict": tensors}

    def _tensor(self, name: str, entry: Any) -> StoredTensor:
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise PickleFormatError(f"the tensor {name[:40]} is not described by dtype, shape and data_offsets")
        dtype, shape, offsets = _DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
        if dtype is None:
            raise PickleFormatError(f"the tensor {name[:40]} has the unknown type {str(entry['dtype'])[:20]}")
        if not isinstance(shape, list) or len(shape) > 8 or not isinstance(offsets, list) or len(offsets) != 2:
            raise PickleFormatError(f"the tensor {name[:40]} has no shape, or not two offsets")
        sizes = tuple(count(size, "size of a tensor") for size in shape)
        start, end = (count(offset, "offset of a tensor") for offset in offsets)
        numel = math.prod(sizes)
        if end - start != numel * dtype.itemsize:
            raise PickleFormatError(f"the tensor {name[:40]} has {end - start} bytes, but needs {numel * dtype.itemsize}")
        self._positions[name] = self._start + start
        stride = tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))
        return StoredTensor(Storage(name, dtype, numel), 0, sizes, stride)

    def _refuse_overlaps(self, tensors: dict[str, StoredTensor], size: int) -> None:
        end = self._start
        for start, name in sorted((position, name) for name, position in self._positions.items()):
            tensor = tensors[name]
            if start < end and tensor.numel:
                raise PickleFormatError("its tensors overlap")
            end = max(end, start + tensor.numel * tensor.storage.dtype.itemsize)
        if end > size:
            raise PickleFormatError(f"the file ends within its tensors, {end - size} bytes short")

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        """As `TorchFile.read`."""
        return read_stored(self._file, self._positions[tensor.storage.key], tensor)


def _parse_json(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"), parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise PickleFormatError(f"its header is not valid JSON ({str(error)[:100]})") from error


def _number(digits: str) -> int:
    """Numbers of a million digits would take seconds each."""
    if len(digits) > 20:
        raise ValueError("a huge number")
    return int(digits)


def _parsed(text: Any) -> Any:
    """Metadata are texts; numbers, true and false, and tables among them are JSON."""
    try:
        return _parse_json(text.encode()) if isinstance(text, str) else None
    except (PickleFormatError, UnicodeEncodeError):
        return text
