"""Videos on web servers: what fsspec's driver of them leaves out.

It ends every download after five minutes, though bytes come, and does not say why a server gives no video.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

TIMEOUTS = (TimeoutError, asyncio.TimeoutError)  # two classes before Python 3.11
SILENCE_S = 60.0  # until a server is given up; others in front of it, such as nginx, wait as long for it
_PAGES = ("text/html", "application/xhtml+xml", "application/json")  # what servers answer with instead of a video
_STARTS = (b"<!doctype html", b"<html")
_UNAVAILABLE = (408, 429, 502, 503, 504)  # of a server that is away or overloaded, whatever it is asked for
_AT_ONCE = 6  # requests for what there is: with more, a small server whose queue is full answers seconds later
_PLAIN = ("", "identity")  # encodings in which the length is that of the file


def web_options() -> dict[str, Any]:
    """Options of fsspec's driver: a limit on silence, and none on the whole, which a large video may need hours for.

    Raises:
        ImportError: aiohttp is not installed.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": timeout}}


def ask_server(store: Any, address: str) -> dict[str, Any]:
    """What a web server says of `address`: size, ETag and Last-Modified, if it does; url after redirects; page, see below.

    `page` is the type of a page that it answers with instead of a video, else None.

    Raises:
        Exception: it cannot be reached; `server_problem` says why.
    """
    from fsspec.asyn import sync

    answer: dict[str, Any] = sync(store.loop, _ask, store, address)
    return answer


def ask_server_of_each(store: Any, addresses: Sequence[str]) -> dict[str, dict[str, Any] | Exception]:
    """As `ask_server`, of many addresses, a few at a time; what cannot be reached has the error in place of the answer."""
    from fsspec.asyn import sync

    answers: list[dict[str, Any] | Exception] = sync(store.loop, _ask_each, store, addresses)
    return dict(zip(addresses, answers, strict=True))


def server_problem(error: BaseException) -> str | None:
    """Why a web server gives nothing, in words; None: `error` says it itself."""
    from aiohttp import ClientResponseError, TooManyRedirects

    if isinstance(error, TooManyRedirects):  # its status is 0
        return "the server redirects without end"
    if isinstance(error, ClientResponseError):
        return f"{error.status or ''} {error.message}".strip() or None
    if isinstance(error, TIMEOUTS):
        return f"nothing came from the server for {SILENCE_S:g} s"
    if isinstance(error, FileNotFoundError) and error.errno is None:  # of the driver, not of a disk
        return "404 Not Found"
    return None


def is_answer(status: int) -> bool:
    """Whether a status code is about one address alone, such as 403 Forbidden."""
    return 400 <= status < 600 and status not in _UNAVAILABLE


def is_page(start: bytes) -> bool:
    """Whether a file that begins with `start` is a web page."""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_STARTS)


def page_error(name: str, expected: str, kind: str = "text/html") -> str:
    """Words about a page at an address where something else was expected."""
    return f"'{name}' is a page ({kind}), not {expected}\n  check the address, and whether a login or a signature has expired"


async def _ask_each(store: Any, addresses: Sequence[str]) -> list[dict[str, Any] | Exception]:
    gate = asyncio.Semaphore(_AT_ONCE)
    silent: list[Exception] = []

    async def ask(address: str) -> dict[str, Any] | Exception:
        async with gate:
            if len(silent) >= _AT_ONCE:  # the server is: the others would wait as long again
                return silent[0]
            try:
                return await _ask(store, address)
            except Exception as error:
                if isinstance(error, TIMEOUTS):
                    silent.append(error)
                return error

    return await asyncio.gather(*map(ask, addresses))


async def _ask(store: Any, address: str) -> dict[str, Any]:
    from aiohttp import ClientError

    session, url = await store.set_session(), store.encode_url(address)
    options = {"allow_redirects": True, "headers": {"Accept-Encoding": "identity"}}  # the size is then that of the file
    try:
        about = await _headers(session.head(url, **options))
    except TIMEOUTS:
        raise
    except ClientError:  # signed for GET alone, or a server that knows no HEAD
        about = {}
    if about.get("size") is not None and about["page"] is None:
        return about
    return about | await _headers(session.get(url, **options))


async def _headers(request: Any) -> dict[str, Any]:
    async with request as answer:
        answer.raise_for_status()
        headers = answer.headers
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        about = {"type": "file", "url": str(answer.url), "page": kind if kind in _PAGES else None}
        if "Content-Length" in headers and headers.get("Content-Encoding", "") in _PLAIN:
            about["size"] = int(headers["Content-Length"])
        return about | {name: headers[name] for name in ("ETag", "Last-Modified") if headers.get(name)}
