"""Addresses: as they can be shown, in one spelling each, and relative to others."""

from __future__ import annotations

import posixpath
import re
import string
from contextlib import suppress
from functools import partial
from urllib.parse import quote

from svg_common.errors import UsageError
from svg_common.printable import one_line, without_logins

WEB = ("http://", "https://")
# From the question mark of a web address on: often a signature, as secret as a password, and quotes do not end it.
_QUERY = re.compile(r"(https?://[^?]*\?).*", re.IGNORECASE | re.DOTALL)

_WEB_PARTS = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\??[^#]*)", re.IGNORECASE)  # scheme, host, path, query
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_PLAIN = f"{string.ascii_letters}{string.digits}-._~!$'(),&=;:@"  # in a path: the same request with and without an escape
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


def normal_address(address: str, has_pattern: bool = False) -> str:
    """A web address in the one spelling of all that lead to the same request; any other address or path as it is.

    The query stays as it is: it may be signed.

    Args:
        address: an address or a path.
        has_pattern: `*`, `[` and `]` may be signs of a pattern, and stay as they are.
    """
    parts = _WEB_PARTS.match(address)
    if parts is None:
        return address
    kind = parts[1].lower()
    login, at, host = parts[2].rpartition("@")
    host = _in_ascii(host.lower()).removesuffix(_DEFAULT_PORTS[kind])
    plain = _PLAIN if has_pattern else f"{_PLAIN}*"
    path = _ESCAPE.sub(partial(_normal_escape, plain), parts[3])
    path = quote(path, safe=f"{plain}%/+{'*[]' if has_pattern else ''}", errors="surrogateescape")
    return f"{kind}://{login}{at}{host}/{_without_dots(path[1:])}{parts[4]}"


def address_beside(address: str, name: str) -> str:
    """What `name`, in a list at `address`, leads to: beside the list, below its host or bucket after /, elsewhere after //.

    Raises:
        UsageError: it leads out of the bucket.
    """
    kind, _, place = without_query(address).partition("://")
    host, _, inside = place.partition("/") if "/" in place else ("", "", place)
    folder = "" if name.startswith("/") else inside[: inside.rfind("/") + 1]
    path = folder + name.removeprefix("/")
    if is_web(address):
        return f"{kind}:{name}" if name.startswith("//") else f"{kind}://{host}/{path}"
    if posixpath.normpath(path).split("/")[0] == "..":
        raise UsageError(
            f"'{shown(name)}' leads out of '{shown(f'{kind}://{host}')}', where its list is\n  give its whole address"
        )
    return f"{kind}://{host}/{_without_dots(path)}"


def _in_ascii(host: str) -> str:
    """A host as DNS knows it; one that there cannot be as it is."""
    with suppress(UnicodeError):
        name, colon, port = host.partition(":")
        return host if host.isascii() else f"{name.encode('idna').decode('ascii')}{colon}{port}"
    return host


def _normal_escape(plain: str, escape: re.Match[str]) -> str:
    if escape[1] is None:  # a percent sign that is meant as it stands
        return "%25"
    sign = chr(int(escape[1], 16))
    return sign if sign in plain else escape[0].upper()


def _without_dots(path: str) -> str:
    """The parts of a path after its first slash, without . and ..; double slashes, which may be parts of names, stay."""
    parts = path.split("/")
    kept: list[str] = []
    for part in parts:
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
    return "/".join([*kept, ""] if parts[-1] in (".", "..") else kept)
