"""Outputs that appear whole or not at all: written beside their destination, flushed, then renamed."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_common.folder_lock import open_locked
from svg_common.printable import printable

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_STATUS = Path("/proc/self/status")
_UMASK_LOCK = threading.Lock()
_NAME_START = 40  # characters of a long name that its temporary name repeats: with the whole name it could be too long
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)  # why a folder cannot be renamed: systems differ
_AT_FDCWD = -100  # renameat2(2): a relative path begins at the current folder
_RENAME_EXCHANGE = 2


@contextmanager
def atomic_file(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `destination`; on success it replaces `destination`, on any error it is removed.

    The suffix is kept, because video and image writers choose their format by it. A symbolic link is kept: the file
    that it points to is replaced. A device or pipe, such as /dev/stdout, is yielded itself.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; `destination` is then unchanged.
    """
    target = Path(destination)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if target.exists() and not target.is_file():
        try:
            yield target
        except OSError as error:
            _name_destination(error, (target,), target)
            raise
        return
    with beside(target) as partial:
        try:
            yield partial
            flush(partial)
            _publish_mode(partial, 0o666)
            os.replace(partial, resolved(target))
        except OSError as error:
            _name_destination(error, (partial,), target)
            raise


@contextmanager
def atomic_directory(destination: str | os.PathLike[str], stage: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `destination` on success; on any error nothing is published.

    An existing `destination` is exchanged for the new folder in one step, and removed afterwards. Where the file system cannot
    do so, it is moved aside first, and put back on any error; if the program is killed in between, by the next writer.

    Args:
        destination: of the folder.
        stage: folder to write it in, where a program reads whatever lies beside `destination`. It is not used if no folder can
            be moved from there to `destination`.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full, or `destination` is a file.
    """
    target = resolved(Path(destination))
    _refuse_file(target)
    with beside(target, folder=True, stage=stage) as partial:
        aside = _put_back(target, partial)
        try:
            yield partial
            for path in partial.rglob("*"):
                if path.is_file():
                    flush(path)
            _publish_mode(partial, 0o777)
            _replace_directory(partial, target, aside)
        except OSError as error:
            _name_destination(error, (partial, aside), Path(destination))
            raise


def remove_directory(folder: Path, stage: Path | None = None) -> None:
    """Remove a folder as a whole: killed meanwhile, no half of it stays in its place.

    What killed writers left of it goes, too.

    Args:
        folder: need not exist.
        stage: as of `atomic_directory`.

    Raises:
        OSError: it cannot be moved.
    """
    target = resolved(folder)
    with beside(target, folder=True, stage=stage) as partial, suppress(FileNotFoundError):
        _put_back(target, partial)
        _remove_whole(target, partial)


def resolved(path: Path) -> Path:
    """`path` without symbolic links.

    Raises:
        OSError: they go round in a circle, for which pathlib raised a RuntimeError before Python 3.13.
    """
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def folder_name(folder: Path) -> str:
    """The name of a folder, also of one given as . or .., which do not say it."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def identity_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at `path`, which are others where another disk was mounted; None: nothing is there."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def refuse_pipe(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe or socket as input: it can be read only once, and reading waits for a program that may never write.

    Raises:
        UsageError: `path` is one, such as a FIFO, or /dev/stdin behind a pipe.
    """
    special = Path(path)
    if special.is_fifo() or special.is_socket():
        kind = "pipe" if special.is_fifo() else "socket"
        raise UsageError(f"'{path}' is a {kind}, which can be read only once\n  expected a file; save the data to a file first")


def write_json(destination: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically. Non-finite numbers become null, as JSON has none; names are `printable`."""
    with atomic_file(destination) as partial:
        partial.write_text(json.dumps(storable(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _refuse_file(target: Path) -> None:
    """Refuse to put a folder in the place of a file. It is looked at once: another writer may be moving it aside."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(target.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))


def _replace_directory(partial: Path, target: Path, aside: Path) -> None:
    """Put `partial` in the place of `target`. If others do the same meanwhile, the last one stays.

    Args:
        partial: the new folder.
        target: its place, in which another folder may be.
        aside: where the other one waits, if the two cannot be exchanged.
    """
    while not _moved(partial, target) and not _exchanged(partial, target):
        try:
            with suppress(FileNotFoundError):  # another writer replaces it, too
                os.rename(target, aside)
            if _moved(partial, target):
                return
        finally:  # on Ctrl-C, too
            _settle(aside, target, partial)


def _moved(partial: Path, target: Path) -> bool:
    """Move a folder to a place that is free, or an empty folder; False if it is taken."""
    try:
        os.rename(partial, target)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where that fails, as on systems and disks that cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # old C libraries have none
    paths = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0


def _put_back(target: Path, partial: Path) -> Path:
    """Put back what a killed writer moved aside and did not replace; returns where this writer may move it.

    A living writer between its two renames finds its place taken then, and moves it aside again.
    """
    parent = partial.parent
    # The digest makes it a name that no user gives, and no other output with the same beginning has.
    digest = hashlib.sha256(os.fsencode(os.path.relpath(target, parent))).hexdigest()[:16]
    start = f".{target.name[:_NAME_START]}.replaced-{digest}-"
    with suppress(OSError):  # a folder may be written and not be readable
        for name in os.listdir(parent):
            if name.startswith(start):
                _settle(parent / name, target, partial)
    return parent / f"{start}{secrets.token_hex(4)}"


def _settle(aside: Path, target: Path, partial: Path) -> None:
    """Put back a folder that was moved aside, or remove it if another one is in its place."""
    with suppress(OSError):  # it is not there any more, or keeps its name: nothing is lost
        if target.exists():
            _remove_whole(aside, partial)
        else:
            os.rename(aside, target)


def _remove_whole(folder: Path, partial: Path) -> None:
    """Remove a folder under a name that begins like that of `partial`: killed meanwhile, the next writer removes the rest.

    Raises:
        OSError: it cannot be moved.
    """
    rest = partial.with_name(f"{partial.name}-{secrets.token_hex(4)}")
    os.rename(folder, rest)
    _remove(rest)


@contextmanager
def beside(target: Path, folder: bool = False, stage: Path | None = None) -> Iterator[Path]:
    """Yield an empty file or folder beside `target` (beside what it links to), so that a rename can put it in place.

    It is locked, so that the next writer of `target` knows whether it is still being written, and removed at the end; so are
    the folders that were made for it, if nothing is in them.

    Args:
        target: what it will be.
        folder: whether that is a folder.
        stage: make it in that folder, see `atomic_directory`.

    Raises:
        OSError: it cannot be made.
    """
    real = resolved(target)
    made: list[Path] = []
    try:
        made = [parent for parent in real.parents if not parent.exists()]
        try:
            partial, lock = _made_beside(real, folder, stage)
        except FileNotFoundError:  # another writer has just removed the folder that it had made
            partial, lock = _made_beside(real, folder, stage)
    except OSError as error:  # the user does not know the temporary name
        _remove_empty(made)
        raise type(error)(error.errno, error.strerror, str(target)) from error
    try:
        yield partial
    finally:
        _release(partial, lock)
        _remove_empty(made)


def _made_beside(real: Path, folder: bool, stage: Path | None) -> tuple[Path, int | None]:
    real.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(real.parent, *_affixes(real, folder))  # with a stage, too: earlier versions wrote here
    if stage is not None:
        with suppress(OSError):
            return _made_in_stage(real, folder, stage)
    return _make_locked(real.parent, *_affixes(real, folder), folder)


def _made_in_stage(real: Path, folder: bool, stage: Path) -> tuple[Path, int | None]:
    """As `_made_beside`, in another folder.

    Raises:
        OSError: it cannot be made there, or not be moved to its place, or what is in its place cannot be moved here.
    """
    partial, lock = _made_beside(resolved(stage) / f"{real.parent.name}.{real.name}", folder, None)
    prefix, suffix = _affixes(real, folder)
    there = real.parent / f"{prefix}{secrets.token_hex(4)}{suffix}"
    try:
        os.rename(partial, there)  # only trying tells: there are folders on one disk between which nothing can be moved
        os.rename(there, partial)
        if real.exists() and not os.access(real, os.W_OK):  # its entry for the folder that it lies in would change
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(real))
    except OSError:
        _release(partial, lock)
        raise
    return partial, lock


def _affixes(path: Path, folder: bool) -> tuple[str, str]:
    """How the temporary names of an output begin and end."""
    return f".{(path.name if folder else path.stem)[:_NAME_START]}.partial-", "" if folder else path.suffix


def _make_locked(parent: Path, prefix: str, suffix: str, folder: bool) -> tuple[Path, int | None]:
    """Make a file or folder, and lock it; without a lock where there are none."""
    while True:
        if folder:
            partial = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
        else:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=parent)
            os.close(handle)
            partial = Path(name)
        try:
            lock = open_locked(partial)
        except (BlockingIOError, FileNotFoundError):  # another process takes it for abandoned, before it is locked
            continue
        except OSError:
            return partial, None
        if partial.exists():
            return partial, lock
        os.close(lock)


def _remove_abandoned(parent: Path, prefix: str, suffix: str) -> None:
    """Remove what killed processes have left of the same output. What is still being written is locked."""
    try:
        listed = os.listdir(parent)
    except OSError:  # a folder may be written and not be readable
        return
    for path in (parent / name for name in listed if name.startswith(prefix) and name.endswith(suffix)):
        if path.is_file() or path.is_dir():  # a pipe would wait for a writer
            with suppress(OSError):
                lock = open_locked(path)
                _remove(path)
                os.close(lock)


def _release(partial: Path, lock: int | None) -> None:
    """Remove what `_make_locked` made, if it is still there, and unlock it."""
    _remove(partial)
    if lock is not None:
        os.close(lock)


def _remove(path: Path) -> None:
    """Remove a file or folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):  # the user may have made it read-only
            with suppress(OSError):
                os.chmod(folder, 0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, each before the one that it lies in, up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _name_destination(error: OSError, temporary: Sequence[Path], target: Path) -> None:
    """Name the destination in the error of a failed write, which names no file or a temporary one."""
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    is_temporary = any(str(path) in name for path in temporary for name in named)
    if is_temporary or (error.filename is None and error.errno in _DISK_ERRORS):
        error.filename = str(target)
        del error.filename2  # None would be printed


def flush(path: Path) -> None:
    """Wait until a file is on the disk.

    Raises:
        OSError: it cannot be opened or written.
    """
    # Windows flushes writable files only; elsewhere a writer may have made its file read-only.
    with path.open("r+b" if sys.platform == "win32" else "rb") as file:
        os.fsync(file.fileno())


def _publish_mode(path: Path, mode: int) -> None:
    """Temporary names are for their owner alone; what is published follows the user's umask, where the disk has modes.

    FAT, exFAT and shares of other systems refuse to change them. The result is worth more than its mode.
    """
    with suppress(OSError):
        path.chmod(mode & ~_umask())


def _umask() -> int:
    """The umask of this process. Linux tells it; elsewhere it can only be read by changing it for a moment."""
    with suppress(OSError), _STATUS.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    with _UMASK_LOCK:  # a second thread would read, and put back, the 0 of the first
        mask = os.umask(0)
        os.umask(mask)
    return mask


def storable(value: Any) -> Any:
    """`value` as JSON can hold it: non-finite numbers become None, and names `printable`."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    return value


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file of any size, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
