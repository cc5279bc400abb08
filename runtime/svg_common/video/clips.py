"""What to read from a file or folder: videos, and sequences of picture files with the time of each picture.

The numbers in the names of picture files are their time: a missing number is a picture that was lost, not a faster motion.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

from svg_common.errors import SvgError, UsageError
from svg_common.files import refuse_pipe
from svg_common.printable import one_line
from svg_common.video.picture_clock import clock_numbers, read_clock
from svg_common.video.reader import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))
_NUMBER = re.compile(r"(\d+)", re.ASCII)
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # of a link
_OF_ROOT = "lost+found"  # of every disk with ext4; it has no videos
_Identity = Path | tuple[int, int]


class FolderError(SvgError):
    """A folder cannot be read."""


@dataclass(frozen=True)
class Clip:
    """A video file, or the picture files of one sequence.

    Attributes:
        paths: the video, or the pictures in order.
        is_video: which of the two.
        positions: of each picture in the sequence, in picture intervals, increasing from 0.
    """

    paths: tuple[Path, ...]
    is_video: bool
    positions: tuple[float, ...] = (0.0,)

    @property
    def name(self) -> Path:
        """The file, or the folder of several pictures."""
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent


def find_clips(path: Path, nested: bool = True) -> list[Clip]:
    """List the clips in `path`, a file or a folder, in natural order (`frame2` before `frame10`).

    A clip whose every file is reachable under another name, too, by a link of any kind, counts once. Within a sequence, a link
    is a picture like any other: it may stand for one that is shown again. The list is empty when a folder holds neither videos
    nor pictures. `no_files` names what cannot be read in it.

    Args:
        path: the file or folder.
        nested: also search all folders in a folder.

    Raises:
        UsageError: it does not exist, or is a pipe or a device.
        FolderError: it is a folder that cannot be read.
    """
    if not path.exists():
        raise UsageError(f"'{path}' does not exist\n  expected a video, a picture, or a folder of these")
    refuse_pipe(path)
    if path.is_dir():
        try:
            return _clips_of_folder(path, nested, seen={path.resolve()})
        except OSError as error:
            raise FolderError(
                f"cannot read the folder '{one_line(path)}': {error.strerror}\n"
                "  check the rights to it, and the disk or network that it is on"
            ) from error
    if not path.is_file():
        raise UsageError(f"'{path}' is a device, not a file\n  expected a video, a picture, or a folder of these")
    return [Clip((path,), is_video=path.suffix.lower() not in IMAGE_SUFFIXES)]


def no_files(folder: Path) -> list[tuple[Path, str]]:
    """List what `find_clips` leaves out of a folder, and why: folders that cannot be read, and those of `not_readable`.

    Of the folders, only lost+found is not named, which root alone may read.
    """
    if not folder.is_dir():
        return []
    named: list[Path] = []
    folders_not_read: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        if os.path.basename(error.filename) != _OF_ROOT:
            folders_not_read.append((Path(error.filename), f"a folder that cannot be read: {error.strerror}"))

    seen: set[_Identity] = {folder.resolve()}
    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and _is_new(Path(place, name), seen)]
        named += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    return not_readable(named) + folders_not_read


def not_readable(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """List those of `paths` that have a video's name but are no files and no folders, and why.

    They are broken links, pipes and devices, or have gone, or lie in a folder that may not be searched.
    """
    named = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    return [(path, reason) for path in named if (reason := _why_not_readable(path)) is not None]


def _why_not_readable(path: Path) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        leads_nowhere = error.errno in _LEADS_NOWHERE and os.path.islink(path)
        return "a link that leads to no file" if leads_nowhere else str(error.strerror)
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "a pipe or a device, not a file"


def split_into_sequences(files: Sequence[Path]) -> list[Clip]:
    """Group picture files that are numbered alike into sequences: views and sizes of the same scene are not one film.

    The counter is a date and time, else the number in the name that has most values; names that differ in anything else but
    their suffix belong to different sequences. Single pictures that are named otherwise, such as a cover or a copy, are on
    their own. Files that cannot be grouped so are one sequence in the order given.

    Args:
        files: picture files of one folder in natural order.
    """
    alike: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        alike[len(_parts(file.stem))].append(file)
    main = max(alike, key=lambda count: (len(alike[count]), count))
    if main == 1 or 2 * len(alike[main]) <= len(files):
        return [_in_order(files)]
    by_first = {members[0]: members for members in alike.values()}
    return [clip for file in files if file in by_first for clip in _sequences(by_first[file])]


def _sequences(files: Sequence[Path]) -> list[Clip]:
    """The sequences of files whose names have equally many numbers."""
    clocks = [read_clock(file.stem.lower()) for file in files]
    times = [clock for clock in clocks if clock is not None]
    if len(times) == len(files) and len({(time.seconds, time.part) for time in times}) > 1:
        timed = [(time.rest, file, time) for time, file in zip(times, files, strict=True)]
        return _grouped(timed, clock_numbers) or [_in_order(files)]
    counter = _counter_place(files)
    if counter is None:
        return [_in_order(files)]
    named = []
    for file in files:
        parts = _parts(file.stem)
        named.append((tuple(part for place, part in enumerate(parts) if place != counter), file, int(parts[counter])))
    return _grouped(named, list) or [_in_order(files)]


def _grouped(named: Sequence[tuple[Any, Path, Any]], numbers_of: Callable[[list[Any]], list[int]]) -> list[Clip]:
    """One clip per name without its counter; none if that leaves a file alone, unless it is a copy by its counter.

    Args:
        named: per file its name without the counter, the file, and the counter.
        numbers_of: turns the counters of one clip into numbers.
    """
    groups: dict[Any, list[tuple[Path, Any]]] = defaultdict(list)
    for rest, file, counter in named:
        groups[rest].append((file, counter))
    apart: list[list[tuple[Path, Any]]] = []
    for members in groups.values():
        twice = len(set(numbers_of([counter for _, counter in members]))) < len(members)
        apart += _by_suffix(members) if twice else [members]
    films = [members for members in apart if len(members) > 1]
    taken = set(numbers_of([counter for members in films for _, counter in members])) if films else set()
    alone = [counter for members in apart if len(members) == 1 for _, counter in members]
    if alone and not taken.issuperset(numbers_of(alone)):
        return []
    return [_numbered([file for file, _ in members], numbers_of([counter for _, counter in members])) for members in apart]


def _by_suffix(members: Sequence[tuple[Path, Any]]) -> list[list[tuple[Path, Any]]]:
    suffixes: dict[str, list[tuple[Path, Any]]] = defaultdict(list)
    for file, counter in members:
        suffixes[file.suffix.lower()].append((file, counter))
    return list(suffixes.values())


def _numbered(files: Sequence[Path], numbers: Sequence[int]) -> Clip:
    order = sorted(range(len(files)), key=lambda place: numbers[place])
    return Clip(tuple(files[place] for place in order), False, _positions([numbers[place] for place in order]))


def _in_order(files: Sequence[Path]) -> Clip:
    return Clip(tuple(files), False, tuple(map(float, range(len(files)))))


def _clips_of_folder(folder: Path, nested: bool, seen: set[_Identity]) -> list[Clip]:
    """The clips of one folder and then those of the folders in it. `seen`: what was found before, by its `_identity`.

    Raises:
        OSError: the folder cannot be read.
    """
    entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=_name_order)
    # Not Path.is_file and is_dir, which raise an error of a link into a folder that may not be searched.
    files = [entry for entry in entries if _is_picture_file(entry) and os.path.isfile(entry)]
    clips: list[Clip] = []
    for is_video, group in groupby(files, key=lambda file: file.suffix.lower() in VIDEO_SUFFIXES):
        members = list(group)
        clips += [Clip((member,), True) for member in members] if is_video else split_into_sequences(members)
    clips = _without_copies(clips, seen)
    for entry in entries if nested else ():
        if os.path.isdir(entry) and _is_new(entry, seen):
            with suppress(OSError):  # `no_files` names it
                clips += _clips_of_folder(entry, nested, seen)
    return clips


def _without_copies(clips: Sequence[Clip], seen: set[_Identity]) -> list[Clip]:
    """Those with a file that was not seen before. Sequences come first: a link to one of their pictures is not a clip."""
    by_length = sorted(clips, key=lambda clip: -len(clip.paths))
    new = [sum(_is_new(path, seen) for path in clip.paths) for clip in by_length]
    kept = {id(clip) for clip, count in zip(by_length, new, strict=True) if count}
    return [clip for clip in clips if id(clip) in kept]


def _is_new(entry: Path, seen: set[_Identity]) -> bool:
    identity = _identity(entry)
    known = identity in seen
    seen.add(identity)
    return not known


def _identity(entry: Path) -> _Identity:
    """What all names of a file or folder have in common: the real path, or, of a file with hard links, device and inode."""
    with suppress(OSError):  # it has gone meanwhile
        state = entry.stat()
        # One link has one real path, and some file systems number their files anew, or all of them 0.
        if stat.S_ISREG(state.st_mode) and state.st_nlink > 1 and state.st_ino:
            return state.st_dev, state.st_ino
    return entry.resolve()


def _is_picture_file(path: Path) -> bool:
    return path.suffix.lower() in {*VIDEO_SUFFIXES, *IMAGE_SUFFIXES}


def _parts(name: str) -> list[str]:
    """The name as text, number, text, ..., text: every second part is a number."""
    return _NUMBER.split(name.lower())


def _name_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(_parts(path.name))]


def _counter_place(files: Sequence[Path]) -> int | None:
    """Which part of the names, which have equally many, counts the pictures; None if no number does."""
    names = [_parts(file.stem) for file in files]
    values = {place: len({name[place] for name in names}) for place in range(1, len(names[0]), 2)}
    counter = max(values, key=lambda place: (values[place], place), default=None)
    return counter if counter is not None and values[counter] > 1 else None


def _positions(numbers: Sequence[int]) -> tuple[float, ...]:
    """Positions of pictures in their sequence from their numbers, which may count by more than one."""
    distances = [later - earlier for earlier, later in pairwise(numbers)]
    if min(distances, default=0) < 1:  # such as 1 and 01
        return tuple(map(float, range(len(numbers))))
    unit = median_low(distances)
    return tuple((number - numbers[0]) / unit for number in numbers)
