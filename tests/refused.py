"""Disks that fail, and files and folders that may not be read: stand-ins, as root may read everything."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from svg_common.video import reader


@contextmanager
def refused(path: Path, number: int = errno.EACCES) -> Iterator[None]:
    """Let Python neither open the file nor list the folder; FFmpeg does not notice."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((builtins, "open"), (io, "open"), (os, "listdir"), (os, "scandir")):
            plain = getattr(module, name)

            def refusing(given: Any = ".", *arguments: Any, plain: Any = plain, **options: Any) -> Any:
                if given in (path, str(path)):
                    raise OSError(number, os.strerror(number), str(path))
                return plain(given, *arguments, **options)

            patch.setattr(module, name, refusing)
        yield


class _FailingContainer:
    """An open container of PyAV, of which only the first packets can be read."""

    def __init__(self, container: Any, number: int, packets: int) -> None:
        self._container = container
        self._number = number
        self._packets = packets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def __enter__(self) -> _FailingContainer:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def demux(self, *streams: Any) -> Iterator[Any]:
        packets = self._container.demux(*streams)
        for _ in range(self._packets):
            yield next(packets)
        raise av.FFmpegError(self._number, os.strerror(self._number), self._container.name)


@contextmanager
def failing_disk(name: str, number: int, packets: int = 8) -> Iterator[None]:
    """Let FFmpeg read so many packets of the video of this name, and then fail as the system does."""
    plain = reader._open_container
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reader,
            "_open_container",
            lambda path: _FailingContainer(plain(path), number, packets) if path.name == name else plain(path),
        )
        yield
