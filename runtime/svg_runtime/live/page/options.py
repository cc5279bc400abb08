"""The options of the page, and their checks; free of the web server, so that a command line is checked without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svg_common.command import require_modules
from svg_common.errors import UsageError
from svg_runtime.web.address import Address, check_host_name, parse_listen_address
from svg_runtime.web.token import Token, find_token


@dataclass(frozen=True)
class PageOptions:
    """Where the page is served.

    Attributes:
        address: where the server listens.
        names: further host names by which it may be asked.
        token: None: whoever reaches the address may ask.
    """

    address: Address
    names: frozenset[str] = frozenset()
    token: Token | None = None

    def check(self) -> None:
        """Refuse what cannot work, before the model is opened.

        Raises:
            MissingExtraError: a package is not installed.
        """
        require_modules("--serve", "serve", "starlette", "uvicorn", "prometheus_client")


def page_options(serve: str | None, hosts: Sequence[str] | None, token_file: Path | None) -> PageOptions | None:
    """Read the options as they were given; None without a page.

    Args:
        serve: where to listen.
        hosts: further names.
        token_file: holds the token; None: the environment does, or one is made if others can reach the address.

    Raises:
        UsageError: an option without --serve, or an address, name or token that is none.
    """
    if serve is None:
        idle = [name for name, value in (("--serve-host", hosts), ("--serve-token", token_file)) if value]
        if idle:
            raise UsageError(f"{idle[0]} has no effect without a page\n  add --serve PORT")
        return None
    names = frozenset(check_host_name("--serve-host", name) for name in hosts or ())
    address = parse_listen_address("--serve", serve)
    return PageOptions(address, names, find_token("--serve-token", token_file, required=not address.is_loopback))
