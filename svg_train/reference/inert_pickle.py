"""A pickle machine that runs no code: it knows containers and plain values; everything else becomes an inert record.

Python's own unpicklers import and call what a file names. Even a restricted `find_class` returns objects that the file can then
change: BUILD sets attributes of whatever is on the stack. This one neither imports nor calls: the standard library's
`pickletools` splits the stream into opcodes, and the machine below only moves plain values. A class or function of the file is
a `GlobalName`, its instance or result a `Record`. The caller has a table of the few names that have a meaning.

Memory and time are bounded by the bytes of the stream and by `MAX_OPCODES`: no opcode makes more than one small object, lengths
beyond the stream are refused before anything is allocated, and nothing is recursive.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

MAX_OPCODES = 500_000  # a VGG-128 checkpoint with whole modules has about 30,000; each number of a loss curve is one more
_SMALL_INT = 1 << 31  # keys of dictionaries: larger ones could be chosen so that all collide


class PickleFormatError(Exception):
    """The stream is truncated, malformed or larger than a checkpoint's; the message is a reason, without the file's name."""


@dataclass(frozen=True, slots=True)
class GlobalName:
    """A class or function that the file names, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """An instance of an unknown class, or the result of an unknown function: what it was made from, without behaviour."""

    maker: GlobalName | None
    args: tuple[Any, ...]
    state: Any = None  # the argument that __setstate__ would have had
    items: dict[Any, Any] | None = None  # of a class that behaves as a dictionary


Rebuild = Mapping[GlobalName, Callable[[tuple[Any, ...]], Any]]

_ARGUMENT = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
}  # opcodes that push their own argument  # fmt: skip
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple,
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load_inert(
    stream: BytesIO, rebuild: Rebuild | None = None, persistent_load: Callable[[tuple[Any, ...]], Any] | None = None
) -> Any:
    """Read one pickle from the current position of `stream`, and return its value.

    Args:
        stream: bytes in memory; a pickle of unknown length is read in place.
        rebuild: functions for the names that have a meaning; each gets the unchecked tuple of arguments.
        persistent_load: turns a persistent id, a tuple, into a value.

    Raises:
        PickleFormatError: truncated, malformed, or too long.
    """
    return _Machine(rebuild or {}, persistent_load).run(stream)


class _Machine:
    """Stack, marks and memo. Each method is one opcode; `_OPERATIONS` names those whose method is not their own name."""

    def __init__(self, rebuild: Rebuild, persistent_load: Callable[[tuple[Any, ...]], Any] | None) -> None:
        self._rebuild = rebuild
        self._persistent_load = persistent_load
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._left = MAX_OPCODES

    def run(self, stream: BytesIO) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self._spend(1)
                if opcode.name != "STOP":
                    self._execute(opcode.name, argument)
        except (ValueError, OverflowError, struct.error) as error:
            raise PickleFormatError(str(error)[:200]) from error
        return self._pop()

    def _spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise PickleFormatError(f"more than {MAX_OPCODES} pickle instructions")

    def _execute(self, name: str, argument: Any) -> None:
        if name in _ARGUMENT:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        else:  # the extension registry, out-of-band buffers
            raise PickleFormatError(f"unexpected pickle instruction {name}")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PickleFormatError("an instruction takes a value from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        self._stack.append(value := self._pop())
        return value

    def _pop_mark(self) -> list[Any]:
        """All values above the last mark."""
        if not self._marks:
            raise PickleFormatError("an instruction looks for a mark that was not set")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def dup(self, _: Any) -> None:
        self._stack.append(self._top())

    def skip(self, _: Any) -> None:
        """PROTO and FRAME have no effect."""

    def put(self, index: int) -> None:
        self._memo[index] = self._top()

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise PickleFormatError(f"an instruction recalls the value {str(index)[:20]}, which was not stored")
        self._stack.append(self._memo[index])

    def tuple_(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def list_(self, _: Any) -> None:
        self._stack.append(self._pop_mark())

    def dict_(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._set_items(items)

    def frozenset_(self, _: Any) -> None:
        self._stack.append({value for value in self._pop_mark() if _is_key(value)})

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    def setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def setitems(self, _: Any) -> None:
        self._set_items(self._pop_mark())

    def _extend(self, values: list[Any]) -> None:
        """Lists and sets grow; a record ignores new elements."""
        target = self._top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(value for value in values if _is_key(value))
        elif not isinstance(target, Record):
            raise PickleFormatError("an instruction appends to something that is not a list")

    def _set_items(self, items: list[Any]) -> None:
        """Entries whose key is neither text nor a number are skipped: hashing nested tuples can take forever."""
        target = self._top()
        if len(items) % 2:
            raise PickleFormatError("a dictionary has a key without a value")
        if isinstance(target, Record):
            target.items = {} if target.items is None else target.items
            target = target.items
        if isinstance(target, dict):
            target.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if _is_key(key))
        else:
            raise PickleFormatError("an instruction sets items of something that is not a dictionary")

    def global_(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(GlobalName(module, name))

    def stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleFormatError("the name of a class is not text")
        self._stack.append(GlobalName(module, name))

    def reduce(self, _: Any) -> None:
        args, maker = self._pop(), self._pop()
        self._make(maker, args)

    def newobj_ex(self, _: Any) -> None:
        _keywords, args, maker = self._pop(), self._pop(), self._pop()
        self._make(maker, args)

    def inst(self, argument: str) -> None:
        args = tuple(self._pop_mark())
        self.global_(argument)
        self._make(self._pop(), args)

    def obj(self, _: Any) -> None:
        values = self._pop_mark()
        if not values:
            raise PickleFormatError("an object without a class")
        self._make(values[0], tuple(values[1:]))

    def build(self, _: Any) -> None:
        """__setstate__: a record stores the state; a list or dictionary of a known kind ignores it."""
        state, target = self._pop(), self._top()
        if isinstance(target, Record):
            target.state = state

    def persid(self, _: Any) -> None:
        raise PickleFormatError("a persistent id written as text")

    def binpersid(self, _: Any) -> None:
        identity = self._pop()
        if not isinstance(identity, tuple) or self._persistent_load is None:
            raise PickleFormatError("a persistent id that torch.save does not write")
        self._stack.append(self._persistent_load(identity))

    def _make(self, maker: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise PickleFormatError("the arguments of a call are not a tuple")
        known = self._rebuild.get(maker) if isinstance(maker, GlobalName) else None
        if known:  # it may copy its arguments, and a memoized list could be passed again and again
            self._spend(len(args) + (len(args[0]) if args and isinstance(args[0], (list, tuple)) else 0))
        self._stack.append(known(args) if known else Record(maker if isinstance(maker, GlobalName) else None, args))


def _is_key(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) < _SMALL_INT)


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.skip, "FRAME": _Machine.skip,
    "MARK": _Machine.mark, "POP": _Machine.pop, "POP_MARK": _Machine.pop_mark, "DUP": _Machine.dup,
    "PUT": _Machine.put, "BINPUT": _Machine.put, "LONG_BINPUT": _Machine.put, "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get, "BINGET": _Machine.get, "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple_, "LIST": _Machine.list_, "DICT": _Machine.dict_, "FROZENSET": _Machine.frozenset_,
    "APPEND": _Machine.append, "APPENDS": _Machine.appends, "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.setitem, "SETITEMS": _Machine.setitems,
    "GLOBAL": _Machine.global_, "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce, "NEWOBJ": _Machine.reduce, "NEWOBJ_EX": _Machine.newobj_ex,
    "INST": _Machine.inst, "OBJ": _Machine.obj, "BUILD": _Machine.build,
    "PERSID": _Machine.persid, "BINPERSID": _Machine.binpersid,
}  # fmt: skip
