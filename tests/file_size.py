"""Limits the size of files, which a process notices as it does a full disk.

Python would notice nothing where it writes bytecode: a file that is cut off stays behind, and fails every later import.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"  # for child processes


def limit_file_size(size: int) -> None:
    """From now on, let no file of this process and its children grow over `size` bytes, and write no bytecode.

    Args:
        size: bytes; resource.RLIM_INFINITY: as many as there is room for.
    """
    os.environ[_NO_BYTECODE] = "1"
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As `limit_file_size`, for as long as the block lasts."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    of_children = os.environ.get(_NO_BYTECODE)
    of_process = sys.dont_write_bytecode
    limit_file_size(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = of_process
        del os.environ[_NO_BYTECODE]
        if of_children is not None:
            os.environ[_NO_BYTECODE] = of_children
