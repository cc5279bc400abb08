"""Stores of videos, through fsspec: how they are opened, what is in them, and their errors in words."""

from __future__ import annotations

import errno
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from svg_common.command import require_modules
from svg_common.errors import FULL_DISK, BackendMissingError, OutputError, SvgError, UsageError, first_line
from svg_common.printable import one_line, without_logins
from svg_common.video.reader import VIDEO_SUFFIXES
from svg_runtime.live.stop import StopRequest
from svg_runtime.offline.addresses import is_web, normal_address, shortened, shown, without_query
from svg_runtime.offline.stoppable import StoppedError, until_stopped
from svg_runtime.offline.web_server import (
    TIMEOUTS,
    ask_server,
    ask_server_of_each,
    is_answer,
    is_page,
    page_error,
    server_problem,
    web_options,
)

PATTERN = "*?["  # signs of one
_ARCHIVES = ("zip", "tar", "libarchive")  # kinds of addresses of fsspec that name a file within another
_WRAPPERS = ("blockcache", "cached", "dir", "filecache", "simplecache")  # kinds that need another address after ::
_OWN_DISK = (*FULL_DISK, errno.EFBIG, errno.EROFS)  # errors of the file that is written: of no store that is read
_REASON_LIMIT = 300  # characters: libraries put whole answers of servers into their errors
_HEAD = 1024  # bytes, which show what a file is
# What changes with the content, by the names that drivers give it; the first that is there is taken. The order is part of the
# ids in all results.
CONTENT_KEYS = ("ETag", "etag", "md5Hash", "generation")  # the same only for the same content
_VERSION_KEYS = (
    *CONTENT_KEYS, "LastModified", "last_modified", "Last-Modified", "mtime",
    "modify",  # ftp
    "modificationTime",  # webhdfs
    "modified",  # webdav4
    "modifiedTime",  # Google Drive
    "content_hash",  # Dropbox
    "blob_id",  # Hugging Face
    "sha",  # GitHub
    "hex",  # git
    "created",  # the last: a file that is overwritten may keep it
)  # fmt: skip
_FTP_TIME = re.compile(r"\d{14}")  # as MLSD and MDTM give it

Infos = Mapping[str, Mapping[str, Any]]  # what a driver knows of each video, by its name


class UnreachableError(SvgError):
    """A video cannot be read from where it is, now: it is gone, changes, or its store does not answer."""


class StoreAwayError(UnreachableError):
    """A video cannot be read, and nothing says that others in its store can: it does not answer, or its folder is gone."""


def open_store(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        UsageError: there is no such kind of address, it is one of archives, or it lacks a host.
        BackendMissingError: its driver is not installed.
        StoreAwayError: its driver cannot log in.
    """
    require_modules("svg-forecast with an address", "forecast", "fsspec")
    import fsspec

    kind, _, place = address.partition("://")
    kind = shown(kind)
    if "::" in kind or kind.lower() in _WRAPPERS:
        raise UsageError(
            f"'{shown(address)}' is a chain of addresses, which svg-forecast does not read\n"
            "  give the address of a video or a folder without what is before ::"
        )
    if kind.lower() in _ARCHIVES:
        raise UsageError(
            f"'{shown(address)}' names an archive, which svg-forecast does not read\n  unpack the archive, and give its folder"
        )
    try:
        # Never by url_to_fs: it would split a name, a signature and [::1] at every ::
        if is_web(address):
            return fsspec.filesystem(kind.lower(), **web_options()), f"{kind.lower()}://{place}"
        root, options = _root_of(address)
        if options:  # url_to_fs would take a # or ? in a name for the end of the path, too
            store = fsspec.filesystem(kind, **options)
            start = store._strip_protocol(root)
            path = address.removeprefix(root.rstrip("/")).lstrip("/")
            return store, store._strip_protocol(f"{start.rstrip('/')}/{path}" if start else path)
        driver = fsspec.get_filesystem_class(kind)
        store = fsspec.filesystem(kind, **driver._get_kwargs_from_urls(address))
        return store, store._strip_protocol(address)
    except SvgError:
        raise
    except ImportError as error:
        raise BackendMissingError(f"{kind}:// needs a package: {reason_of(error)}\n  install it with pip") from error
    except ValueError as error:
        raise UsageError(
            f"'{shown(address)}' is not an address of videos: {reason_of(error)}\n"
            "  expected a path, file://, s3://, gs:// or another kind that fsspec knows"
        ) from error
    except Exception as error:  # a driver that wants to log in
        raise StoreAwayError(
            f"cannot open '{shown(address)}': {reason_of(error)}\n"
            f"  check the address, the network, and what fsspec's driver of {kind}:// needs, and run the same command again"
        ) from error


def is_local_store(store: Any) -> bool:
    """Whether its paths are those of this machine."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(store, LocalFileSystem)


def find_stored(store: Any, place: str, address: str) -> tuple[Infos, dict[str, str]]:
    """The videos at `place`, a file, a folder or a pattern, which the user gave as `address`.

    Returns:
        What the driver knows of each, by its name; and why others of a pattern cannot be read, by their names.

    Raises:
        UsageError: it is a folder of a web server.
        UnreachableError: it cannot be reached, is a page instead of a video, or is a video by its name and not there.
    """
    try:
        if not any(sign in _inside(place) for sign in PATTERN):
            return _by_name(store, place), {}
        found = _with_signs(store, place)
        return (found, {}) if found else _matching(store, place)
    except SvgError:
        raise
    except Exception as error:  # of the driver's own kinds
        raise UnreachableError(
            f"'{shown(address)}' cannot be reached: {reason_of(error, place)}\n"
            "  check the address, the network and the rights, and run the same command again"
        ) from error


def address_of(store: Any, name: str, source: str) -> str:
    """The address of what `store`, which `source` opened, calls `name`: it opens the same store again, maybe elsewhere."""
    if is_web(source):
        return normal_address(name)
    root, options = _root_of(source)
    if not options:
        return str(store.unstrip_protocol(name))
    return root + name.removeprefix(store._strip_protocol(root)).lstrip("/")


def version_of(store: Any, name: str, info: Mapping[str, Any]) -> str:
    """What changes with the content of a video, after the name that its driver gives it; "" if the driver knows nothing.

    Raises:
        Exception: of the driver's own kinds, if the store had to be asked, and does not answer.
    """
    key = next((key for key in _VERSION_KEYS if info.get(key)), None)
    if key == "modify" and not _FTP_TIME.match(str(info[key])):
        return _ftp_version(store, name)
    if key is not None:
        return f"{key} {info[key]}"
    try:
        modified = store.modified(name)
    except RuntimeError:  # also NotImplementedError: fsspec's words for a driver that does not know it
        return ""
    return f"modified {modified}" if modified else ""


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


def download(
    address: str, path: Path, stop: StopRequest, version: str = "", clean_up: Callable[[], None] = lambda: None
) -> bool:
    """Copy a video to `path`.

    Args:
        address: of the video.
        path: of the copy.
        stop: ends it early.
        version: that it should have, as of `version_of`.
        clean_up: called after a stop, when nothing is written any more.

    Returns:
        Whether it has this version, as far as its store says.

    Raises:
        StoppedError: a stop was requested.
        UsageError, BackendMissingError: as for `open_store`.
        UnreachableError: it is gone, may not be read, or is a page: a login may have expired since the video was listed.
        StoreAwayError: its store does not answer.
        OutputError: `path` cannot be written.
    """
    store, place = open_store(address)

    def fetch() -> bool:
        store.get_file(place, str(path))
        return not version or _is_still(store, place, version)

    try:
        same = until_stopped(stop, fetch, clean_up)
    except StoppedError:
        raise
    except Exception as error:  # of the driver's own kinds
        if isinstance(error, OSError) and error.errno in _OWN_DISK:
            raise OutputError(path, error, f"free some space for a copy of '{shown(address)}'") from error
        kind = UnreachableError if _is_answer(error) else StoreAwayError
        raise kind(f"cannot download '{shown(address)}': {reason_of(error, address)}") from error
    with path.open("rb") as file:
        if is_page(file.read(_HEAD)):
            raise UnreachableError(page_error(shown(address), "a video"))
    return same


def reason_of(error: BaseException, address: str = "") -> str:
    """An error of the driver of `address`, or one of this package, in a line."""
    if isinstance(error, SvgError):  # its addresses are shown already: what follows one with a query says why
        return shortened(without_logins(one_line(first_line(error))), _REASON_LIMIT)
    said = (server_problem(error) if is_web(address) else None) or (str(error).splitlines() or [""])[0]
    if not said and isinstance(error, TIMEOUTS):
        said = "no answer in time"
    return shown(said or type(error).__name__)[:_REASON_LIMIT]


def _is_still(store: Any, place: str, version: str) -> bool:
    """Whether a store that is asked anew says no other version; it may say nothing, as after a signature has expired."""
    kind = version.partition(" ")[0]
    differs = False
    try:
        for info in _infos_now(store, place):
            now = version_of(store, place, info)
            if _unquoted(now) == _unquoted(version):
                return True
            differs |= now.partition(" ")[0] == kind  # others cannot be compared
    except Exception:  # of the driver's own kinds
        return True
    return not differs


def _unquoted(version: str) -> str:
    """The same for an ETag however it is written: lists of Azure leave the quotes out."""
    return version.replace("W/", "").replace('"', "")


def _infos_now(store: Any, place: str) -> Iterator[Mapping[str, Any]]:
    """What a store says of one object alone, and then in a list, where drivers may write the same in another way."""
    if is_web(place):
        yield _required_video(place, ask_server(store, place))
        return
    store.invalidate_cache()
    yield store.info(place)
    yield from (info for info in store.ls(store._parent(place), detail=True) if info["name"] == place)


def _is_answer(error: BaseException) -> bool:
    """Whether the store has answered, and the error of its driver is about this object alone."""
    from ftplib import error_perm

    if isinstance(error, (FileNotFoundError, PermissionError, error_perm)) or str(error).startswith("Forbidden"):  # of gcsfs
        return True
    for at in (error, getattr(error, "response", None)):  # where drivers have it
        status = next((getattr(at, name) for name in ("status", "status_code", "code") if hasattr(at, name)), None)
        if isinstance(status, int):
            return is_answer(status)
    return False


@lru_cache(maxsize=1)
def _root_of(address: str) -> tuple[str, dict[str, Any]]:
    """An address up to its path, and the options of its driver that are in this root alone: host, user, account.

    There are no options if the driver does without, as that of s3:// does, whose paths begin with the bucket.

    Raises:
        UsageError: it has no host, and its driver needs one.
        ImportError, ValueError: as of fsspec.
    """
    from fsspec import get_filesystem_class

    kind, _, place = address.partition("://")
    driver = get_filesystem_class(kind)
    root = f"{kind}://{place.partition('/')[0]}/"
    options = dict(driver._get_kwargs_from_urls(root))
    host = inspect.signature(driver.__init__).parameters.get("host")
    if host is not None and host.default is host.empty and "host" not in options:
        raise UsageError(f"'{shown(address)}' names no host\n  expected {kind}://HOST/FOLDER, or {kind}://HOST/FOLDER/a.mp4")
    return root, options


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


def _matching(store: Any, place: str) -> tuple[Infos, dict[str, str]]:
    found = _videos(store.glob(place, detail=True))
    if not is_web(place):
        return found, {}
    if not found:  # fsspec takes a page that is not there for one without links
        folder = re.split(r"[*?[]", _inside(place))[0].rpartition("/")[0]
        ask_server(store, f"{'/'.join(place.split('/', 3)[:3])}/{folder}")
    return _linked_videos(store, list(found))


def _linked_videos(store: Any, addresses: Sequence[str]) -> tuple[Infos, dict[str, str]]:
    """As `find_stored`, of the links of a page, which say nothing of what they lead to."""
    found: dict[str, Mapping[str, Any]] = {}
    missing: dict[str, str] = {}
    for address, answer in ask_server_of_each(store, addresses).items():
        try:
            found[address] = _required_video(address, answer)
        except Exception as error:  # also of the driver's own kinds
            missing[address] = reason_of(error, address)
    return found, missing


def _web_video(store: Any, place: str) -> dict[str, Mapping[str, Any]]:
    """A video that a web server has: fsspec takes every answer for a file, and every error for a missing one."""
    return {place: _required_video(place, ask_server(store, place))}


def _required_video(address: str, answer: dict[str, Any] | Exception) -> dict[str, Any]:
    """What a web server said of a video.

    Raises:
        UsageError: it is a folder.
        UnreachableError: it is another page.
        Exception: `answer` is one.
    """
    if isinstance(answer, Exception):
        raise answer
    if answer["page"] is None:
        return answer
    path = unquote(urlsplit(answer["url"]).path)
    if path[-1:] in ("", "/") and path.rstrip("/") == unquote(urlsplit(address).path).rstrip("/"):  # else of a login
        raise UsageError(
            f"'{shown(address)}' is a folder of a web server, or a page, and no video\n"
            f"  expected a video, or a pattern in quotes: '{shown(without_query(address)).rstrip('/')}/*.mp4'"
        )
    raise UnreachableError(page_error(shown(address), "a video", answer["page"]))


def _file_or_folder(store: Any, place: str) -> dict[str, Mapping[str, Any]]:
    problem: Exception | None = None
    try:
        info: Mapping[str, Any] = store.info(place)
        if info["type"] == "file":
            return {place: info}  # asked for by its name, whatever its suffix
    except FileNotFoundError:  # it may be the beginning of the names of others
        if place.lower().endswith(VIDEO_SUFFIXES):
            problem = FileNotFoundError("there is no such object")  # drivers say the path alone
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


def _ftp_version(store: Any, name: str) -> str:
    """The time of the last change, which a server that knows no MLSD says when asked for it alone.

    Its list of files, as of `ls -l`, has the year of old ones and the hour of new ones: a video would change as it ages.
    """
    from ftplib import error_perm

    try:
        return f"modify {store.ftp.voidcmd(f'MDTM {name}').split()[-1]}"
    except error_perm:  # it does not know this either
        return ""
