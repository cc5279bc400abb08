"""Where engines and what belongs to them are kept, safe against a second process and against damage."""

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
from svg_runtime.backends.nvidia.device import GpuName

_LOG = logging.getLogger(__name__)
_DIGEST = hashlib.sha256().digest_size


class CacheFolders:
    """The folders to look in, and the one to write to.

    A folder that cannot be written is still read. What is not in it is then kept in this user's own folder under the system's
    temporary one, so that the next start need not make it again; a warning says so once.

    Args:
        configured: the user's choice of a folder; None takes $SVG_EDGE_CACHE, else the user's cache folder.
        library: the name of NVIDIA's library, which is the extra that has what is needed here.

    Attributes:
        readable: in the order to look in.
        writable: None where there is none.

    Raises:
        MissingExtraError: filelock is not installed.
    """

    def __init__(self, configured: str | None, library: str) -> None:
        require_modules("the engine cache", library, "filelock")
        self.readable, self.writable = _folders(configured)

    @contextlib.contextmanager
    def locked(self, target: Path, reason: str) -> Iterator[None]:
        """Nobody else has `target` meanwhile; whoever has to wait logs the `reason`.

        Raises:
            OSError: the folder is gone, or the file system knows no locks.
        """
        from filelock import FileLock, Timeout

        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f"{target.stem}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _LOG.info("%s: waiting for it", reason)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


class CachedBlob:
    """Bytes that a library wants to find again on the same GPU, in a release that is the same.

    Args:
        folders: where.
        library: the name of the library.
        version: its release.
        gpu: the GPU.
        kind: what it is, a file's suffix.
    """

    def __init__(self, folders: CacheFolders, library: str, version: str, gpu: GpuName, kind: str) -> None:
        name = re.sub(r"[^\w.]+", "-", f"{version} {gpu.model} {gpu.compute_capability}", flags=re.ASCII)
        self._folders = folders
        self._graph_file = f"{library}/{name}.{kind}"
        self._known: bytes | None = None

    def load(self) -> bytes | None:
        """What was saved; None if there is nothing. What is damaged is ignored with a warning."""
        for folder in self._folders.readable:
            file = folder / self._graph_file
            try:
                stored = file.read_bytes() if file.is_file() else None
            except OSError as error:
                _LOG.warning("'%s' cannot be read: %s; creating it again", file, error.strerror)
                continue
            if stored is None:
                continue
            if hashlib.sha256(stored[_DIGEST:]).digest() == stored[:_DIGEST]:
                self._known = stored[_DIGEST:]
                return self._known
            _LOG.warning("'%s' is damaged; creating it again", file)
        return None

    def save(self, content: bytes) -> None:
        """Keep it. Where it cannot be written, that is a warning: all works without it, but slower."""
        if self._folders.writable is None or content == self._known:
            return
        file = self._folders.writable / self._graph_file
        try:
            with atomic_file(file) as partial:
                partial.write_bytes(hashlib.sha256(content).digest() + content)
            self._known = content
        except OSError as error:
            _LOG.warning("'%s' is not cached: %s", file, error.strerror or error)

    @contextlib.contextmanager
    def locked(self, reason: str) -> Iterator[None]:
        """No other process has it meanwhile, where locks can be had; whoever has to wait logs the `reason`."""
        with contextlib.ExitStack() as stack:
            if self._folders.writable is not None:
                with contextlib.suppress(OSError):  # two processes then lose some of what one of them saves, and no more
                    stack.enter_context(self._folders.locked(self._folders.writable / self._graph_file, reason))
            yield


def _folders(configured: str | None) -> tuple[list[Path], Path | None]:
    """Where to look and where to write: the chosen folder, and if it cannot be written, one of this user's own."""
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
    """NVIDIA's library trusts the engines that it loads: a folder that another user could write is not taken."""
    if not hasattr(os, "getuid"):  # Windows, where the temporary folder is the user's own
        return Path(tempfile.gettempdir()) / "svg-edge"
    folder = Path(tempfile.gettempdir()) / f"svg-edge-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022
    return folder if mine else None
