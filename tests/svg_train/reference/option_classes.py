"""Classes that training programs keep their settings in, each pickled in its own way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any


class Slotted:
    """As a dataclass with slots: its state has two parts."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        return None, self._table


class Validated:
    """As a model of pydantic's."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table

    def __getstate__(self) -> dict[str, Any]:
        return {"__dict__": self._table, "__pydantic_fields_set__": set(self._table), "__pydantic_extra__": None}


class Frozen:
    """As frozendict."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table

    def __reduce__(self) -> tuple[Any, ...]:
        return Frozen, (self._table,)


CLASSES = {
    "a namespace": lambda table: SimpleNamespace(**table), "slots": Slotted, "pydantic": Validated, "frozendict": Frozen,
}  # fmt: skip


@contextmanager
def omegaconf() -> Iterator[ModuleType]:
    """A stand-in for the package, with the classes by which it pickles tables, lists and values."""
    module = ModuleType("omegaconf")

    class Node:
        def __init__(self, **state: Any) -> None:
            self.__dict__.update(state, _metadata=None, _parent=None)

    for name in ("DictConfig", "ListConfig", "AnyNode"):
        setattr(module, name, type(name, (Node,), {"__module__": "omegaconf"}))
    sys.modules["omegaconf"] = module
    try:
        yield module
    finally:
        del sys.modules["omegaconf"]


def as_omegaconf(module: ModuleType, value: Any) -> Any:
    """A table, list or value in the classes of `module`."""
    if isinstance(value, dict):
        return module.DictConfig(_content={name: as_omegaconf(module, entry) for name, entry in value.items()})
    if isinstance(value, list):
        return module.ListConfig(_content=[as_omegaconf(module, entry) for entry in value])
    return module.AnyNode(_val=value)
