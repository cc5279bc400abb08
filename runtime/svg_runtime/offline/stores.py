"""Stores of videos, through fsspec: how they are opened, what is in them, and their errors in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from svg_common.command import require_modules
from svg_common.errors import BackendMissingError, SvgError, UsageError
from svg_common.video.reader import VIDEO_SUFFIXES
from svg_runtime.offline.addresses import is_web, shown, without_query
from svg_runtime.offline.web_server import TIMEOUTS, ask_server, is_page, page_error, server_problem, web_options

PATTERN = "*?["  # signs of one
_ARCHIVES = ("zip", "tar", "libarchive")  # kinds of addresses of fsspec that name a file within another
_REASON_LIMIT = 300  # characters: libraries put whole answers of servers into their errors
_HEAD = 1024  # bytes, which show what a file is


class UnreachableError(SvgError):
    """A video cannot be read from where it is, now: it is gone, changes, or its store does not answer."""


def open_store(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        UsageError: there is no such kind of address, or it is one of archives.
        BackendMissingError: its driver is not installed.
        UnreachableError: its driver cannot log in.
    """
    require_modules("svg-forecast with an address", "forecast", "fsspec")
    import fsspec
    from fsspec.core import url_to_fs

    kind, _, place = address.partition("://")
    kind = shown(kind)
    if kind.lower() in _ARCHIVES:
        raise UsageError(
            f"'{shown(address)}' names an archive, which svg-forecast does not read\n  unpack the archive, and give its folder"
        )
    try:
        if is_web(address):  # url_to_fs would split it at every ::, also in [::1] and in a signature
            return fsspec.filesystem(kind.lower(), **web_options()), f"{kind.lower()}://{place}"
        store, place = url_to_fs(address)
    except ImportError as error:
        raise BackendMissingError(f"{kind}:// needs a package: {reason_of(error)}\n  install it with pip") from error
    except ValueError as error:
        raise UsageError(
            f"'{shown(address)}' is not an address of videos: {reason_of(error)}\n"
            "  expected a path, file://, s3://, gs:// or another kind that fsspec knows"
        ) from error
    except Exception as error:  # a driver that wants to log in
        raise UnreachableError(
            f"cannot open '{shown(address)}': {reason_of(error)}\n"
            f"  check the address, the network, and what fsspec's driver of {kind}:// needs, and run the same command again"
        ) from error
    return store, place


def is_local_store(store: Any) -> bool:
    """Whether its paths are those of this machine."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(store, LocalFileSystem)


def find_stored(store: Any, place: str) -> dict[str, Mapping[str, Any]]:
    """The videos at `place`, a file, a folder or a pattern: what the driver knows of each, by its name.

    Raises:
        UsageError: it is a folder of a web server.
        UnreachableError: it cannot be reached, or is a page instead of a video.
    """
    try:
        if any(sign in _inside(place) for sign in PATTERN):
            return _with_signs(store, place) or _matching(store, place)
        return _by_name(store, place)
    except SvgError:
        raise
    except Exception as error:  # of the driver's own kinds
        raise UnreachableError(
            f"'{shown(str(store.unstrip_protocol(place)))}' cannot be reached: {reason_of(error, place)}\n"
            "  check the address, the network and the rights, and run the same command again"
        ) from error


def read_list(address: str, limit: int) -> bytes:
    """The first `limit` bytes of a list.

    Raises:
        UsageError, BackendMissingError: as for `open_store`.
        UnreachableError: it cannot be read, or is a page.
    """
    store, place = open_store(address)
    try:
        content: bytes = store.cat_file(place, 0, limit)
    except Exception as error:  # of the driver's own kinds
        raise UnreachableError(f"cannot read the list '{shown(address)}': {reason_of(error, address)}") from error
    if is_page(content[:_HEAD]):
        raise UnreachableError(page_error(shown(address), "a list"))
    return content


def download(address: str, path: Path) -> None:
    """Copy a video to `path`.

    Raises:
        UsageError, BackendMissingError: as for `open_store`.
        UnreachableError: it cannot be read, or is a page: a login may have expired since the video was listed.
    """
    store, place = open_store(address)
    try:
        store.get_file(place, str(path))
    except Exception as error:  # of the driver's own kinds
        raise UnreachableError(f"cannot download '{shown(address)}': {reason_of(error, address)}") from error
    with path.open("rb") as file:
        if is_page(file.read(_HEAD)):
            raise UnreachableError(page_error(shown(address), "a video"))


def reason_of(error: BaseException, address: str = "") -> str:
    """An error of the driver of `address` in a line."""
    said = (server_problem(error) if is_web(address) else None) or (str(error).splitlines() or [""])[0]
    if not said and isinstance(error, TIMEOUTS):
        said = "no answer in time"
    return shown(said or type(error).__name__)[:_REASON_LIMIT]


def _inside(place: str) -> str:
    """What of a place may be a pattern: not the host of a web address, which may be [::1], nor its query."""
    return "".join(without_query(place).split("/", 3)[3:]) if is_web(place) else place


def _by_name(store: Any, place: str) -> dict[str, Mapping[str, Any]]:
    return _web_video(store, place) if is_web(place) else _file_or_folder(store, place)


def _with_signs(store: Any, place: str) -> dict[str, Mapping[str, Any]]:
    """The videos at a place whose own name has the signs of a pattern, as those of local files may; none if it is a pattern."""
    try:
        return _by_name(store, place)
    except TIMEOUTS:  # the pattern would wait as long again
        raise
    except Exception:  # of the driver's own kinds: such a name may not even be allowed; what matters, the pattern meets too
        return {}


def _matching(store: Any, place: str) -> dict[str, Mapping[str, Any]]:
    found = _videos(store.glob(place, detail=True))
    if not found and is_web(place):  # fsspec takes a page that is not there for one without links
        folder = re.split(r"[*?[]", _inside(place))[0].rpartition("/")[0]
        ask_server(store, f"{'/'.join(place.split('/', 3)[:3])}/{folder}")
    return found


def _web_video(store: Any, place: str) -> dict[str, Mapping[str, Any]]:
    """A video that a web server has: fsspec takes every answer for a file, and every error for a missing one."""
    info = ask_server(store, place)
    if info["page"] is None:
        return {place: info}
    path = unquote(urlsplit(info["url"]).path)
    if path[-1:] in ("", "/") and path.rstrip("/") == unquote(urlsplit(place).path).rstrip("/"):  # else of a login
        raise UsageError(
            f"'{shown(place)}' is a folder of a web server, or a page, and no video\n"
            f"  expected a video, or a pattern in quotes: '{shown(without_query(place)).rstrip('/')}/*.mp4'"
        )
    raise UnreachableError(page_error(shown(place), "a video", info["page"]))


def _file_or_folder(store: Any, place: str) -> dict[str, Mapping[str, Any]]:
    problem: Exception | None = None
    try:
        info: Mapping[str, Any] = store.info(place)
        if info["type"] == "file":
            return {place: info}  # asked for by its name, whatever its suffix
    except FileNotFoundError:
        pass  # it may be the beginning of the names of others
    except Exception as error:  # of the driver's own kinds
        problem = error  # who may list a folder need not have the right to ask what it is
    found = _videos(store.find(place, detail=True))
    if not found and problem is not None:
        raise problem
    return found


def _videos(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    files = {name: info for name, info in found.items() if info.get("type") == "file"}
    visible = {name: info for name, info in files.items() if not name.rsplit("/", 1)[-1].startswith(".")}
    return {name: info for name, info in visible.items() if name.lower().endswith(VIDEO_SUFFIXES)}
