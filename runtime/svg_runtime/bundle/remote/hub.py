"""Fetches bundles from the Hugging Face Hub, through its own library, whose cache, token and settings hold here too."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from svg_common.cache import models_folder
from svg_common.files import atomic_file, file_sha256
from svg_common.printable import one_line
from svg_runtime.bundle.manifest import FILE_NAME
from svg_runtime.bundle.reader import GRAPH_LIMIT, MANIFEST_LIMIT
from svg_runtime.bundle.remote.addresses import HubAddress
from svg_runtime.bundle.remote.hub_library import (
    explaining,
    hub_cache,
    is_unreachable,
    load_hub,
    reading,
    talking,
    why_unreachable,
)
from svg_runtime.bundle.remote.published import find_published, publish
from svg_runtime.errors import BundleError

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 10.0  # for the list of files
_ANNOUNCED = 1_000_000  # bytes: the download of a file this large is reported


class HubFiles:
    """The files of one commit; see `Files`.

    Args:
        sizes: of all files; None: the Hub does not say.
        local: brings one of them into the Hub's cache, and returns its path there.
    """

    def __init__(self, sizes: Mapping[str, int | None], local: Callable[[str], str | Path]) -> None:
        self.sizes = sizes
        self._local = local

    def copy(self, name: str, destination: Path) -> None:
        """See `Files`. The file becomes another name for the one in the Hub's cache, if both lie on one disk."""
        source = os.path.realpath(self._local(name))
        with reading(hub_cache()):  # what follows writes to ours
            stream = open(source, "rb")  # noqa: SIM115
        with stream:
            size = os.fstat(stream.fileno()).st_size
            if self.sizes[name] not in (None, size):
                raise BundleError(f"{name} has {size} bytes, announced were {self.sizes[name]}")
            try:
                os.link(source, destination)
            except OSError:  # another disk, or a file system without links
                with destination.open("wb") as copy:
                    shutil.copyfileobj(stream, copy)


def fetch_from_hub(address: HubAddress) -> Path:
    """Return the folder of the bundle at `address`. A commit that was fetched before needs no connection and no library.

    Branches and tags are looked up; where the Hub cannot be reached, the commit of them that was fetched last is taken.

    Raises:
        MissingExtraError: huggingface_hub is needed and not installed.
        BundleError: no bundle there, or a damaged or hostile one.
        SvgError: no permission, no connection, or the cache cannot be written.
        OSError: it cannot be written to its end, as on a full disk.
    """
    if address.is_pinned and (kept := find_published(_folder(address))) is not None:
        return kept
    hub = load_hub("a model on the Hub")
    with explaining(address):
        try:
            info = _look_up(hub, address)
        except Exception as error:
            kept = _without_connection(hub, address, error) if is_unreachable(error) else None
            if kept is None:
                raise
            return kept
        commit = address.at(str(info.sha))
        if not commit.is_pinned:  # it becomes the name of a folder
            raise BundleError(
                f"no model at {address}: '{one_line(str(info.sha))}' is not a commit\n"
                "  expected 40 hexadecimal digits from the Hub"
            )
        if not address.is_pinned:
            _LOG.info("%s is commit %s; to stay with it, give: %s", address, commit.revision[:12], commit)
        files = {file.rfilename: file for file in info.siblings or ()}
        sizes = {name: file.size for name, file in files.items()}
        folder = find_published(_folder(commit)) or publish(
            _folder(commit), str(address), HubFiles(sizes, lambda name: _download(hub, commit, files[name]))
        )
        if not address.is_pinned:
            _write_reference(address, commit)
        return folder


def _look_up(hub: Any, address: HubAddress) -> Any:
    """The commit at `address`, and its files."""
    with talking(hub_cache()):  # the token lies beside it
        info = hub.HfApi().model_info(address.repo, revision=address.revision, files_metadata=True, timeout=_TIMEOUT_S)
        if not isinstance(info.sha, str):
            raise TypeError("no commit")
        for file in info.siblings or ():
            if not isinstance(file.rfilename, str) or not (file.size is None or (type(file.size) is int and file.size >= 0)):
                raise TypeError(f"a file {file.rfilename!r} of {file.size!r} bytes")
    return info


def _without_connection(hub: Any, address: HubAddress, error: Exception) -> Path | None:
    """The bundle that was fetched last, or that another program has brought into the Hub's cache; None if there is none.

    Earlier releases noted the commit of a branch in that cache alone.
    """
    for commit in filter(None, (_read_reference(address), address)):
        cached = hub.try_to_load_from_cache(address.repo, FILE_NAME, revision=commit.revision)
        snapshot = Path(cached).parent if isinstance(cached, str) else None
        known = commit if snapshot is None else address.at(snapshot.name)
        kept = find_published(_folder(known))
        if kept is None and snapshot is not None and find_published(snapshot) is not None:
            kept = _from_hub_cache(address, known, snapshot)
        if kept is not None:
            if not address.is_pinned:
                was = f"was commit {known.revision[:12]} when it was fetched last"
                _LOG.warning("%s: %s %s", why_unreachable(error), address, was)
            return kept
    return None


def _from_hub_cache(address: HubAddress, commit: HubAddress, snapshot: Path) -> Path:
    """The bundle in a folder of the Hub's cache."""
    with reading(hub_cache()):
        files = [file for file in snapshot.rglob("*") if file.is_file()]
        sizes = {file.relative_to(snapshot).as_posix(): file.stat().st_size for file in files}
    return publish(
        _folder(commit),
        str(address),
        HubFiles(sizes, lambda name: snapshot / name),
        "it came from the Hub's cache, where it may be damaged: run the command again with a connection",
    )


def _write_reference(address: HubAddress, commit: HubAddress) -> None:
    """Note which commit a branch or tag is, for times without a connection. The model is there: no error keeps it from use."""
    if _read_reference(address) == commit:
        return
    try:
        with atomic_file(_reference(address)) as partial:
            partial.write_text(f"{commit.revision}\n", "ascii")
    except OSError as error:
        _LOG.warning(
            "cannot write '%s': %s; to start without a connection, give: %s",
            error.filename or _reference(address), error.strerror or error, commit,
        )  # fmt: skip


def _read_reference(address: HubAddress) -> HubAddress | None:
    """The commit that a branch or tag was when it was fetched last; None if that is not known."""
    try:
        commit = address.at(_reference(address).read_text("ascii").strip())
    except (OSError, ValueError):  # none, or a damaged one
        return None
    return commit if commit.is_pinned else None


def _download(hub: Any, commit: HubAddress, file: Any) -> str:
    """Bring one of `model_info`'s files into the Hub's cache; anew if the one that is there already is damaged."""
    name: str = file.rfilename
    with talking(hub_cache()):
        size = _size(hub, commit, file)
        if size > (MANIFEST_LIMIT if name == FILE_NAME else GRAPH_LIMIT):
            raise BundleError(f"{name} is too large: {size} bytes")
        if size >= _ANNOUNCED:
            _LOG.info("downloading %s (%.1f MB)", name, size / 1e6)
        path: str = hub.hf_hub_download(commit.repo, name, revision=commit.revision)
        if not _is_as_announced(Path(path), file, size):  # the library trusts what is in its cache
            _LOG.warning("%s in the Hub's cache is damaged: downloading it again", name)
            path = hub.hf_hub_download(commit.repo, name, revision=commit.revision, force_download=True)
    return path


def _size(hub: Any, commit: HubAddress, file: Any) -> int:
    """The size of a file; the server of files knows it, where the list of files does not say."""
    if file.size is not None:
        return int(file.size)
    url = hub.hf_hub_url(commit.repo, file.rfilename, revision=commit.revision)
    return int(hub.get_hf_file_metadata(url).size)


def _is_as_announced(path: Path, file: Any, size: int) -> bool:
    """Whether a file has the size and the hash that the Hub names: SHA-256 in large file storage, else that of Git."""
    if path.stat().st_size != size:
        return False
    if file.lfs is not None:
        return file_sha256(path) == str(file.lfs.sha256)
    if file.blob_id is None:
        return True
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == str(file.blob_id)


def _folder(commit: HubAddress) -> Path:
    return _repo_folder(commit) / commit.revision / f"{commit.name}.svgb"


def _reference(address: HubAddress) -> Path:
    """Named by a hash: names of branches may be too long for a file, have slashes, or differ in upper and lower case alone."""
    return _repo_folder(address) / "refs" / hashlib.sha256(address.revision.encode()).hexdigest()[:32]


def _repo_folder(address: HubAddress) -> Path:
    return models_folder() / "hub" / address.repo.replace("/", "--")
