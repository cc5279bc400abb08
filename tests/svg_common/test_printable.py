r"""Names of any bytes can be printed, drawn and stored."""

from __future__ import annotations

import ast
import io
import json
import os
import sys
from pathlib import Path

import pytest

from svg_common.files import write_json
from svg_common.printable import print_any_name, printable, without_logins


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"plain [red] $x$ \xc3\xbc \xe6\x97\xa5", "plain [red] $x$ ü 日"),
     (b"na\xffme", r"na\xffme"),
     (b"\x80\xc3", r"\x80\xc3"),
     (b"a\x1b[31m\rb\x7f", r"a\x1b[31m\x0db\x7f"),
     (b"two\nlines\t", "two\nlines\t")],
)  # fmt: skip
def test_a_name_becomes_text_that_can_be_encoded(name, shown):
    assert printable(os.fsdecode(name)) == shown
    printable(os.fsdecode(name)).encode("utf-8")


def test_other_lone_surrogates_are_shown_as_their_code():
    assert printable("a\ud800\udfffb") == r"a\ud800\udfffb"


def test_streams_write_every_character(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print_any_name()
    print("na\udcffme \u20ac", flush=True)
    assert stream.buffer.getvalue() == b"na\\xffme \\u20ac\n"


def test_json_holds_only_text(tmp_path):
    write_json(tmp_path / "a.json", {"na\udcffme": ["\udc80.mp4", ("\ud800",)]})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {r"na\xffme": [r"\x80.mp4", [r"\ud800"]]}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("'rtsp://user:se/c#ret@host/x' does not exist", "'rtsp://...@host/x' does not exist"),
        ("'rtsp:/user:secret@host/x' does not exist", "'rtsp:/...@host/x' does not exist"),
        ("write it as rtsp://USER:PASSWORD@HOST/PATH", "write it as rtsp://USER:PASSWORD@HOST/PATH"),
        ("'a@b.mp4' and 'C:/me@home' are files", "'a@b.mp4' and 'C:/me@home' are files"),
        (
            "hf://user/name@main and hf:/user/name@0123abc are models",
            "hf://user/name@main and hf:/user/name@0123abc are models",
        ),
        ("hf://user:secret@host/name@main", "hf://...@main"),
        ("from http://host/x to b@c", "from http://host/x to b@c"),
    ],
)
def test_passwords_in_addresses_are_not_shown(message, shown):
    assert without_logins(message) == shown


def test_no_message_advises_with_an_address_that_would_be_hidden():
    """Only `USER:PASSWORD@` is known as our own advice. Docstrings and help are not shown as messages are."""
    root = Path(__file__).parents[2]
    hidden = []
    for path in [path for folder in ("runtime", "export", "svg_train") for path in (root / folder).rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # Docstrings are for readers of the code, and argparse prints a help as it is: neither passes `without_logins`.
        exempt = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg == "help")
        }
        hidden += [
            f"{path}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in exempt
            if "://user:pass" in node.value
        ]
    assert not hidden
