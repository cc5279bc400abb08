"""Engines are built once: kept in a cache folder, safe against a second process and against damage."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from svg_common.cache import cache_folder
from svg_common.command import require_modules
from svg_common.errors import SvgError
from svg_runtime.backends.tensorrt.engine import EngineKey, read_engine, write_engine
from svg_runtime.errors import EngineError


class EngineCache:
    """Plans by key, in `<folder>/<library>/`.

    A folder that cannot be written is still read. What is not in it is then kept in this user's own folder under the system's
    temporary one, so that the next start need not build it again; a warning says so once.

    Args:
        configured: the user's choice of a folder; None takes $SVG_EDGE_CACHE, else the user's cache folder.
        say: called with one line whenever something is rebuilt or waited for.

    Raises:
        MissingExtraError: filelock is not installed.
    """

    def __init__(self, configured: str | None, say: Callable[[str], None]) -> None:
        require_modules("the engine cache", "tensorrt-rtx", "filelock")
        self._say = say
        self._folders, self._writable = _folders(configured)

    def fetch(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """The plan for `key`: from the cache, or built and kept.

        Raises:
            EngineError: `build` failed.
        """
        plan = None
        for folder in self._folders:
            plan = self._read(self._file(folder, key), key)
            if plan is not None:
                return plan
        if self._writable is None:
            return build()
        target = self._file(self._writable, key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(target):
                with contextlib.suppress(EngineError):  # already said
                    plan = read_engine(target, key)  # another process may have built it meanwhile
                return self._build(target, key, build) if plan is None else plan
        except OSError as error:  # the lock: the folder is gone, or the file system knows no locks
            _warn(f"the engine is not kept: {error.strerror or error}: {target}")
            return build()

    def _build(self, target: Path, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        plan = build()
        try:
            write_engine(target, key, plan)
        except OSError as error:
            _warn(f"the engine is not kept: {error.strerror or error}: {error.filename or target}")
        return plan

    def _read(self, file: Path, key: EngineKey) -> bytes | None:
        try:
            return read_engine(file, key)
        except EngineError as error:
            self._say(f"{error}; it is built again")
            return None

    @contextlib.contextmanager
    def _locked(self, target: Path) -> Iterator[None]:
        from filelock import FileLock, Timeout

        lock = FileLock(target.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._say(f"another process builds {target.name}: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _file(self, folder: Path, key: EngineKey) -> Path:
        return folder / key.library / f"{key.digest()}.plan"


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
        kept = "not kept" if own is None else f"kept in {own}"
        _warn(f"the cache folder cannot be written ({error}): engines are {kept}; set SVG_EDGE_CACHE to a writable folder")
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


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
