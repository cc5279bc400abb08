"""The lock under which one process at a time writes what a library keeps for the next start."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOG = logging.getLogger(__name__)


@contextmanager
def locked(lock_file: Path, reason: str) -> Iterator[None]:
    """Hold a lock, in a folder that is made for it; if it is held elsewhere, log `reason` and wait.

    Raises:
        OSError: the folder cannot be made or written, or the file system does not support locks.
    """
    from filelock import FileLock, Timeout

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    # filelock's substitute for file systems without locks would outlive a killed process.
    lock = FileLock(lock_file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOG.info("%s: waiting for it", reason)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
