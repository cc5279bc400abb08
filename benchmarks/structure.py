"""How the code is laid out, in numbers: rooms and the arrows between them, and the types that a forecast crosses.

python -m benchmarks.structure [BUNDLE]

Rooms and their order are those of tests/test_arrows.py; an arrow runs upwards when a room imports one that comes later. A type
is crossed when a method of it runs during one observe + one forecast, or when the annotations of a function that runs name it.
"""

from __future__ import annotations

import gc
import itertools
import sys
import typing
from collections.abc import Collection, Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType

import numpy as np

from svg_runtime import Forecaster
from svg_runtime.bundle.reader import Bundle, find_model
from tests.test_arrows import MAY_IMPORT, PACKAGES, ROOMS, imported_modules

# Lowest first. The runtime is represented by its rooms; modules beside them, errors and options, may be imported by all.
RUNTIME = [f"svg_runtime.{room}" for room in ROOMS]
ORDER = [room for package in MAY_IMPORT for room in (RUNTIME if package == "svg_runtime" else [package])]


def print_rooms() -> None:
    folders = {module for module, file in modules() if file.name == "__init__.py"}
    between_rooms = arrows(ORDER)
    upwards = [f"{low} -> {high}" for low, high in sorted(between_rooms) if ORDER.index(low) < ORDER.index(high)]
    print(f"{len(folders)} package folders, {len(arrows(folders))} arrows between them")
    print(f"{len(ORDER)} rooms, {len(between_rooms)} arrows between them, {len(upwards)} upwards", *upwards, sep="\n  ")


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module."""
    for package, root in PACKAGES.items():
        for file in sorted(root.rglob("*.py")):
            parts = [package, *file.relative_to(root).with_suffix("").parts]
            yield ".".join(parts).removesuffix(".__init__"), file


def arrows(rooms: Collection[str]) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    imports = [(module, name) for module, file in modules() for name in imported_modules(file.read_text(encoding="utf-8"))]
    found = {(room_of(module, rooms), room_of(name, rooms)) for module, name in imports}
    return {(importer, imported) for importer, imported in found if importer and imported and importer != imported}


def room_of(module: str, rooms: Collection[str]) -> str:
    """The innermost of `rooms` that holds the module; "" for a module outside of all."""
    return max((room for room in rooms if f"{module}.".startswith(f"{room}.")), key=len, default="")


def crossed_types(forecaster: Forecaster) -> tuple[set[type], set[type]]:
    """Types of the runtime that one observe + one forecast run methods of, and those that only annotations name."""
    spec = forecaster.manifest.frame
    frame = np.full((spec.height, spec.width, spec.channels), 0.5, np.float32)
    for _ in range(forecaster.manifest.generation.n_past):
        forecaster.observe(frame)
    forecaster.forecast()  # the first one binds graphs
    ran: set[type] = set()
    codes: set[CodeType] = set()

    def note(called: FrameType, event: str, argument: object) -> None:
        if event == "call" and called.f_globals.get("__name__", "").startswith("svg_runtime"):
            codes.add(called.f_code)
            ran.update(defining_types(called))

    sys.setprofile(note)
    forecaster.observe(frame)
    forecaster.forecast()
    sys.setprofile(None)
    # Not isinstance(): it would ask every object for its class, and some warn when asked anything.
    functions = [found for found in gc.get_objects() if type(found) is FunctionType and found.__code__ in codes]
    named = {kind for function in functions for hint in hints_of(function) for kind in types_in(hint)}
    return ran, named - ran


def defining_types(called: FrameType) -> Iterator[type]:
    """The type of `self`, and the base whose method runs."""
    own = type(called.f_locals.get("self"))
    for kind in own.__mro__:
        members = [getattr(member, "fget", member) for member in vars(kind).values()]
        defines = any(getattr(member, "__code__", None) is called.f_code for member in members)
        if kind.__module__.startswith("svg_runtime") and (defines or kind is own):
            yield kind


def hints_of(function: FunctionType) -> list[object]:
    try:
        return list(typing.get_type_hints(function).values())
    except NameError:  # imported for the type checker alone
        return []


def types_in(hint: object) -> Iterator[type]:
    """Types of the runtime in an annotation such as dict[str, Buffer]."""
    if isinstance(hint, type) and hint.__module__.startswith("svg_runtime"):
        yield hint
    for argument in typing.get_args(hint):
        yield from types_in(argument)


def print_types(path: Path) -> None:
    has_fused = "step" in Bundle.open(path).variant("fp32").graphs
    for context, fused in itertools.product(("window", "stream"), (False, True) if has_fused else (False,)):
        with Forecaster.open(path, backend="cpu", samples=2, horizon=3, context=context, fused=fused) as forecaster:
            ran, named = crossed_types(forecaster)
        print(f"{context}, {'fused' if fused else 'separate'} graphs: {len(ran | named)} types, of which {len(ran)} run")
        print("  run:", *sorted(kind.__qualname__ for kind in ran))
        print("  only named:", *sorted(kind.__qualname__ for kind in named))


if __name__ == "__main__":
    print_rooms()
    print_types(find_model(sys.argv[1] if len(sys.argv) > 1 else "embedded"))
