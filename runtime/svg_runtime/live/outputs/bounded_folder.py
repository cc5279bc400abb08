"""A folder that files are added to for weeks: named by their time, and the oldest make room when a limit is reached."""

from __future__ import annotations

import errno
import re
from collections import deque
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

from svg_common.folder_lock import FolderInUseError, FolderLock
from svg_common.quantities import size_text

_STAMP = r"\d{8}T\d{6}\.\d{3}Z"
_MILLISECOND = timedelta(milliseconds=1)


class BoundedFolder:
    """The files of one kind in a folder, of this run and of earlier ones. Anything else in the folder is left alone.

    Files are named svg-live-20261126T201702.123Z.mp4, by their time in UTC: such names sort by time, also where clocks change
    between summer and winter.

    Args:
        folder: made when the first file is added.
        suffix: of the files, such as .mp4.
        limit_bytes: of these files together.

    Raises:
        FolderInUseError: another process writes there: each would count, and remove, the other's files.
    """

    def __init__(self, folder: Path, suffix: str, limit_bytes: int) -> None:
        self.folder = folder
        self._suffix = suffix
        self._limit_bytes = limit_bytes
        self._name = re.compile(rf"svg-live-{_STAMP}{re.escape(suffix)}")
        self._files: deque[tuple[Path, int]] = deque()  # the oldest first
        self._size_bytes = 0
        self._lock = FolderLock(folder)
        self._lock.hold()
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if self._name.fullmatch(path.name) and path.is_file():
                self.add(path)
            elif path.name.startswith(".") and self._name.fullmatch(path.name[1:]):
                path.unlink(missing_ok=True)  # unfinished, of a run that was killed

    def new_file(self, time: datetime) -> Path:
        """Return a path that does not exist yet, named by `time`; the folder is made.

        Raises:
            OSError: the folder cannot be made, or another process writes there by now.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.hold()
        except FolderInUseError as error:
            raise OSError(errno.EBUSY, "another process writes to it", str(self.folder)) from error
        while (path := self._path(time)).exists():
            time += _MILLISECOND
        return path

    def make_room(self, size_bytes: int) -> None:
        """Remove the oldest files until `size_bytes` more do not exceed the limit.

        Raises:
            OSError: a file cannot be removed, or so many bytes exceed the limit alone; nothing is then removed.
        """
        if size_bytes > self._limit_bytes:
            problem = f"a file of {size_text(size_bytes)} exceeds the limit of {size_text(self._limit_bytes)}"
            raise OSError(errno.EFBIG, problem, str(self.folder))
        while self._files and self._size_bytes + size_bytes > self._limit_bytes:
            path, size = self._files[0]
            path.unlink(missing_ok=True)
            self._files.popleft()
            self._size_bytes -= size

    def add(self, path: Path) -> None:
        """Count a file that is complete, so that it may be removed when its time has come."""
        with suppress(FileNotFoundError):  # someone else removed it
            size = path.stat().st_size
            self._files.append((path, size))
            self._size_bytes += size

    def _path(self, time: datetime) -> Path:
        stamp = time.astimezone(timezone.utc)
        return self.folder / f"svg-live-{stamp:%Y%m%dT%H%M%S}.{stamp.microsecond // 1000:03d}Z{self._suffix}"
