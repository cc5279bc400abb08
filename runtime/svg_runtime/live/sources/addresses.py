"""Addresses of cameras on the network: which there are, and what is shown of them."""

from __future__ import annotations

import re

from svg_common.errors import UsageError
from svg_runtime.live.sources.synthetic import SYNTHETIC_URL

UNCLEAR = "..."  # in place of a host that cannot be told from a password
_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp")
_PLACE = re.compile(r"([^:\[\]]*|\[.*\])(:\d+)?")  # host, or IPv6 address in brackets, and port


def is_address(source: str) -> bool:
    """Whether a source is an address, and no path. `rtsp:/host`, with a slash too few, is a mistake and no path either."""
    return "://" in source or source.lower().startswith(tuple(f"{scheme}:" for scheme in _SCHEMES))


def require_stream_address(url: str) -> None:
    """Refuse addresses of other kinds.

    Raises:
        UsageError: no camera is reached this way.
    """
    scheme, _, place = url.partition("://")
    if scheme.lower() not in _SCHEMES or not place:
        raise UsageError(f"unknown source '{stream_name(url)}'\n"
                         f"  expected a file, a folder, {SYNTHETIC_URL}, or the address of live video: {'://, '.join(_SCHEMES)}://"
                         )  # fmt: skip


def stream_name(url: str) -> str:
    """Scheme, host and port. Users, passwords, paths and queries are left out: each of them may hold a password."""
    scheme, _, rest = url.partition(":")
    authority = re.split("[/?#]", rest.removeprefix("//"))[0]
    place = authority.rpartition("@")[2]
    # Not so in a password with a character that should have been written as %XX, nor where the host was forgotten.
    understood = rest.startswith("//") and rest.count("@") == authority.count("@") and _PLACE.fullmatch(place)
    return f"{scheme}://{place if understood else UNCLEAR}"
