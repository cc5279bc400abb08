"""Pickled torch modules, as inert records: their parameters and buffers by name, as in `state_dict`."""

from __future__ import annotations

from typing import Any

from svg_train.reference.inert_pickle import PickleFormatError, Record
from svg_train.reference.tensors import StoredTensor, as_tensor

# A part of the reference has 60 modules and 200 tensors. Shared submodules could make a small file name billions of them.
_MAX_MODULES = 1_000
_MAX_MEMBERS = 2_000
_MAX_TENSORS = 10_000
_MAX_NAME = 100
_WRAPPER = "module."  # torch.nn.DataParallel stores the wrapped module under this name

Tensors = dict[str, StoredTensor]


def named_tensors(module: Any) -> Tensors | None:
    """Tensors of a pickled module, or of a state_dict, by dotted name; None if it is neither.

    Everything else in a module (hooks, `_backend` objects of long-gone packages, plain attributes) has no effect.

    Raises:
        PickleFormatError: it is nested too deeply or too often.
    """
    if isinstance(module, dict):
        tensors = {name: tensor for name, value in _named(module) if (tensor := as_tensor(value))}
    elif isinstance(module, Record) and "_modules" in _attributes(module):
        tensors = _collect_tensors(module)
    else:
        return None
    while tensors and all(name.startswith(_WRAPPER) for name in tensors):
        tensors = {name.removeprefix(_WRAPPER): tensor for name, tensor in tensors.items()}
    return tensors


def attributes(record: Any) -> dict[Any, Any]:
    """Attributes of an instance, or the dictionary itself; empty for anything else."""
    return record if isinstance(record, dict) else _attributes(record) if isinstance(record, Record) else {}


def _attributes(record: Record) -> dict[Any, Any]:
    state = record.state[0] if isinstance(record.state, tuple) and record.state else record.state
    return state if isinstance(state, dict) else {}


def _collect_tensors(module: Record) -> Tensors:
    tensors: Tensors = {}
    queue = [("", module)]
    for prefix, record in queue:  # grows while it is read
        members = _attributes(record)
        for group in ("_parameters", "_buffers"):
            for name, value in _named(members.get(group)):
                if tensor := as_tensor(value):
                    tensors[prefix + name] = tensor
        queue += [(f"{prefix}{name}.", child) for name, child in _named(members.get("_modules")) if isinstance(child, Record)]
        if len(queue) > _MAX_MODULES or len(tensors) > _MAX_TENSORS or len(prefix) > _MAX_NAME:
            raise PickleFormatError("its modules are nested too deeply or too often")
    return tensors


def _named(group: Any) -> list[tuple[str, Any]]:
    if not isinstance(group, dict) or len(group) > _MAX_MEMBERS:
        return []
    return [(name, value) for name, value in group.items() if isinstance(name, str) and len(name) <= _MAX_NAME]
