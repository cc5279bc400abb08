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
    """Another process writes the folder, or the file."""


class FolderLock:
    """Holds a folder or a file for this process until it is released, or until the process ends, however it ends.

    It is locked itself: nothing is written into it. All locks of one process share it. On a file system without locks, such as
    some of networks, nothing is refused.

    Args:
        path: need not exist yet; what does not exist cannot be held.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: _Held | None = None

    def hold(self) -> None:
        """Hold it, if it exists; again, if it was removed and made anew.

        Raises:
            FolderInUseError: another process holds it.
        """
        try:
            found = os.stat(self._path)
            place = found.st_dev, found.st_ino
            if self._held is None or self._held.place != place:
                self._held = _HELD.get(place) or _Held(self._path, place)
        except BlockingIOError as error:
            kind = "folder" if self._path.is_dir() else "file"
            raise FolderInUseError(
                f"another process writes to '{printable(str(self._path))}'\n  stop it, or choose another {kind}"
            ) from error
        except OSError:  # it does not exist, or cannot be locked
            self._held = None

    def hold_again(self) -> None:
        """As `hold`, before something is written in a run that goes on whatever happens to its folders.

        Raises:
            OSError: another process holds it by now, because it was removed and made anew.
        """
        try:
            self.hold()
        except FolderInUseError as error:
            raise OSError(errno.EBUSY, "another process writes to it", str(self._path)) from error

    def release(self) -> None:
        """Let other processes write it."""
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


class _Held:
    """What is locked, until nobody needs this object."""

    def __init__(self, path: Path, place: tuple[int, int]) -> None:
        self.place = place
        weakref.finalize(self, os.close, open_locked(path))
        _HELD[place] = self


_HELD: weakref.WeakValueDictionary[tuple[int, int], _Held] = weakref.WeakValueDictionary()  # by device and inode
