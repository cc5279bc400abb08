"""Saves what alarms leave: clips and pictures in a folder of limited size, a line per alarm in the events file."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2

from svg_common.errors import OutputError, first_line
from svg_common.files import atomic_file
from svg_runtime.live.alarms.clip_buffer import StoredPicture
from svg_runtime.live.alarms.record import AlarmRecord, Files
from svg_runtime.live.events import EventLog
from svg_runtime.live.outputs.bounded_folder import LimitedFiles
from svg_runtime.live.outputs.h264 import encodable
from svg_runtime.live.outputs.mp4 import Mp4Writer
from svg_runtime.live.overlay.theme import Canvas

_APPENDING = threading.Lock()  # cameras of one process write the same file
OWN_NAME = re.compile(r"alarm-\d{8}T\d{6}\.\d{3}Z-(?P<number>\d{1,15})\.(mp4|png)")  # nothing else is ever removed


@dataclass(frozen=True)
class Archive:
    """Where alarms are saved. What cannot be written is an event of the run, not its end.

    Attributes:
        files: clips and pictures, whose names are as `OWN_NAME`; None: none are saved.
        events_file: gets a line per alarm; None: none.
        tick_s: seconds per tick of the source.
        events: of the run.
    """

    files: LimitedFiles | None
    events_file: Path | None
    tick_s: float
    events: EventLog

    def save(self, name: str, pictures: list[StoredPicture], comparison: Canvas | None) -> Files:
        """Write NAME.mp4 if there are pictures, and NAME.png if it is given; then remove the oldest alarms beyond the limit."""
        files = self.files
        if files is None:
            return Files()
        clip, picture = files.folder / f"{name}.mp4", files.folder / f"{name}.png"
        has_clip = bool(pictures) and self._try(clip, lambda: _add(files, clip, lambda: self._write_clip(clip, pictures)))
        has_picture = comparison is not None and self._try(
            picture, lambda: _add(files, picture, lambda: _write_png(picture, comparison))
        )
        self._try(files.folder, lambda: files.make_room(0, keep=name), "removed")
        return Files(clip=str(clip) if has_clip else None, picture=str(picture) if has_picture else None)

    def append(self, record: AlarmRecord) -> None:
        """Add the line of `record` to the events file, and see it on the disk."""
        if self.events_file is not None:
            file = self.events_file
            self._try(file, lambda: _append_line(file, record.to_json()))

    def _try(self, path: Path, write: Callable[[], None], not_done: str = "saved") -> bool:
        try:
            write()
        except (OutputError, OSError) as error:
            reason = first_line(error) if isinstance(error, OutputError) else f"'{path}': {error.strerror or error}"
            self.events.add(f"alarm_not_{not_done}", f"an alarm was not {not_done}: {reason}")
            return False
        return True

    def _write_clip(self, path: Path, pictures: list[StoredPicture]) -> None:
        """A source that changes its size ends the clip there: a video has one size."""
        first = encodable(pictures[0].decode())
        height, width = first.shape[:2]
        writer, keep = Mp4Writer(path, (width, height), self.tick_s), False
        try:
            for stored in pictures:
                picture = encodable(stored.decode())
                if picture.shape != first.shape:
                    break
                writer.write(picture, stored.tick)
            keep = True
        finally:
            writer.close(keep)


def _add(files: LimitedFiles, path: Path, write: Callable[[], None]) -> None:
    files.make_folder()
    write()
    files.add(path)


def _write_png(path: Path, canvas: Canvas) -> None:
    _, png = cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))
    with atomic_file(path) as partial:
        partial.write_bytes(png.tobytes())


def _append_line(path: Path, line: str) -> None:
    """After a crash, or a disk that was full, the file may end in the middle of a line: then a new one begins first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        _write_to_stream(path, line.encode("utf-8") + b"\n")
        return
    with _APPENDING, path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
        broken = bool(size) and file.read(1) != b"\n"
        file.write(("\n" if broken else "").encode() + line.encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _write_to_stream(path: Path, content: bytes) -> None:
    """A pipe or a terminal has no end to look at. One that nobody reads is an error, and not waited for."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    with _APPENDING, os.fdopen(descriptor, "wb", buffering=0) as stream:
        if stream.write(content) != len(content):
            raise BlockingIOError(errno.EAGAIN, "its reader is too slow", str(path))
