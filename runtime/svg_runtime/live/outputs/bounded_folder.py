"""A folder that files are added to for weeks: the oldest make room when a limit is reached."""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from svg_common.files import identity_of
from svg_common.folder_lock import FolderInUseError, FolderLock
from svg_common.quantities import size_text

_STAMP = r"\d{8}T\d{6}\.\d{3}Z"
_UNFINISHED = re.compile(r"\.(.+?)(?:\.partial-\w+)?(\.\w+)")  # beside what it will be: of a recording, and of `atomic_file`


class LimitedFiles:
    """The files of one kind in a folder, of this run and of earlier ones. Anything else in the folder is left alone.

    The numbers in their names tell which are older, whatever the clock said when they were named. Where several have the same,
    as runs of earlier versions began at 1 anew, the times do.
    Files with the same name but for the suffix belong together.

    Where another folder is in its place by now, such as that of a card that was mounted, its files are these from then on.

    Args:
        folder: made when the first file is added.
        names: of the files, with a group `number`; those without a number are the oldest, and sort by name.
        limit_bytes: of these files together.

    Attributes:
        last_number: the largest of these files, and of those in any folder that was in this place before; 0: none.

    Raises:
        FolderInUseError: another process writes there: each would count, and remove, the other's files.
    """

    def __init__(self, folder: Path, names: re.Pattern[str], limit_bytes: int) -> None:
        self.folder = folder
        self.last_number = 0
        self._names = names
        self._limit_bytes = limit_bytes
        self._files: dict[str, dict[Path, int]] = {}  # bytes of those that belong together; the oldest first
        self._size_bytes = 0
        self._lock = FolderLock(folder)
        self._lock.hold()
        self._identity = identity_of(folder)  # of the folder that `_files` are in
        self._count_files()

    def make_folder(self) -> None:
        """Make the folder, if there is none.

        Raises:
            OSError: it cannot be made, or another process writes there by now.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._follow_folder()

    def make_room(self, size_bytes: int, keep: str | None = None) -> None:
        """Remove the oldest files until `size_bytes` more do not exceed the limit.

        Args:
            size_bytes: of the file that is to be added.
            keep: name without suffix of the newest files, which stay even beyond the limit.

        Raises:
            OSError: a file cannot be removed, or another process writes there by now, or so many bytes exceed the limit alone;
                nothing is then removed.
        """
        if size_bytes > self._limit_bytes:
            problem = f"a file of {size_text(size_bytes)} exceeds the limit of {size_text(self._limit_bytes)}"
            raise OSError(errno.EFBIG, problem, str(self.folder))
        self._follow_folder()
        while self._files and self._size_bytes + size_bytes > self._limit_bytes:
            oldest, sizes = next(iter(self._files.items()))
            if oldest == keep:
                return
            for path in list(sizes):
                path.unlink(missing_ok=True)
                self._size_bytes -= sizes.pop(path)
            del self._files[oldest]

    def add(self, path: Path) -> None:
        """Count a file that is complete, so that it may be removed when its time has come."""
        with suppress(FileNotFoundError):  # someone else removed it
            size = path.stat().st_size
            sizes = self._files.setdefault(path.stem, {})
            self._size_bytes += size - sizes.get(path, 0)
            sizes[path] = size
            self.last_number = max(self.last_number, self._number_of(path))

    def _follow_folder(self) -> None:
        """Count anew where another folder is in its place: a disk was mounted or taken away, or the folder was removed."""
        try:
            self._lock.hold()
        except FolderInUseError as error:
            raise OSError(errno.EBUSY, "another process writes to it", str(self.folder)) from error
        identity = identity_of(self.folder)
        if identity != self._identity:
            self._identity = None  # if the new one cannot be read, the next call tries again
            self._count_files()
            self._identity = identity

    def _count_files(self) -> None:
        self._files.clear()
        self._size_bytes = 0
        for path in self._oldest_first(self.folder) if self.folder.is_dir() else ():
            unfinished = _UNFINISHED.fullmatch(path.name)
            if not path.is_file():
                continue
            if self._names.fullmatch(path.name):
                self.add(path)
            elif unfinished and self._names.fullmatch(unfinished[1] + unfinished[2]):
                path.unlink(missing_ok=True)  # of a run that was killed

    def _oldest_first(self, folder: Path) -> list[Path]:
        number = {path: self._number_of(path) for path in folder.iterdir()}
        used = list({path.stem: each for path, each in number.items() if each}.values())
        are_unique = len(set(used)) == len(used)
        return sorted(number, key=lambda path: (number[path] if are_unique else 0, path.name))

    def _number_of(self, path: Path) -> int:
        found = self._names.fullmatch(path.name)
        return 0 if found is None else int(found["number"] or 0)


class BoundedFolder(LimitedFiles):
    """Files that are named svg-live-20261126T201702.123Z-000007.mp4, by their time in UTC, and a number that grows with each.

    Such names sort by time, also where clocks change between summer and winter. Earlier versions gave no number.

    Args:
        folder: see `LimitedFiles`.
        suffix: of the files, such as .mp4.
        limit_bytes: see `LimitedFiles`.

    Raises:
        FolderInUseError: see `LimitedFiles`.
    """

    def __init__(self, folder: Path, suffix: str, limit_bytes: int) -> None:
        super().__init__(folder, re.compile(rf"svg-live-{_STAMP}(-(?P<number>\d{{1,15}}))?{re.escape(suffix)}"), limit_bytes)
        self._suffix = suffix

    def new_file(self, time: datetime) -> Path:
        """Return a path that does not exist yet, named by `time` and the next number; the folder is made.

        Raises:
            OSError: the folder cannot be made, or another process writes there by now.
        """
        self.make_folder()
        utc = time.astimezone(timezone.utc)
        stamp = f"{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}Z"
        number = self.last_number + 1
        while (path := self.folder / f"svg-live-{stamp}-{number:06d}{self._suffix}").exists():
            number += 1
        return path
