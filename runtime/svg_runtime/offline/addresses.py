"""Addresses and paths as they can be shown: on one line, and without anything secret."""

from __future__ import annotations

import re

from svg_common.printable import one_line, without_logins

WEB = ("http://", "https://")
# From the question mark of a web address on: often a signature, as secret as a password, and quotes do not end it.
_QUERY = re.compile(r"(https?://[^?]*\?).*", re.IGNORECASE | re.DOTALL)

_PASSWORD = re.compile(r"(?<=://)([^/:@]*):[^/]*@")


def shown(text: str) -> str:
    """An address, or a message that may end with one, without anything secret: first the query, which may hold an @."""
    return without_logins(one_line(_QUERY.sub(r"\1...", text)))


def shortened(text: str, limit: int) -> str:
    """`text` in at most `limit` characters: its middle is left out, as the end says what or why."""
    if len(text) <= limit:
        return text
    end = limit // 2
    return f"{text[: limit - end - 3]}...{text[-end:]}"


def is_web(address: str) -> bool:
    """Whether a web server has it."""
    return address.lower().startswith(WEB)


def without_query(address: str) -> str:
    """A web address without what follows the question mark, which elsewhere stands for any character of a name."""
    return address.partition("?")[0] if is_web(address) else address


def without_password(address: str) -> str:
    """An address with the user alone: ftp://user:secret@host -> ftp://user@host. Web addresses keep it, as in all results."""
    return address if is_web(address) else _PASSWORD.sub(r"\1@", address, count=1)
