r"""Names that can be printed, drawn and stored, whatever bytes they consist of.

A file name on Linux is any sequence of bytes. Python keeps those that are not UTF-8 as lone surrogates. At these, OpenCV
crashes, matplotlib, TensorBoard and strict streams raise errors, and JSON readers of other languages stop.
"""

from __future__ import annotations

import codecs
import os
import re
import sys

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # without tab and line feed, which messages contain
_BREAKS = re.compile(r"[\t\n\u2028\u2029]")  # which `printable` leaves to messages of several lines
# User and password of an address, also where a path has lost its second slash; not the words of our own advice, and not
# hf://user/name@revision, the address of a model.
_LOGIN = re.compile(r"\b(?!hf:/{1,2}[\w.-]+/[\w.-]+@)([A-Za-z][\w+.-]+:/{1,2})(?!/|USER:PASSWORD@)[^\s'\"]*@")
_ERRORS = "svg-printable"
_RAW_BYTES = range(0xDC80, 0xDD00)  # how Python keeps undecodable bytes (PEP 383)


def printable(name: str | os.PathLike[str]) -> str:
    r"""Return `name` with undecodable bytes as `\xff`, other lone surrogates as `\ud800`, control characters as `\x1b`.

    Text without any of these is returned unchanged. The result is for display only: it does not open the file.
    """
    text = os.fspath(name).encode("utf-8", _ERRORS).decode("utf-8")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def one_line(name: str | os.PathLike[str]) -> str:
    r"""As `printable`, for a name in a table or a line of progress: tabs and line breaks as `\t` and `\n` too."""
    return _BREAKS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), printable(name))


def without_logins(message: str) -> str:
    """Return `message` without the users and passwords of addresses in it: rtsp://user:secret@host -> rtsp://...@host."""
    return _LOGIN.sub(r"\1...@", message)


def console_text(message: str) -> str:
    """Return `message` as it may appear on a screen or in a log file: `printable`, and `without_logins`."""
    return printable(without_logins(message))


def print_any_name() -> None:
    r"""Let stdout and stderr write every character: undecodable bytes as `\xff`, what their encoding lacks as `\u20ac`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a program may have replaced it
            stream.reconfigure(errors=_ERRORS)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escaped, error.object[error.start : error.end])), error.end


def _escaped(character: str) -> str:
    code = ord(character)
    if code in _RAW_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(_ERRORS, _escape)
