"""Addresses of network cameras: which are supported, and which part of them may be shown."""

from __future__ import annotations

import base64
import re
import string
from urllib.parse import SplitResult, quote, unquote

from svg_common.errors import UsageError
from svg_runtime.live.sources.synthetic import SYNTHETIC_URL

HIDDEN_HOST = "..."  # replaces a host that cannot be told apart from a password
_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp")
_HOST_AND_PORT = re.compile(r"([^:\[\]]*|\[.*\])(:\d+)?")  # host, or IPv6 address in brackets, and port


def is_stream_address(source: str) -> bool:
    """Whether a source is an address, not a path. `rtsp:/host`, with a missing slash, counts as an invalid address."""
    return "://" in source or source.lower().startswith(tuple(f"{scheme}:" for scheme in _SCHEMES))


def require_stream_address(url: str) -> None:
    """Refuse unsupported addresses.

    Raises:
        UsageError: the scheme is unknown, or the host is missing.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _SCHEMES or not rest:
        raise UsageError(f"unknown source '{stream_name(url)}'\n"
                         f"  expected a file, a folder, {SYNTHETIC_URL}, a camera (v4l2://, csi://, gstreamer://),\n"
                         f"  or the address of live video: {'://, '.join(_SCHEMES)}://"
                         )  # fmt: skip


def stream_name(url: str) -> str:
    """Return scheme, host and port. Users, passwords, paths and queries are left out: each may contain a password."""
    scheme, _, rest = url.partition(":")
    authority = re.split("[/?#]", rest.removeprefix("//"))[0]
    host = authority.rpartition("@")[2]
    # False for a password with a character that should have been written as %XX, and for a missing host.
    is_clear = rest.startswith("//") and rest.count("@") == authority.count("@") and _HOST_AND_PORT.fullmatch(host)
    return f"{scheme}://{host if is_clear else HIDDEN_HOST}"


def has_password(url: str) -> bool:
    """Whether an address gives user and password, or what is taken for them."""
    login, at, _ = re.split("[/?#]", url.partition("://")[2])[0].rpartition("@")
    return bool(at) and ":" in login


def without_login(parts: SplitResult) -> tuple[str, dict[str, str]]:
    """Return an http address without user and password, and the headers with which these are sent: basic authentication."""
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode("utf-8")).decode("ascii")
    bare = parts._replace(
        netloc=parts.netloc.rpartition("@")[2],
        path=quote(parts.path, string.punctuation),  # letters beyond ASCII only: the rest is as the user encoded it
        query=quote(parts.query, string.punctuation),
    )
    return bare.geturl(), headers
