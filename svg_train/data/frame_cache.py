"""Frames decoded once into memory-mapped files at the model's frame size, each beside a JSON file that says what they are.

An entry is found by its source's path and state (size and modification time), by the frame size and by a layout version,
so that a changed source or model never meets old frames. Two processes that decode the same source write the same bytes,
each to a file of its own that is then renamed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError, UsageError
from svg_common.files import atomic_file
from svg_common.progress import ProgressDisplay
from svg_train.data.notes import log_once

_LISTED = 20  # sources
_PROBLEMS_SHOWN = 3

Skipped = list[tuple[Path, str]]  # sources that are not used, and why
T = TypeVar("T")


class SourceError(SvgError):
    """A file or folder gives no frames. `reason` says why, without its name."""

    def __init__(self, source: Path, reason: str) -> None:
        super().__init__(f"cannot read '{source}': {reason}")
        self.reason = reason


class Problems:
    """What is wrong inside a source: the first few are kept, the others counted, as a damaged file may have millions."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._count = 0

    def add(self, problem: str) -> None:
        """Take note of `problem`, a part of a sentence."""
        self._count += 1
        if self._count <= _PROBLEMS_SHOWN:
            self._first.append(problem)

    def summary(self) -> str | None:
        """Return one line about all of them, or None when there is none."""
        more = self._count - len(self._first)
        return "; ".join(self._first) + (f"; and {more} more" if more else "") if self._first else None


@dataclass(frozen=True)
class FrameShape:
    """Height, width and channels of a decoded frame."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Bytes per frame."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class PartOfProgress:
    """Progress of one source among `count`, each of which counts the same."""

    display: ProgressDisplay
    task: str
    index: int
    count: int

    def report(self, source: Path, done: float, frames: int) -> None:
        """Say that the part `done` (0 to 1) of `source` is decoded, which gave `frames` frames."""
        self.display.progress(self.task, (self.index + done) / self.count, f"{source.name}, {frames} frames")


def entry_path(folder: Path, kind: str, source: Path, *state: object) -> Path:
    """Path in `folder`, without suffix, of the entry of `source` in this `state`."""
    digest = hashlib.sha256(repr(state).encode() + os.fsencode(source.resolve()))
    return folder / f"{kind}-{digest.hexdigest()[:32]}"


def is_whole(frames_file: Path, count: int, shape: FrameShape) -> bool:
    """Return whether `frames_file` has exactly the bytes of `count` frames, at least one.

    Raises:
        OSError: there is no such file.
    """
    return count > 0 and frames_file.stat().st_size == count * shape.size


def map_frames(frames_file: Path, count: int, shape: FrameShape) -> NDArray[np.uint8]:
    """Map the frames, (count, H, W, C) uint8; by each call anew, as thousands of open maps exhaust the file handles."""
    return np.memmap(frames_file, np.uint8, "r", shape=(count, shape.height, shape.width, shape.channels))


@contextmanager
def written_frames(frames_file: Path) -> Iterator[BinaryIO]:
    """Yield the file to write raw frames to; it takes its place when the body has ended without an error.

    Raises:
        SvgError: the cache cannot be written.
    """
    try:
        with atomic_file(frames_file) as partial, partial.open("wb") as out:
            yield out
            out.flush()
    except OSError as error:
        raise cannot_write(frames_file.parent, error) from error


def load_entries(
    sources: Sequence[Path],
    look_up: Callable[[Path], T | None],
    decode: Callable[[Path, PartOfProgress], T],
    folder: Path,
    what: str,
) -> tuple[list[T], Skipped]:
    """Return what `look_up` finds in the cache for each source, and what `decode` makes of the others.

    Args:
        sources: files or folders.
        look_up: returns the entry of a source, or None.
        decode: makes the entry, or raises `SourceError`.
        folder: of the cache, for the progress display.
        what: the kind of the sources, for the progress display.

    Returns:
        The entries, and the unusable sources with the reason, both in the order given.
    """
    found = {source: look_up(source) for source in sources}
    missing = [source for source in sources if found[source] is None]
    failed: Skipped = []
    if missing:
        task = f"decoding {len(missing)} {what} into {folder}"
        with ProgressDisplay() as display:
            display.progress(task, 0.0)
            for index, source in enumerate(missing):
                try:
                    found[source] = decode(source, PartOfProgress(display, task, index, len(missing)))
                except SourceError as error:
                    failed.append((source, error.reason))
    return [entry for entry in found.values() if entry is not None], failed


def warn_of_sources(what: str, skipped: Skipped, used: Sequence[tuple[Path, str | None]]) -> None:
    """Warn, once, of the sources that are not used and of the problems of those in use. `what` names their kind."""
    damaged = [(source, problem) for source, problem in used if problem]
    if skipped:
        log_once(logging.WARNING, f"{len(skipped)} {what} are not used:\n{listed(skipped)}")
    if damaged:
        log_once(logging.WARNING, f"{len(damaged)} {what} are damaged; their intact part is used:\n{listed(damaged)}")


def listed(sources: Skipped) -> str:
    """One line per source and reason; from a large data set, the first 20."""
    lines = [f"  {path}: {reason}" for path, reason in sources[:_LISTED]]
    more = len(sources) - len(lines)
    return "\n".join([*lines, f"  and {more} more"] if more else lines)


def root_folder(given: str | None, name: str, layout: str) -> Path:
    """Return the folder of data set `name`. `layout` says, for the error, where to get the data and how to lay it out.

    Raises:
        UsageError: no folder is given, or there is none of that name.
    """
    if not given:
        raise UsageError(f"data '{name}' needs --data-root\n{layout}")
    if not Path(given).is_dir():
        raise UsageError(f"--data-root '{given}' is not a folder\n{layout}")
    return Path(given)


def cannot_write(folder: Path, error: OSError) -> SvgError:
    """Error of a cache in `folder` that cannot be written."""
    return SvgError(
        f"cannot write decoded frames to the cache folder '{folder}': {error.strerror or error}\n"
        "  expected a writable folder with free space; choose another one with --cache or SVG_EDGE_CACHE"
    )
