"""Pickled torch modules, as inert records: their parameters and buffers by name, as in `state_dict`."""

from __future__ import annotations

from typing import Any

from svg_train.reference.inert_pickle import PickleFormatError, Record
from svg_train.reference.tensors import StoredTensor, as_tensor
from svg_train.weight_names import unwrap_names

# A part of the reference has 60 modules and 200 tensors. Shared submodules could make a small file name billions of them.
_MAX_MODULES = 1_000
_MAX_MEMBERS = 2_000
_MAX_TENSORS = 10_000
MAX_NAME = 100  # characters
_MAX_WRAPPERS = 4
_MAX_ENTRIES = 100  # of a list among settings

Tensors = dict[str, StoredTensor]


def named_tensors(module: Any) -> Tensors | None:
    """Tensors of a pickled module, or of a state_dict, by dotted name; None if it is neither.

    Everything else in a module (hooks, `_backend` objects of long-gone packages, plain attributes) has no effect.

    Raises:
        PickleFormatError: it is nested too deeply or too often.
    """
    if isinstance(module, dict):
        tensors = {name: tensor for name, value in _named(module) if (tensor := as_tensor(value))}
    elif is_module(module):
        tensors = _collect_tensors(_compiled(module))
    else:
        return None
    return unwrap_names(tensors)


def is_module(value: Any) -> bool:
    """Whether it is a pickled torch module."""
    return isinstance(value, Record) and "_modules" in _attributes(_compiled(value))


def _compiled(record: Record) -> Record:
    """The module that torch.compile was given: the result of OptimizedModule(module, context) has no attributes of its own."""
    for _ in range(_MAX_WRAPPERS):
        if _attributes(record) or not record.args or not isinstance(record.args[0], Record):
            break
        record = record.args[0]
    return record


def attributes(record: Any) -> dict[Any, Any]:
    """Attributes of an instance, or the entries of a dictionary, of any class; empty for anything else.

    OmegaConf's tables (hydra) keep their entries in `_content`, each in a node with a `_val`; pydantic's in `__dict__`.
    """
    if not isinstance(record, Record):
        return record if isinstance(record, dict) else {}
    own = _attributes(record)
    nodes = own.get("_content")
    if isinstance(nodes, dict):
        return {name: _value(node) for name, node in nodes.items()}
    fields = own.get("__dict__")
    if not own and record.items is None and len(record.args) == 1 and isinstance(record.args[0], dict):
        return record.args[0]  # of classes that are made of a dictionary, such as frozendict
    return {**(fields if isinstance(fields, dict) else own), **(record.items or {})}


def entries(record: Any) -> Any:
    """The entries of a list of OmegaConf's, as a list, if it is short; anything else as it is."""
    nodes = _attributes(record).get("_content") if isinstance(record, Record) else None
    return [_value(node) for node in nodes] if isinstance(nodes, list) and len(nodes) <= _MAX_ENTRIES else record


def _value(node: Any) -> Any:
    return _attributes(node).get("_val", node) if isinstance(node, Record) else node


def _attributes(record: Record) -> dict[Any, Any]:
    """The state of an instance; with `__slots__` it has two parts, of which the first may be None."""
    states = record.state[:2] if isinstance(record.state, tuple) else (record.state,)
    return next((state for state in states if isinstance(state, dict)), {})


def _collect_tensors(module: Record) -> Tensors:
    tensors: Tensors = {}
    queue = [("", module)]
    for prefix, record in queue:  # grows while it is read
        members = _attributes(_compiled(record))
        for group in ("_parameters", "_buffers"):
            for name, value in _named(members.get(group)):
                if tensor := as_tensor(value):
                    tensors[prefix + name] = tensor
        queue += [(f"{prefix}{name}.", child) for name, child in _named(members.get("_modules")) if isinstance(child, Record)]
        if len(queue) > _MAX_MODULES or len(tensors) > _MAX_TENSORS or len(prefix) > MAX_NAME:
            raise PickleFormatError("its modules are nested too deeply or too often")
    return tensors


def _named(group: Any) -> list[tuple[str, Any]]:
    if not isinstance(group, dict) or len(group) > _MAX_MEMBERS:
        return []
    return [(name, value) for name, value in group.items() if isinstance(name, str) and len(name) <= MAX_NAME]
