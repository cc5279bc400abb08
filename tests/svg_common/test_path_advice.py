"""Advice contains command lines that work, whatever a path consists of."""

from __future__ import annotations

import shlex

import pytest

from svg_common.path_advice import shell_argument
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BundleError

NAMES = ["my model.pt", "it's.pt", "$HOME.pt", "a;b.pt", "-x.pt", "[b]*.pt", "a\nb.pt"]


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_is_one_word_and_no_option(name):
    assert shlex.split(shell_argument(name)) == [f"./{name}" if name.startswith("-") else name]
    assert not shell_argument(name).startswith("-")


@pytest.mark.parametrize("name", NAMES)
def test_a_command_in_a_message_can_be_copied(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(BundleError) as refused:
        Bundle.open(name)
    command = str(refused.value).partition("convert a checkpoint with: ")[2]
    program, path = shlex.split(command)
    assert program == "svg-export"
    assert (tmp_path / path).is_file()
