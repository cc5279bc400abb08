"""Which videos there are: files, folders, lists of both, and addresses such as s3://bucket/folder, through fsspec."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from svg_common.errors import UsageError
from svg_common.path_advice import path_of_file_url
from svg_common.text_files import EncodingError, decode_text
from svg_common.video.clips import FolderError, find_clips, no_files, not_readable
from svg_common.video.reader import VIDEO_SUFFIXES
from svg_runtime.live.stop import StopRequest
from svg_runtime.offline.addresses import address_beside, normal_address, shown, without_password, without_query
from svg_runtime.offline.stores import (
    CONTENT_KEYS,
    PATTERN,
    StoreAwayError,
    UnreachableError,
    address_of,
    download,
    find_stored,
    is_local_store,
    open_store,
    read_list,
    reason_of,
    version_of,
)

_PLAYLISTS = (".m3u", ".m3u8")
LIST_SUFFIXES = (".txt", ".lst", ".list", *_PLAYLISTS)  # a playlist is a list with comments
_LIST_LIMIT = 256 << 20  # bytes: millions of names
_OWN_FILES = ("file:", "local:")  # kinds of addresses that name them
_LINE_END = re.compile(r"\r\n|\n|\r")
_NAME_LIMIT = 4096  # characters of an address, as for a path on Linux
_UNKNOWN_SIZE = -1  # an HTTP server need not know how long its answer will be
_USUAL_BYTES = 10 << 20  # of a video whose size is not known, for progress alone


@dataclass(frozen=True)
class Video:
    """A stored video. The same content at the same address is the same video.

    Attributes:
        address: absolute path, or an address such as s3://bucket/a.mp4.
        size: bytes; -1 if its store does not say.
        version: changes with the content: time of the last change of a file, an object's ETag.
    """

    address: str
    size: int
    version: str

    @property
    def id(self) -> str:
        """16 hexadecimal digits that name the video in all tables."""
        # A signed address changes every hour, and its content does not.
        place = without_query(self.address) if self.version.startswith(CONTENT_KEYS) else self.address
        # A password may change, and the id, which is stored, must not help to guess it.
        content = f"{without_password(place)}\0{self.size}\0{self.version}"
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @property
    def work(self) -> int:
        """Its part of the work of a run, in bytes."""
        return _USUAL_BYTES if self.size == _UNKNOWN_SIZE else self.size

    @property
    def name(self) -> str:
        """The address as it can be printed and stored."""
        return shown(self.address)

    @property
    def is_local(self) -> bool:
        """Whether the address is a path."""
        return "://" not in self.address

    @property
    def store(self) -> str:
        """What is away as a whole: the scheme with the host or bucket of an address; the folder of a file."""
        return os.path.dirname(self.address) if self.is_local else "/".join(without_query(self.address).split("/", 3)[:3])


@dataclass
class Listing:
    """What was found.

    Attributes:
        videos: each once, in the order found.
        missing: what is named but cannot be found or read, and why. The names have all that is secret in them: two may
            look the same once they are `shown`.
        lists: paths and addresses of the lists that were read.
        hard_links: device and inode of those files, by their path, that have other names as well.
    """

    videos: list[Video] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    hard_links: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def local_videos(self) -> list[Path]:
        """The videos that are files of this machine."""
        return [Path(video.address) for video in self.videos if video.is_local]

    @property
    def local_lists(self) -> list[Path]:
        """The lists that are files of this machine."""
        return [Path(name) for name in sorted(self.lists) if "://" not in name]

    def add(self, other: Listing) -> None:
        """Add what another one has."""
        self.videos += other.videos
        self.missing.update(other.missing)
        self.hard_links.update(other.hard_links)


def list_videos(sources: Sequence[str]) -> Listing:
    """Find all videos in `sources`: files, folders, lists (.txt) of both, and addresses.

    Raises:
        UsageError: a source does not exist, is not a video, list or folder, names nothing, or there is no such kind of address.
        BackendMissingError: the package that reads such addresses is not installed.
        UnreachableError: a store does not answer, and nothing was found elsewhere.
    """
    found: dict[str | tuple[int, int], Video] = {}
    missing: dict[str, str] = {}
    lists: set[str] = set()
    away: UnreachableError | None = None
    for source in map(_in_one_spelling, sources):
        try:
            listing = _listed(source) if _is_list(source) else _videos_in(source)
        except UnreachableError as error:  # the others are forecast
            away = away or error
            missing[source] = reason_of(error)
        else:
            for video in listing.videos:
                found.setdefault(listing.hard_links.get(video.address, video.id), video)
            missing.update(listing.missing)
            lists |= listing.lists
    if away is not None and not found:
        raise away
    return Listing(list(found.values()), missing, lists)


def _listed(source: str) -> Listing:
    """What a list names.

    Raises:
        UsageError: there is no such list, or it names nothing.
        UnreachableError: it cannot be read.
    """
    listing = Listing(lists={_place_of_list(source)})
    entries = deque((source, line) for line in _lines(source))
    while entries:
        origin, line = entries.popleft()
        entry = line
        try:
            entry = _named_by(origin, line)
            if not _is_list(entry):
                listing.add(_videos_in(entry))
            elif _place_of_list(entry) not in listing.lists:  # a list in a list
                listing.lists.add(_place_of_list(entry))
                entries.extendleft((entry, line) for line in reversed(_lines(entry)))
        except (UsageError, UnreachableError, OSError, ValueError) as error:
            listing.missing[entry] = reason_of(error)
    if not listing.videos and not listing.missing:  # only itself
        raise _empty_list(source)
    return listing


def _place_of_list(source: str) -> str:
    """One name of a list: it may name itself through a link."""
    return source if "://" in source else os.path.realpath(source)


def _empty_list(source: str) -> UsageError:
    return UsageError(
        f"the list '{shown(source)}' does not name any videos\n"
        "  expected a path or an address on each line; a line that begins with # is a comment"
    )


def _is_list(source: str) -> bool:
    return without_query(source).lower().endswith(LIST_SUFFIXES)


def _in_one_spelling(source: str) -> str:
    """The path that a file: URL names; any other source as it is, but for web addresses."""
    path = path_of_file_url(source)
    if path is None:
        return normal_address(source, has_pattern=True)
    if os.path.isabs(path) or os.path.lexists(path):
        return path
    return source  # another computer


@contextmanager
def local_copy(video: Video, folder: Path, stop: StopRequest) -> Iterator[Path]:
    """Yield the path of a video, which for an address is downloaded into `folder` and removed afterwards.

    Raises:
        StoppedError: a stop was requested during the download.
        UnreachableError: it cannot be read, or is no longer what was listed, at the start or at the end.
        StoreAwayError: its store does not answer, or its folder is gone.
    """
    if video.is_local:
        _require_unchanged(video)
        yield Path(video.address)
        _require_unchanged(video)
        return
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=folder))
    try:
        path = own / f"video{os.path.splitext(without_query(video.address))[1][:16]}"
        clean_up = partial(shutil.rmtree, own, ignore_errors=True)
        same_version = download(video.address, path, stop, version=video.version, clean_up=clean_up)
        if not same_version or video.size not in (_UNKNOWN_SIZE, path.stat().st_size):
            raise UnreachableError(f"'{video.name}' has changed since it was listed")
        yield path
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _lines(source: str) -> list[str]:
    """The lines of a list, without empty ones and comments.

    Raises:
        UsageError: there is no such list, it is not one, or it is empty.
        UnreachableError: it cannot be read.
    """
    content = _read_list(source)
    if len(content) > _LIST_LIMIT:
        raise UsageError(f"the list '{shown(source)}' has more than {_LIST_LIMIT >> 20} MiB\n  split it into several")
    try:
        text = decode_text(content, errors="surrogateescape")
    except EncodingError as error:
        raise UsageError(f"'{shown(source)}' is not a list: {error}\n  expected a path or an address on each line") from error
    lines = _LINE_END.split(text)  # names may hold any other separator that str.splitlines knows
    if "://" in source:
        lines = [line.strip() for line in lines]
    else:  # files may have names that begin with a space
        folder = os.path.dirname(source)
        lines = [line if os.path.lexists(os.path.join(folder, line)) else line.strip() for line in lines]
    entries = [line for line in lines if line.strip() and not line.startswith("#")]
    if not entries:
        raise _empty_list(source)
    return entries


def _named_by(source: str, line: str) -> str:
    """The path or address that a line of the list `source` names; it may be a pattern.

    Raises:
        UsageError: it leads out of the bucket of the list, or from a list elsewhere to a file of this machine.
    """
    if "://" not in source:
        entry = _in_one_spelling(line)
        is_playlist = source.lower().endswith(_PLAYLISTS)
        return entry if "://" in entry else _below(os.path.dirname(source), os.path.expanduser(entry), is_playlist)
    if line.lower().startswith(_OWN_FILES):  # whoever writes the list need not be whoever reads it
        raise UsageError(
            f"'{shown(line)}' names a file of this machine, which a list elsewhere may not\n"
            "  give its path on the command line, or in a list on this machine"
        )
    is_address = "://" in line.partition("?")[0]  # a query may hold another
    return normal_address(line if is_address else address_beside(source, line), has_pattern=True)


def _below(folder: str, entry: str, is_playlist: bool) -> str:
    """An entry of a list in `folder`; signs of a pattern in the folder's own name are none."""
    path = os.path.join(folder, entry)
    if os.path.lexists(path):
        return path
    if is_playlist:
        return os.path.join(folder, unquote(entry))  # its entries are URLs
    return os.path.join(glob.escape(folder), entry) if any(sign in entry for sign in PATTERN) else path


def _read_list(source: str) -> bytes:
    if "://" not in source:
        path = Path(source)
        if not path.is_file():
            raise UsageError(f"no such list: '{shown(source)}'\n  expected a text file with a path or address on each line")
        with path.open("rb") as file:
            return file.read(_LIST_LIMIT + 1)
    return read_list(source, _LIST_LIMIT + 1)


def _videos_in(source: str) -> Listing:
    if len(source) > _NAME_LIMIT or "\0" in source:
        raise UsageError(f"'{shown(source)[:40]}...' is not a path: it is too long, or holds a zero byte")
    if not source.strip():
        raise UsageError("an empty name of a video, folder or list\n  give one, or . for this folder")
    if source.lower().startswith("file://"):
        raise UsageError(
            f"'{shown(source)}' names another computer\n  expected three slashes before a path: file:///folder/a.mp4"
        )
    if "://" not in source:
        return _local_videos(Path(source))
    store, place = open_store(source)
    if is_local_store(store):
        return _local_videos(Path(place))
    return _stored_videos(store, place, source)


def _local_videos(path: Path) -> Listing:
    listing = Listing()
    try:
        files, left_out = _local_files(path)
    except FolderError as error:
        raise UnreachableError(str(error)) from error
    except OSError as error:  # a folder above it may not be searched
        raise UnreachableError(
            f"cannot read '{shown(str(path))}': {error.strerror}\n  check the path and the rights to it"
        ) from error
    for file in files:
        real = file.resolve()
        try:
            status = real.stat()
        except OSError as error:  # it has gone meanwhile, as the oldest do under `svg-live --record-limit`
            left_out.append((file, str(error.strerror)))
            continue
        listing.videos.append(Video(str(real), status.st_size, f"mtime {status.st_mtime_ns}"))
        if status.st_nlink > 1 and status.st_ino:  # 0: the file system has no inodes
            listing.hard_links[str(real)] = (status.st_dev, status.st_ino)
    for file, reason in left_out:
        listing.missing[os.path.abspath(file)] = reason
    return listing


def _local_files(path: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The videos at a path or a pattern, and what has a video's name but cannot be read, with the reason."""
    if not path.exists():
        if not any(sign in str(path) for sign in PATTERN):
            raise UsageError(
                f"'{shown(str(path))}' does not exist\n  expected a video, a folder of videos, or a list of these (.txt)"
            )
        matches = sorted(Path(match) for match in glob.iglob(str(path), recursive=True))
        files = [match for match in matches if match.suffix.lower() in VIDEO_SUFFIXES and os.path.isfile(match)]
        left_out = not_readable(matches)
        clips = []
    else:
        clips = find_clips(path)
        files = [clip.paths[0] for clip in clips if clip.is_video]
        left_out = no_files(path)
    if files or left_out:
        return files, left_out
    if clips:
        raise UsageError(
            f"'{shown(str(path))}' contains pictures, but no videos\n"
            "  expected videos; svg-live reads pictures, and this makes a video of them:\n"
            "  ffmpeg -framerate 10 -pattern_type glob -i 'FOLDER/*.png' -c:v ffv1 video.mkv"
        )
    raise UsageError(f"'{shown(str(path))}' contains no videos\n  expected files such as .mp4, .mkv or .avi")


def _stored_videos(store: Any, place: str, source: str) -> Listing:
    listing = Listing()
    found, missing = find_stored(store, place, source)
    if not found and not missing:
        raise UsageError(f"'{shown(source)}' contains no videos\n  expected objects such as .mp4 or .mkv")
    listing.missing.update((address_of(store, name, source), reason) for name, reason in missing.items())
    for name, info in sorted(found.items()):
        address, size = address_of(store, name, source), info.get("size")
        try:
            version = version_of(store, name, info)
        except Exception as error:  # of the driver's own kinds
            listing.missing[address] = reason_of(error, address)
            continue
        listing.videos.append(Video(address, _UNKNOWN_SIZE if size is None else int(size), version))
    return listing


def _require_unchanged(video: Video) -> None:
    try:
        status = os.stat(video.address)
        changed = (status.st_size, f"mtime {status.st_mtime_ns}") != (video.size, video.version)
        if not changed:
            with open(video.address, "rb") as file:
                file.read(1)  # whoever may see that it is there need not have the right to read it
    except OSError as error:
        # Where others make room, those beside a file that is gone may still be there.
        kind = UnreachableError if os.path.isdir(video.store) else StoreAwayError
        raise kind(f"cannot read '{video.name}': {error.strerror}") from error
    if changed:
        raise UnreachableError(f"'{video.name}' has changed since it was listed: is it still being written?")
