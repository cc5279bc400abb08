"""The cache folders for engines and their by-products, safe against a second process and against damage."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from svg_common.cache import cache_folder
from svg_common.command import require_modules
from svg_common.errors import SvgError
from svg_common.files import atomic_file
from svg_runtime.backends.cache_lock import locked
from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.nvidia.engine_files import temporary_folder

_LOG = logging.getLogger(__name__)
_DIGEST = hashlib.sha256().digest_size


class CacheFolders:
    """The folders to read, and the one to write.

    A folder that cannot be written is still read. New files then go to a folder of this user in the system's temporary folder,
    so that the next start finds them; one warning says so.

    Args:
        configured: folder chosen by the user; None means $SVG_EDGE_CACHE, else the user's cache folder.
        extra: the pip extra that installs filelock.

    Attributes:
        readable: in search order.
        writable: None if no folder is writable.

    Raises:
        MissingExtraError: filelock is not installed.
    """

    def __init__(self, configured: str | None, extra: str) -> None:
        require_modules("the engine cache", extra, "filelock")
        readable, writable = _folders(configured)
        self.readable = readable
        self.writable = writable


class CachedBlob:
    """Bytes that a library can reuse on the same GPU and with the same release.

    Args:
        folders: the cache folders.
        library: name of the library.
        version: its release.
        gpu: the GPU.
        kind: suffix of the file: runtime or timings.
    """

    def __init__(self, folders: CacheFolders, library: str, version: str, gpu: GpuName, kind: str) -> None:
        name = re.sub(r"[^\w.]+", "-", f"{version} {gpu.model} {gpu.compute_capability}", flags=re.ASCII)
        self._folders = folders
        self._file_name = f"{library}/{name}.{kind}"
        self._content: bytes | None = None

    def load(self) -> bytes | None:
        """Return what was saved, else None. Damaged files are ignored with a warning."""
        for folder in self._folders.readable:
            file = folder / self._file_name
            try:
                stored = file.read_bytes() if file.is_file() else None
            except OSError as error:
                _LOG.warning("'%s' cannot be read: %s; creating it again", file, error.strerror)
                continue
            if stored is None:
                continue
            if hashlib.sha256(stored[_DIGEST:]).digest() == stored[:_DIGEST]:
                self._content = stored[_DIGEST:]
                return self._content
            _LOG.warning("'%s' is damaged; creating it again", file)
        return None

    def save(self, content: bytes) -> None:
        """Write `content`. A failure is only a warning: everything works without it, but slower."""
        if self._folders.writable is None or content == self._content:
            return
        file = self._folders.writable / self._file_name
        try:
            with atomic_file(file) as partial:
                partial.write_bytes(hashlib.sha256(content).digest() + content)
            self._content = content
        except OSError as error:
            _LOG.warning("'%s' is not cached: %s", file, error.strerror or error)

    @contextlib.contextmanager
    def locked(self, reason: str) -> Iterator[None]:
        """Hold the lock of the file where locks are supported; if another process holds it, log `reason` and wait."""
        with contextlib.ExitStack() as stack:
            if self._folders.writable is not None:
                lock_file = (self._folders.writable / self._file_name).with_suffix(".lock")
                with contextlib.suppress(OSError):  # then two processes may overwrite each other, which loses only some timings
                    stack.enter_context(locked(lock_file, reason))
            yield


def _folders(configured: str | None) -> tuple[list[Path], Path | None]:
    """Return the folders to read and the one to write: the chosen one, or this user's temporary one if it is not writable."""
    folders: list[Path] = []
    try:
        folders.append(cache_folder(configured))
        folders[0].mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folders[0]):
            return folders, folders[0]
    except (OSError, SvgError) as error:
        own = _own_temporary_folder()
        folders += [own] if own is not None else []
        kept = "not cached" if own is None else f"cached in {own}"
        advice = "set SVG_EDGE_CACHE to a writable folder"
        _LOG.warning("the cache folder cannot be written (%s): engines are %s; %s", error, kept, advice)
    return folders, own


def _own_temporary_folder() -> Path | None:
    """Return this user's temporary folder if nobody else can write to it: NVIDIA's library trusts the engines it loads."""
    folder = temporary_folder()
    if folder is None or not hasattr(os, "getuid"):  # Windows, where the temporary folder is the user's own
        return folder
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022
    return folder if mine else None
