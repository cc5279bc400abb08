"""The folder of a recording: segments of video, a size limit, and its deletion. It is private: its mode is 0700."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from svg_adapt.recorded_source import RecordedSource
from svg_common.errors import UsageError
from svg_common.files import resolved, write_json
from svg_common.folder_lock import FolderLock
from svg_common.path_advice import shell_argument
from svg_train.run_folder import RECORDING, RECORDING_FACTS, RECORDING_FORMAT, RECORDING_FRAMES, STRIPS

_SEGMENT = re.compile(r"(\d{6,})\.mp4")
_UNFINISHED = re.compile(r"\.(?:\d{6,}\.[\w-]+\.mp4|recording\.[\w-]+\.json)")  # of atomic_file; left by a loss of power
_PICTURES = {
    STRIPS: re.compile(r"(?:step-\d{7,}|\.step-\d{7,}\.[\w-]+)\.(?:png|gif)"),
    "tensorboard": re.compile(r"events\.out\.tfevents\..*"),
}  # folder of a run -> files in it that show held-out frames, unfinished ones too


class Facts(BaseModel):
    """What is known of a recording, in its recording.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = RECORDING_FORMAT
    source: str  # without user, password and path of an address
    address: str | None = None  # salted hash of what `source` leaves out, but for user and password; earlier versions have none
    view: str = ""  # of it: see RecordedSource; earlier versions recorded whole pictures
    interval_s: float  # between its pictures
    recorded_s: float = 0.0  # all segments, those that gave way to the limit included: see KeptVideo for the others
    ended: bool = False  # the source has no more
    segments_s: dict[str, float] = Field(default_factory=dict)  # by file name; earlier versions have none
    reached_limit_bytes: int | None = None  # for which segments gave way last; earlier versions have none

    def has(self, seconds: float, in_progress_s: float = 0.0) -> bool:
        """Whether so much is recorded, with a segment in progress, or all that there is."""
        recorded_s = self.recorded_s + in_progress_s
        return self.ended or recorded_s > seconds - self.interval_s / 2  # their sum is not exact

    def require(self, folder: Path, source: RecordedSource, interval_s: float) -> None:
        """Refuse to go on with the recording in `folder` from another source, another view of it, or at another interval.

        Raises:
            UsageError: one of them differs.
        """
        advice = "go on with the same source, or choose another --out"
        if (self.source, self.interval_s) != (source.name, interval_s):
            raise UsageError(
                f"'{folder}' has a recording of {self.source} at {self.interval_s:g} s per picture, not of "
                f"{source.name} at {interval_s:g} s\n  {advice}"
            )
        if self.view != source.view:
            raise UsageError(
                f"'{folder}' has a recording with {_options(self.view)}, but now {_options(source.view)} were given\n"
                "  go on with the same options, or choose another --out"
            )
        if self.address is not None and not source.has_hash(self.address):
            raise UsageError(
                f"'{folder}' has a recording of another camera or stream at {self.source}: the rest of its address, "
                f"without user and password, is another one\n  {advice}"
            )


class Recording:
    """A recording in progress, or one to go on with.

    Segments are OUT/recording/000001.mp4 and so on. Each appears when it is complete, so that a loss of power costs
    only the one in progress. The oldest gives way when all together would exceed the limit.

    Args:
        folder: OUT/recording; it is made if it does not exist.
        source: where the pictures are from.
        interval_s: seconds between two pictures.
        limit_bytes: of all segments together.

    Raises:
        UsageError: what is there is another recording, or no recording.
        OSError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, source: RecordedSource, interval_s: float, limit_bytes: int) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes
        self.facts = read_facts(folder) or Facts(source=source.name, view=source.view, interval_s=interval_s)
        self.facts.require(folder, source, interval_s)
        if self.facts.address is None:
            self.facts = self.facts.model_copy(update={"address": source.salted_hash()})
        make_private(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        for file in _files(folder, _UNFINISHED):
            file.unlink()
        self._write()

    @property
    def segment_limit_bytes(self) -> int:
        """Size at which a segment ends, so that what gives way is a small part of the recording."""
        return self._limit_bytes // 10

    @property
    def segments(self) -> list[Path]:
        """All complete segments, the oldest first."""
        return segments_in(self.folder)

    @property
    def size_bytes(self) -> int:
        """Of all complete segments."""
        return sum(file.stat().st_size for file in self.segments)

    def next_segment(self) -> Path:
        """The path for another segment, once the oldest ones have made room for it."""
        self._make_room(self._limit_bytes // 8)  # the new one has its index, too
        segments = self.segments
        return self.folder / f"{segment_number(segments[-1]) + 1 if segments else 1:06d}.mp4"

    def add(self, segment: Path, seconds: float) -> None:
        """Count a segment that is complete. It may be larger than planned, as the encoder looks ahead: older ones give way."""
        segments_s = {**self.facts.segments_s, segment.name: seconds}
        self._update(recorded_s=self.facts.recorded_s + seconds, segments_s=segments_s)
        self._make_room(0)

    def finish(self) -> None:
        """The source has ended: there is nothing more to record."""
        self._update(ended=True)

    def restart(self) -> None:
        """Remove the segments: their source, a file, is read from its beginning again."""
        for file in self.segments:
            file.unlink()
        self._update(recorded_s=0.0, ended=False, segments_s={}, reached_limit_bytes=None)

    def _make_room(self, size_bytes: int) -> None:
        """Remove the oldest segments until `size_bytes` more do not exceed the limit."""
        sizes = {segment: segment.stat().st_size for segment in self.segments}
        excess = sum(sizes.values()) + size_bytes - self._limit_bytes
        if excess <= 0:
            return
        for segment, size in sizes.items():
            segment.unlink()
            excess -= size
            if excess <= 0:
                break
        kept = {segment.name for segment in self.segments}
        segments_s = {name: seconds for name, seconds in self.facts.segments_s.items() if name in kept}
        self._update(segments_s=segments_s, reached_limit_bytes=self._limit_bytes)

    def _update(self, **changed: object) -> None:
        self.facts = self.facts.model_copy(update=changed)
        self._write()

    def _write(self) -> None:
        write_json(self.folder / RECORDING_FACTS, self.facts.model_dump())


def _options(view: str) -> str:
    """The options of svg-train for a view: --flip, which is svg-live's, mirrors training data there."""
    return view.replace("--flip ", "--source-flip ") or "no options of the view"


def make_private(out: Path) -> None:
    """Make the folder of a run, if there is none, as private as its recording: its strips show pictures of it."""
    if not out.exists():
        folder = resolved(out)  # a link may lead to a folder that does not exist yet
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)


def read_facts(folder: Path) -> Facts | None:
    """The facts of the recording in `folder`; None if there is nothing.

    Raises:
        UsageError: the folder exists and is not a recording of svg-train.
    """
    if not folder.exists():
        return None
    try:
        facts = Facts.model_validate(json.loads((folder / RECORDING_FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        reason = "damaged" if isinstance(error, ValidationError) else "missing or damaged"
        raise UsageError(
            f"'{folder}' is not a recording of svg-train: its {RECORDING_FACTS} is {reason}\n  choose another --out"
        ) from error
    if facts.format != RECORDING_FORMAT:
        raise UsageError(
            f"'{folder}' is not a recording of svg-train: its {RECORDING_FACTS} has another format\n  choose another --out"
        )
    return facts


def segments_in(folder: Path) -> list[Path]:
    """All complete segments of the recording in `folder`, the oldest first."""
    return sorted(_files(folder, _SEGMENT), key=segment_number)


def frames_cache(folder: Path) -> Path:
    """Where the data set is to cache decoded frames of a recording: with it, so that they are private and deleted alike."""
    return folder / RECORDING_FRAMES


@dataclass(frozen=True)
class Deleted:
    """What was deleted, and what else is in the folder, or is a link beside it, and stays."""

    files: int
    size_bytes: int
    kept: list[Path]


def delete_recording(out: Path) -> Deleted:
    """Delete the recording of a run, its decoded frames, and the pictures of held-out frames that training made of it.

    Models, metrics and reports stay, and so does any file in the folder that svg-train did not write. No link below `out` is
    followed but that of the recording itself: svg-train makes none.

    Args:
        out: folder of the run.

    Raises:
        UsageError: it has no recording of svg-train.
        FolderInUseError: another process records or trains there.
        OSError: something cannot be deleted.
    """
    from svg_train.data.frame_cache import CACHE_FILE  # heavy: rich

    folder, lock = out / RECORDING, FolderLock(out)
    lock.hold()
    if read_facts(folder) is None:
        raise UsageError(
            f"'{out}' has no recording\n  expected the --out of a run with --source: a folder with {RECORDING}/ in it"
        )
    frames, drawn = folder / RECORDING_FRAMES, {out / name: pattern for name, pattern in _PICTURES.items()}
    beside = {place: pattern for place, pattern in {frames: CACHE_FILE, **drawn}.items() if _is_own_folder(place)}
    found = [*_files(folder, _SEGMENT), *_files(folder, _UNFINISHED)]
    found += [file for place, pattern in beside.items() for file in _files(place, pattern)]
    # The facts last: should this be interrupted, the rest can still be deleted.
    files = [*(file for file in found if not file.is_symlink()), folder / RECORDING_FACTS]
    size = sum(file.stat().st_size for file in files)
    for file in files[:-1]:
        file.unlink()
    if frames in beside and not any(frames.iterdir()):
        frames.rmdir()
    files[-1].unlink()
    others = [path for entry in folder.iterdir() for path in (entry.iterdir() if entry in beside else [entry])]
    if not others and not folder.is_symlink():
        folder.rmdir()
    return Deleted(len(files), size, kept=sorted([*others, *(place for place in drawn if place.is_symlink())]))


def how_to_delete(out: Path) -> str:
    """The command that deletes the recording of a run."""
    return f"svg-train --out {shell_argument(out)} --delete-recording"


def _is_own_folder(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink()


def _files(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    return (path for path in list(folder.iterdir()) if pattern.fullmatch(path.name) and path.is_file())


def segment_number(segment: Path) -> int:
    """The position of a segment in its recording, from 1."""
    return int(segment.stem)
