"""Locks, so that of several processes that need the same data one makes it, and the others wait.

They spare work, no more: whatever is made is renamed into place whole. So a file system without locks is not an error, nor is a
lock that two processes hold because one has removed its file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def source_lock(folder: Path, source: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock of `source` in `folder`, which processes on one host share, and hosts whose file system has locks.

    Args:
        folder: of what is made, such as the cache.
        source: what it is made of.
        wait_s: how long to wait for another process.

    Yields:
        Whether this process may make it; False: another one is at it.
    """
    name = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:32]
    lock = FileLock(folder / f".{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait_s, poll_interval=0.1)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):  # no locks here, or a folder that cannot be written, as writing to it will report
        yield True
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()
