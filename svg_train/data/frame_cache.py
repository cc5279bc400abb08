"""Frames decoded once into memory-mapped files at the model's frame size, each with a JSON file that describes them.

The key of an entry is its source's path and state (size and modification time), the frame size and a layout version, so that
a changed source or model never gets old frames. Of several processes that need the same source, one decodes it; if two do, as
where a file system has no locks, they write the same bytes, each to a file of its own that is then renamed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from svg_common.errors import SvgError, UsageError
from svg_common.files import atomic_file
from svg_common.printable import one_line
from svg_common.progress import ProgressDisplay
from svg_common.quantities import count_text, is_or_are
from svg_train.data.notes import log_once
from svg_train.data.source_locks import source_lock

_LOG = logging.getLogger(__name__)
# Every file that decoding makes: frames and their description, what a kill leaves of them, and locks.
CACHE_FILE = re.compile(r"[a-z]+-[0-9a-f]{32}\.(?:u8|json)|\.[a-z]+-[0-9a-f]{20,32}\.[\w-]+\.(?:u8|json)|\.[0-9a-f]{32}\.lock")
_MAX_LISTED = 20  # sources
_LOOK_EVERY_S = 1.0  # for what another process decodes
_PROBLEMS_SHOWN = 3

# What reading a damaged record of the cache can raise, whatever its bytes are.
DAMAGED_RECORD = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError)

Skipped = list[tuple[Path, str]]  # sources that are not used, and why
T = TypeVar("T")


class SourceError(SvgError):
    """A file or folder has no usable frames. `reason` is the cause, without its name."""

    def __init__(self, source: Path, reason: str) -> None:
        super().__init__(f"cannot read '{source}': {reason}")
        self.reason = reason


class Problems:
    """What is wrong inside a source: the first few problems, and a count, as a damaged file may have millions."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._count = 0

    def add(self, problem: str) -> None:
        """Record `problem`, a part of a sentence."""
        self._count += 1
        if self._count <= _PROBLEMS_SHOWN:
            self._first.append(problem)

    def summary(self) -> str | None:
        """Return one line about all of them, or None if there are none."""
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
class SourceProgress:
    """Progress of one source among `count`, all of equal weight."""

    display: ProgressDisplay
    task: str
    index: int
    count: int

    def report(self, source: Path, done: float, frames: int) -> None:
        """Report that the share `done` (0 to 1) of `source` is decoded, into `frames` frames so far."""
        self.display.progress(self.task, (self.index + done) / self.count, f"{source.name}, {frames} frames")


def entry_path(folder: Path, kind: str, source: Path, *state: object) -> Path:
    """Path in `folder`, without suffix, of the entry of `source` in this `state`."""
    digest = hashlib.sha256(repr(state).encode() + os.fsencode(source.resolve()))
    return folder / f"{kind}-{digest.hexdigest()[:32]}"


def is_complete(frames_file: Path, count: int, shape: FrameShape) -> bool:
    """Return whether `frames_file` has exactly the bytes of `count` frames, at least one.

    Raises:
        OSError: the file does not exist.
    """
    return count > 0 and frames_file.stat().st_size == count * shape.size


def map_frames(frames_file: Path, count: int, shape: FrameShape) -> NDArray[np.uint8]:
    """Map the frames, (count, H, W, C) uint8. Every call maps anew: thousands of open maps would exhaust the file handles.

    Raises:
        SvgError: the file was removed or shortened since it was found complete.
    """
    try:
        return np.memmap(frames_file, np.uint8, "r", shape=(count, shape.height, shape.width, shape.channels))
    except (FileNotFoundError, ValueError) as error:
        what = "removed" if isinstance(error, FileNotFoundError) else "shortened"
        raise SvgError(
            f"the decoded frames in the cache were {what} while they were in use: {frames_file}\n"
            "  start again, which decodes them anew; a training run continues with: svg-train --out FOLDER --resume"
        ) from error


@contextmanager
def frames_writer(frames_file: Path) -> Iterator[BinaryIO]:
    """Yield the file to write raw frames to; it is published if the block ends without an error.

    Raises:
        SvgError: the cache cannot be written.
    """
    try:
        with atomic_file(frames_file) as partial, partial.open("wb") as out:
            yield out
            out.flush()
    except OSError as error:
        raise cache_write_error(frames_file.parent, error) from error


def load_entries(
    sources: Sequence[Path],
    look_up: Callable[[Path], T | None],
    decode: Callable[[Path, SourceProgress], T],
    folder: Path,
    what: str,
) -> tuple[list[T], Skipped]:
    """Return the cached entry of each source, after decoding those that the cache lacks.

    Args:
        sources: files or folders.
        look_up: returns the entry of a source, or None, or raises `SourceError` where decoding is known to.
        decode: makes the entry, or raises `SourceError`.
        folder: of the cache, for the progress display.
        what: one of the sources, for the progress display.

    Returns:
        The entries, and the unusable sources with the reason, both in the order given.
    """
    found: dict[Path, T | None] = {}
    failed: dict[Path, str] = {}
    for source in sources:
        with _noted(failed, source):
            found[source] = look_up(source)
    missing = [source for source, entry in found.items() if entry is None]

    def decode_unless_busy(source: Path, wait_s: float) -> bool:
        with source_lock(folder, source, wait_s) as mine:
            with _noted(failed, source):
                found[source] = look_up(source)  # another process may have been at it
                if mine and found[source] is None:
                    found[source] = decode(source, SourceProgress(display, task, missing.index(source), len(missing)))
            return mine or source in failed or found[source] is not None

    if missing:
        task = f"decoding {count_text(len(missing), what)} into {folder}"
        with ProgressDisplay(None if _LOG.isEnabledFor(logging.ERROR) else Console(quiet=True)) as display:
            display.progress(task, 0.0)
            left, wait_s = missing, 0.0
            while left:
                left = [source for source in left if not decode_unless_busy(source, wait_s)]
                if left:
                    display.progress(f"waiting for another process, which decodes {left[0].name}", None)
                    wait_s = _LOOK_EVERY_S
    return [entry for entry in found.values() if entry is not None], [(s, failed[s]) for s in sources if s in failed]


@contextmanager
def _noted(failed: dict[Path, str], source: Path) -> Iterator[None]:
    """Note the reason of a `SourceError` instead of raising it."""
    try:
        yield
    except SourceError as error:
        failed[source] = error.reason


def warn_about_sources(
    what: str, skipped: Skipped, used: Sequence[tuple[Path, str | None]] = (), split: str | None = None
) -> None:
    """Warn once about sources that are not used, and about damage in those that are.

    Args:
        what: one of the sources.
        skipped: those that are not used.
        used: those that are, each with its damage, if any.
        split: the only part of the data that the skipped ones are not used in.
    """
    damaged = [(source, problem) for source, problem in used if problem]
    if skipped:
        part_of_data = f" as {split} data" if split is not None else ""
        log_once(logging.WARNING, f"{_of_them(skipped, what)} not used{part_of_data}:\n{list_sources(skipped)}")
    if damaged:
        part = "its intact part is" if len(damaged) == 1 else "their intact parts are"
        log_once(logging.WARNING, f"{_of_them(damaged, what)} damaged; {part} used:\n{list_sources(damaged)}")


def _of_them(sources: Sized, what: str) -> str:
    """`1 video is` or `2 videos are`."""
    return f"{count_text(len(sources), what)} {is_or_are(len(sources))}"


def list_sources(sources: Skipped) -> str:
    """One line per source and reason, for the first 20."""
    lines = [f"  {one_line(path)}: {reason}" for path, reason in sources[:_MAX_LISTED]]
    more = len(sources) - len(lines)
    return "\n".join([*lines, f"  and {more} more"] if more else lines)


def root_folder(given: str | None, name: str, layout: str) -> Path:
    """Return the folder of data set `name`. `layout`, for the error, explains where to get the data and where to put it.

    Raises:
        UsageError: no folder is given, or it does not exist.
    """
    if not given:
        raise UsageError(f"data '{name}' needs --data-root\n{layout}")
    if not Path(given).is_dir():
        raise UsageError(f"--data-root '{given}' is not a folder\n{layout}")
    return Path(given)


def cache_write_error(folder: Path, error: OSError) -> SvgError:
    """The error for a cache in `folder` that cannot be written."""
    return SvgError(
        f"cannot write decoded frames to the cache folder '{folder}': {error.strerror or error}\n"
        "  expected a writable folder with free space; choose another one with --cache or SVG_EDGE_CACHE"
    )
