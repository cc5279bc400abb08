"""Names in tables, captions and lists, of which each has one line."""

from __future__ import annotations

import os

from svg_common.printable import printable

_BREAKS = str.maketrans({"\n": r"\x0a", "\t": r"\x09"})  # which `printable` leaves: messages contain them


def one_line(name: str | os.PathLike[str]) -> str:
    r"""As `printable`, with line feeds and tabs as `\x0a` and `\x09` too: a file name may contain them."""
    return printable(name).translate(_BREAKS)
