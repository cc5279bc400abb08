"""Tensors as a file of `torch.save` describes them: storages and views into them. Validated here, read on demand."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from svg_train.reference.inert_pickle import GlobalName, PickleFormatError, Rebuild, Record

_CHUNK = 1 << 20  # bytes
_LARGEST = 1 << 48  # of any count in a file; beyond it arithmetic on hostile numbers would itself cost memory

_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    # Never of weights, but beside them: spectra, quantized tensors, and bytes of types that have no storage class.
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8, "QInt32Storage": torch.int32, "UntypedStorage": torch.uint8,
}  # fmt: skip
_PACKAGES = ("torch", "torch.cuda", "torch.storage")
STORAGES = {GlobalName(package, name): dtype for package in _PACKAGES for name, dtype in _DTYPES.items()}
_NUMPY = {
    "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
    "b1": "?",
}  # numpy's type codes -> those of struct  # fmt: skip

_ARRAYS = {
    GlobalName(f"numpy.{package}.{module}", name)
    for package in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
}
_FEW = 100  # numbers in an array among settings


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the file; `offset` is not 0 if it is a view of a larger storage (torch before 0.4)."""

    key: str
    dtype: torch.dtype
    numel: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A dense tensor in the file: all of its elements lie in its storage, and it has no more elements than the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def extent(self) -> int:
        """Elements of the storage from the first to the last that the tensor uses."""
        if self.numel == 0:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    def narrow(self, dim: int, start: int, length: int) -> StoredTensor:
        """Entries `start` to `start + length` along dimension `dim`, as torch.Tensor.narrow."""
        shape = (*self.shape[:dim], length, *self.shape[dim + 1 :])
        return StoredTensor(self.storage, self.offset + start * self.stride[dim], shape, self.stride)


class StorageTable:
    """The storages that a pickle refers to, by key. Its `load` is the pickle's persistent_load."""

    def __init__(self) -> None:
        self.roots: dict[str, Storage] = {}

    def load(self, identity: tuple[Any, ...]) -> Any:
        """('storage', class, key, location, numel[, view]) -> Storage; ('module', class, file, source) -> class.

        The location ("cpu", "cuda:0") is where the tensor was; here every tensor goes to the CPU.
        """
        if len(identity) == 4 and isinstance(identity[0], str) and identity[0] == "module":
            return identity[1]
        if len(identity) not in (5, 6) or not isinstance(identity[0], str) or identity[0] != "storage":
            raise PickleFormatError("a persistent id that torch.save does not write")
        kind, key, numel = identity[1], identity[2], count(identity[4], "size of a storage")
        if not isinstance(kind, GlobalName) or kind not in STORAGES:
            raise PickleFormatError(
                f"a storage of the unknown type {kind if isinstance(kind, GlobalName) else 'without a name'}"
            )
        if not isinstance(key, (str, int)) or len(str(key)) > 100:
            raise PickleFormatError("the key of a storage is neither text nor a number")
        root = Storage(str(key), STORAGES[kind], numel)
        if self.roots.setdefault(root.key, root) != root:
            raise PickleFormatError(f"the storage {root.key} is mentioned with different types or sizes")
        view = identity[5] if len(identity) == 6 else None
        return root if view is None else _view(root, view)


def _view(root: Storage, view: Any) -> Storage:
    if not isinstance(view, tuple) or len(view) != 3:
        raise PickleFormatError("the description of a storage view is not (key, offset, size)")
    offset, size = count(view[1], "offset of a storage view"), count(view[2], "size of a storage view")
    if offset + size > root.numel:
        raise PickleFormatError(f"a view of the storage {root.key} reaches beyond its end")
    return Storage(root.key, root.dtype, size, offset)


def count(value: Any, what: str) -> int:
    """A whole number from 0 to 2^48.

    Raises:
        PickleFormatError: it is anything else.
    """
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise PickleFormatError(f"the {what} is not a plausible number")
    return value


def as_tensor(value: Any) -> StoredTensor | None:
    """The tensor in `value`: a tensor itself, or a Parameter or Variable of any torch since 0.1; None if it is neither.

    torch 0.1 to 0.3 made a Parameter of (tensor), with the state (requires_grad, volatile, hooks) or, earlier, five values that
    start with the tensor. A tensor's state was (storage, offset, size, stride).
    """
    if isinstance(value, StoredTensor):
        return value
    if not isinstance(value, Record):
        return None
    if value.args and isinstance(value.args[0], StoredTensor):
        return value.args[0]
    if isinstance(value.state, tuple) and value.state:
        if isinstance(value.state[0], StoredTensor):
            return value.state[0]
        if len(value.state) == 4 and isinstance(value.state[0], Storage):
            return _rebuild_tensor(value.state)
    return None


def share_elements(tensors: Iterable[StoredTensor]) -> bool:
    """Whether tensors have more elements than the storages behind them: a small file could ask for any amount of memory."""
    listed = list(tensors)
    ends: dict[str, int] = {}
    for storage in (tensor.storage for tensor in listed):
        ends[storage.key] = max(ends.get(storage.key, 0), storage.offset + storage.numel)
    return sum(tensor.numel for tensor in listed) > sum(ends.values())


def _rebuild_tensor(args: tuple[Any, ...]) -> StoredTensor:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2: (storage, offset, size, stride[, requires_grad, hooks, ...])."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise PickleFormatError("a tensor is not described by storage, offset, size and stride")
    storage, offset = args[0], count(args[1], "offset of a tensor")
    shape, stride = _numbers(args[2], "size of a tensor"), _numbers(args[3], "stride of a tensor")
    if len(shape) != len(stride) or len(shape) > 8:
        raise PickleFormatError(f"a tensor has {len(shape)} sizes and {len(stride)} strides")
    tensor = StoredTensor(storage, offset, shape, stride)
    if tensor.numel > storage.numel or offset + tensor.extent > storage.numel:
        raise PickleFormatError(f"a tensor of {tensor.numel} elements reaches beyond its storage of {storage.numel}")
    return tensor


def _numbers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        raise PickleFormatError(f"the {what} is not a tuple")
    return tuple(count(item, what) for item in value[:9])  # one more than is accepted


def _rebuild_parameter(args: tuple[Any, ...]) -> Any:
    return args[0] if args else None


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict() or, as Python 2 wrote it, OrderedDict([[key, value], ...])."""
    pairs = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    whole = [pair for pair in pairs if isinstance(pair, (list, tuple)) and len(pair) == 2]
    return {key: value for key, value in whole if isinstance(key, str)}


def _new_object(args: tuple[Any, ...]) -> Any:
    """copyreg.__newobj__(class, *args) and copyreg._reconstructor(class, base, state)."""
    maker = args[0] if args else None
    return Record(maker if isinstance(maker, GlobalName) else None, args[1:])


def _tuple(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(args[0]) if args and isinstance(args[0], (list, tuple)) else ()


def _numpy_scalar(args: tuple[Any, ...]) -> Any:
    """numpy.int64(5) and the like: scalar(dtype('i8'), bytes). Pickles of protocol 2 have bytes as Latin-1 text to encode."""
    kind, data = (*args, None, None)[:2]
    values = _numpy_values(kind, data, 1)
    return Record(GlobalName("numpy", "scalar"), args) if values is None else values[0]


def array_values(value: Any) -> Any:
    """A number or a list of numbers for an array of numpy's of no or one dimension, if it has few; anything else as it is.

    It is made by _reconstruct, with the state (version, shape, dtype, order, bytes), or by _frombuffer(bytes, dtype, shape).
    """
    if not isinstance(value, Record) or value.maker not in _ARRAYS:
        return value
    if value.maker.name == "_frombuffer":
        data, kind, shape = (*value.args, None, None, None)[:3]
    else:
        _, shape, kind, _, data = value.state if isinstance(value.state, tuple) and len(value.state) == 5 else (None,) * 5
    if shape != () and not (isinstance(shape, tuple) and len(shape) == 1 and type(shape[0]) is int and 0 < shape[0] <= _FEW):
        return value
    values = _numpy_values(kind, data, math.prod(shape))
    if values is None:
        return value
    return list(values) if shape else values[0]


def _numpy_values(kind: Any, data: Any, number: int) -> tuple[Any, ...] | None:
    """The values behind a dtype and bytes; None if it is another type, or another number of them."""
    if isinstance(data, Record) and data.maker == GlobalName("_codecs", "encode") and data.args:
        data = data.args[0]
    if not isinstance(kind, Record) or not kind.args or not isinstance(kind.args[0], str):
        return None
    if not isinstance(data, (str, bytes, bytearray)) or len(data) > 8 * number:  # many names may have the same long text
        return None
    data = data.encode("latin-1", "replace") if isinstance(data, str) else data
    code = _NUMPY.get(kind.args[0][:4], "")
    if not code or len(data) != number * struct.calcsize(code):
        return None
    big_endian = isinstance(kind.state, tuple) and ">" in kind.state
    return struct.unpack(f"{'>' if big_endian else '<'}{number}{code}", data)


_REBUILD: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _tuple,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda _: {},
    "copy_reg._reconstructor": _new_object,
    "copyreg._reconstructor": _new_object,
    "copy_reg.__newobj__": _new_object,
    "copyreg.__newobj__": _new_object,
}
REBUILD: Rebuild = {GlobalName(*path.rsplit(".", 1)): function for path, function in _REBUILD.items()}


def read_stored(file: io.FileIO, position: int, tensor: StoredTensor, big_endian: bool = False) -> torch.Tensor:
    """The elements of `tensor`, contiguous; no more of its storage is read than lies between its first and its last one.

    Args:
        file: open for reading.
        position: in bytes, of the storage's first element.
        tensor: to read.
        big_endian: whether the file has the highest byte of each element first.

    Raises:
        PickleFormatError: the file ends within the tensor.
    """
    size = tensor.storage.dtype.itemsize
    values = torch.zeros(tensor.extent, dtype=tensor.storage.dtype)
    buffer: Any = values.view(torch.uint8).numpy()  # numpy's stubs for Python 3.10 do not type it as a buffer
    file.seek(position + (tensor.storage.offset + tensor.offset) * size)
    _fill(memoryview(buffer), file)
    if big_endian:
        order = torch.arange(size - 1, -1, -1)
        values = values.view(torch.uint8).view(-1, size)[:, order].contiguous().view(-1).view(values.dtype)
    return values.as_strided(tensor.shape, tensor.stride).contiguous()


def _fill(buffer: memoryview, file: io.FileIO) -> None:
    """Read in pieces, because one read may return less than it was asked for."""
    done = 0
    while done < len(buffer):
        size = file.readinto(buffer[done : done + _CHUNK])
        if not size:
            raise PickleFormatError("the file ends within a tensor")
        done += size
