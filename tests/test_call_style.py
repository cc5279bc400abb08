"""Two habits that keep calls readable: keywords from five arguments on, and one attribute a line."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("svg_train", "export", "runtime", "benchmarks")  # all of our packages
MOST_POSITIONAL = 4
ANY = 1 << 16  # arguments that *args takes


def positional_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> int:
    """How many arguments a function takes without their names."""
    static = any(isinstance(decorator, ast.Name) and decorator.id == "staticmethod" for decorator in function.decorator_list)
    count = len(function.args.posonlyargs) + len(function.args.args) - (method and not static)
    return ANY if function.args.vararg else count


def constructor_parameters(node: ast.ClassDef) -> int:
    """The same for a class: of its __init__, else the fields of a dataclass or named tuple."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return positional_parameters(member, method=True)
    return sum(isinstance(member, ast.AnnAssign) for member in node.body)


def definitions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Name and positional parameters of every function and class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, constructor_parameters(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield child.name, positional_parameters(child, method=isinstance(node, ast.ClassDef))


def long_calls(tree: ast.AST, own: dict[str, set[int]]) -> list[int]:
    """Lines of calls of our own names with five or more arguments without a name; *args may be any number."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) <= MOST_POSITIONAL:
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        fitting = {count for count in own.get(name, ()) if count >= len(node.args)}  # the others are another library's
        if name in ("cls", "__init__") or (fitting and ANY not in fitting):
            lines.append(node.lineno)
    return lines


def attribute_tuples(tree: ast.AST) -> list[int]:
    """Lines of assignments such as `self.a, self.b = x, y`."""
    return [
        target.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, (ast.Tuple, ast.List)) and any(isinstance(part, ast.Attribute) for part in target.elts)
    ]


@functools.cache
def parsed(folder: str) -> dict[str, ast.AST]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


@pytest.fixture(scope="module")
def own() -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for folder in FOLDERS:
        for tree in parsed(folder).values():
            for name, count in definitions(tree):
                found.setdefault(name, set()).add(count)
    return found


def test_the_checks_find_what_they_are_for():
    tree = ast.parse(
        "class A:\n def f(self, a, b, c, d, e): ...\n @staticmethod\n def g(a, b, c, d): ...\n"
        "class B:\n a: int\n b: int\n c: int\n d: int\n e: int\n"
        "def h(a, *rest): ...\n"
        "x.f(1, 2, 3, 4, 5)\nx.f(1, 2, 3, 4, e=5)\nB(1, 2, 3, 4, 5)\nh(1, 2, 3, 4, 5)\ng(1, 2, 3, 4, 5)\nother(1, 2, 3, 4, 5)\n"
        "cls(1, 2, 3, 4, 5)\nsuper().__init__(1, 2, 3, 4, 5)\n"
        "self.a, self.b = 1, 2\na, self.b = c\na, b = c\nself.a = self.b = 1\n"
    )
    own: dict[str, set[int]] = {}
    for name, count in definitions(tree):
        own.setdefault(name, set()).add(count)
    assert own == {"A": {0}, "f": {5}, "g": {4}, "B": {5}, "h": {ANY}}
    assert long_calls(tree, own) == [11 + 1, 11 + 3, 11 + 7, 11 + 8]
    assert attribute_tuples(tree) == [20, 21]


@pytest.mark.parametrize("folder", FOLDERS)
def test_calls_with_five_arguments_or_more_name_them(folder, own):
    found = {file: long_calls(tree, own) for file, tree in parsed(folder).items()}
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_attribute_is_assigned_on_a_line_of_its_own(folder):
    found = {file: attribute_tuples(tree) for file, tree in parsed(folder).items()}
    assert {file: lines for file, lines in found.items() if lines} == {}
