"""PyTorch's exporter asked once per graph: it takes seconds, and many tests export the same tiny networks.

What is ours runs every time: the graphs' modules, what is rewritten in the exported graph, the parity gate and the manifest.
"""

from __future__ import annotations

import functools
import hashlib
import io
import marshal
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from filelock import FileLock
from torch import nn


class _Content(pickle.Pickler):
    """Writes what does not differ between processes: no addresses of memory, no order of sets, no identity of equal strings."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.fast = True
        self._tensors: dict[int, int] = {}

    def persistent_id(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            values = value.detach().contiguous().numpy().tobytes()
            place = self._tensors.setdefault(id(value), len(self._tensors))  # one that is used twice is no copy
            return place, str(value.dtype), tuple(value.shape), hashlib.sha256(values).hexdigest()
        return sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else None


def export_key(module: nn.Module, example: tuple[Any, ...], settings: dict[str, Any]) -> str | None:
    """What the exported graph depends on: weights, attributes and code of the module, shapes of the example, settings.

    Functions outside of classes are not seen: a test that replaces one of those takes the fixture `exported_anew`.

    Returns:
        None if the module holds what cannot be written, such as a function that a test has put into it.
    """
    file = io.BytesIO()
    try:
        _Content(file).dump(module)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return None
    digest = hashlib.sha256(file.getvalue())
    classes = {base for part in module.modules() for base in type(part).__mro__}
    for base in sorted(classes, key=lambda base: (base.__module__, base.__qualname__)):
        for name, function in sorted(vars(base).items()):
            if isinstance(function, FunctionType):  # a test may have replaced it in the class
                digest.update(name.encode() + marshal.dumps(function.__code__, 2))  # later versions mark what is shared
    tensors = [tensor for item in example for tensor in (item if isinstance(item, list) else [item])]
    shapes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]  # their values are random
    digest.update(repr((shapes, sorted(settings.items()))).encode())
    return digest.hexdigest()


@contextmanager
def exported_once(folder: Path) -> Iterator[None]:
    """Keeps the exporter's results in a folder that processes may share; `__wrapped__` is the exporter itself."""
    exporter = torch.onnx.export

    @functools.wraps(exporter)
    def export(module: nn.Module, example: tuple[Any, ...], **settings: Any) -> Any:
        key = export_key(module, example, settings)
        if key is None:
            return exporter(module, example, **settings)
        file = folder / f"{key}.onnx"
        with FileLock(folder / f"{key}.lock"):
            if not file.exists():
                program = exporter(module, example, **settings)
                assert program is not None
                file.write_bytes(program.model_proto.SerializeToString())
            return SimpleNamespace(model_proto=onnx.load(file))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        read_operators_once(patch)
        yield


def read_operators_once(patch: pytest.MonkeyPatch) -> None:
    """The exporter reads all operators and their signatures again for every graph, a third of the time of a tiny one."""
    from onnxscript.values import TracedOnnxFunction  # slow to import
    from torch._export import utils
    from torch.onnx._internal.exporter import _schemas

    read = TracedOnnxFunction.function_ir
    if isinstance(read, property):  # not in a version that keeps it by itself
        patch.setattr(TracedOnnxFunction, "function_ir", property(functools.cache(read.fget)))
    for module, name in ((_schemas, "op_signature_from_function"), (utils, "_materialize_cpp_cia_ops")):
        function = getattr(module, name, None)
        if function is not None:  # not in every version
            patch.setattr(module, name, functools.cache(function))
