"""Keeps two processes from writing the same folder or file at once."""

from __future__ import annotations

import errno
import os
import weakref
from pathlib import Path

from svg_common.errors import SvgError
from svg_common.printable import printable

try:
    import fcntl
except ImportError:  # Windows, where folders cannot be locked
    fcntl = None  # type: ignore[assignment]


class FolderInUseError(SvgError):
    """Another process writes the folder."""


class FolderLock:
    """Holds `folder` for this process until it is released, or until the process ends, however it ends.

    The folder itself is locked: nothing is written into it. All locks of one process share the folder. On a file system without
    locks, such as some of networks, nothing is refused.

    Args:
        folder: need not exist yet.
        output: the file that this process writes, where `folder` is a lock file beside it.
    """

    def __init__(self, folder: Path, output: Path | None = None) -> None:
        self._folder = folder
        self._output = output
        self._held: _Held | None = None

    def hold(self) -> None:
        """Hold the folder, if it exists; again, if it was removed and made anew.

        Raises:
            FolderInUseError: another process holds it.
        """
        try:
            place = _place(self._folder)
            while self._held is None or self._held.place != place:
                self._held = _HELD.get(place) or _Held(self._folder, place)
                place = _place(self._folder)  # another process may have removed it before it was locked
        except BlockingIOError as error:
            name = printable(str(self._output or self._folder))
            kind = "folder" if self._output is None else "file"
            raise FolderInUseError(f"another process writes to '{name}'\n  stop it, or choose another {kind}") from error
        except OSError:  # no folder, or one that cannot be locked
            self._held = None

    @property
    def held(self) -> bool:
        """Whether it is held."""
        return self._held is not None

    def release(self) -> None:
        """Let other processes write the folder."""
        self._held = None


def open_locked(path: Path) -> int:
    """Open a file or folder that nobody else has locked, this process included; it is locked until the descriptor is closed.

    Raises:
        BlockingIOError: it is locked.
        OSError: it cannot be opened, or there are no locks here.
    """
    if fcntl is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(path))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _place(path: Path) -> tuple[int, int]:
    """Device and inode."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


class _Held:
    """A locked folder, until nobody needs this object."""

    def __init__(self, folder: Path, place: tuple[int, int]) -> None:
        self.place = place
        weakref.finalize(self, os.close, open_locked(folder))
        _HELD[place] = self


_HELD: weakref.WeakValueDictionary[tuple[int, int], _Held] = weakref.WeakValueDictionary()  # by device and inode
