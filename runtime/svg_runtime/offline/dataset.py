"""The folder of results: parts that appear whole or not at all, and what several processes agree on.

    OUT/settings.json               model, options and engine; another run with others is refused
    OUT/part-1-of-4-000001/         some videos of a shard: frames.parquet, events.parquet, videos.parquet
    OUT/part-1-of-4-000001/forecasts-ID.parquet     with --keep, per video
    OUT/.part-...                   a part in progress; after a kill it is removed, and its videos are forecast again
    OUT/.shard-1-of-4.lock          held by the process of this shard

A part is renamed into place with all its tables at once, so a video is done when it is in the videos of a part, and then all of
its rows are there. No shard writes another shard's videos, and two numbers of shards never write at the same time.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import BaseFileLock, FileLock, Timeout
from numpy.typing import NDArray

from svg_common.errors import FULL_DISK, SvgError, UsageError
from svg_common.files import atomic_directory, resolved, write_json
from svg_runtime.offline.engine import Engine
from svg_runtime.offline.one_video import VideoRows
from svg_runtime.offline.published_part import DoneVideo, done_videos
from svg_runtime.offline.schema import EVENTS, FRAMES, SCHEMA, VIDEOS, forecasts_schema
from svg_runtime.offline.shard import Shard

SETTINGS = "settings.json"
_ENGINE = "engine"  # among the settings
_LATER_SETTINGS = {"post_process": False}  # as they were before they could be chosen
_START_S = 60.0  # how long another process may take to start
_GROUP_BYTES = 32 << 20  # of forecasts in memory, and in a row group
_ADVICE = {  # what to do about an error
    **dict.fromkeys(FULL_DISK, "make room"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR), "see that you may write it"),
    **dict.fromkeys((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP), "switch file locking on for this file system"),
}
_NAME_OF_PART = re.compile(r"part-(\d+-of-\d+)-.+")
_OWN_NAME = re.compile(rf"\.?{_NAME_OF_PART.pattern}|\.start\.lock|\.shard-\d+-of-\d+\.lock|{re.escape(SETTINGS)}")


class DatasetInUseError(SvgError):
    """Another process writes the same shard, or another number of shards."""


class Dataset:
    """The results of one shard. Open it with `open_dataset`.

    Attributes:
        folder: of all results.
        scratch: for files that are needed only while they are worked on.
    """

    def __init__(self, folder: Path, shard: Shard, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.scratch = folder / f".part-{shard.name}-downloads"
        self._shard = shard
        self._settings = settings
        self._engine: Engine | None = None  # of this process

    def at(self, folder: Path) -> Dataset:
        """The same one by another path of its folder."""
        return Dataset(folder, self._shard, self._settings)

    def done(self) -> dict[str, DoneVideo]:
        """All videos that are done, of every shard, by their id.

        Raises:
            SvgError: something of a part is missing or damaged.
        """
        keeps_forecasts = self._settings.get("keep") is not None
        done: dict[str, DoneVideo] = {}
        for part in _parts(self.folder):
            done.update(done_videos(part, keeps_forecasts))
        return done

    def engine(self) -> Engine | None:
        """What computed the rows that are there; None: nothing yet, or it was not noted.

        Raises:
            UsageError: the settings are damaged.
        """
        known = _read_settings(self.folder / SETTINGS).get(_ENGINE)
        try:
            return None if known is None else Engine.from_json(dict(known))
        except (TypeError, ValueError) as error:
            raise _damaged(self.folder / SETTINGS, error) from error

    def agree_on_engine(self, engine: Engine) -> Engine:
        """Note what computes the rows, unless another process has done so.

        Returns:
            That of all rows of the folder.

        Raises:
            DatasetInUseError: others take too long.
            SvgError: it cannot be written.
        """
        self._engine = engine
        with _start_lock(self.folder):
            known = self.engine()
            if known is None:
                file = self.folder / SETTINGS
                write_json(file, {**_read_settings(file), _ENGINE: engine.as_json()})
        return known or engine

    @contextmanager
    def part(self, name: str | None = None) -> Iterator[Part]:
        """A new part, published at the end of the block if it has a video, else and on any error removed.

        Args:
            name: of the part in its shard; one of the same name is replaced. None: the next number.

        Raises:
            SvgError: it cannot be written.
        """
        target = self.folder / f"part-{self._shard.name}-{name or self._next_number()}"
        about = {"svg_edge": json.dumps(self._settings | ({} if self._engine is None else {_ENGINE: self._engine.as_json()}))}
        try:
            with suppress(_EmptyPartError), atomic_directory(target) as folder:
                part = Part(folder, about)
                yield part
                if not part.rows:
                    raise _EmptyPartError
                part.write()
        except OSError as error:
            raise _not_written(self.folder, error) from error

    def _next_number(self) -> str:
        before = [path.name.rsplit("-", 1)[1] for path in self.folder.glob(f"part-{self._shard.name}-*")]
        return f"{max((int(number) for number in before if number.isdecimal()), default=0) + 1:06d}"


class Part:
    """Videos that are published together."""

    def __init__(self, folder: Path, about: dict[str, str]) -> None:
        self._folder = folder
        self._about = about
        self.rows: list[VideoRows] = []

    @property
    def nbytes(self) -> int:
        """Memory that its rows take."""
        return sum(rows.frames.nbytes + rows.events.nbytes for rows in self.rows)

    def add(self, rows: VideoRows) -> None:
        """Add a video."""
        self.rows.append(rows)

    @contextmanager
    def forecasts(self, video_id: str, arrays: dict[str, tuple[int, ...]]) -> Iterator[Forecasts]:
        """Where the forecasts of one video go; on any error they are removed, and with `Forecasts.discard`.

        Args:
            video_id: of the video.
            arrays: name -> shape, of each forecast.
        """
        path = self._folder / f"forecasts-{video_id}.parquet"
        forecasts = Forecasts(path, video_id, forecasts_schema(arrays).with_metadata(self._about))
        try:
            yield forecasts
        except BaseException:
            forecasts.discard()
            raise
        finally:
            forecasts.close()

    def write(self) -> None:
        """Write the three tables; that of the frames with a row group per video."""
        frames = FRAMES.with_metadata(self._about)
        with pq.ParquetWriter(self._folder / "frames.parquet", frames, compression="zstd") as writer:
            for rows in self.rows:
                if rows.frames.num_rows:
                    table = rows.frames.replace_schema_metadata(self._about)
                    writer.write_table(table, row_group_size=table.num_rows)
        events = pa.concat_tables([EVENTS.empty_table(), *(rows.events for rows in self.rows)])
        videos = pa.Table.from_pylist([rows.video for rows in self.rows], VIDEOS)
        for name, table in {"events": events, "videos": videos}.items():
            pq.write_table(table.replace_schema_metadata(self._about), self._folder / f"{name}.parquet", compression="zstd")


class Forecasts:
    """Writes the forecasts of one video as they come."""

    def __init__(self, path: Path, video_id: str, schema: pa.Schema) -> None:
        self._path = path
        self._video_id = video_id
        self._schema = schema
        small = ["video_id", "frame"]
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=small, write_statistics=small)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, frame: int, arrays: dict[str, NDArray[np.float32]]) -> None:
        """Store the forecast from one frame."""
        cells = {name: array.astype(np.float16).tobytes() for name, array in arrays.items()}
        self._rows.append({"video_id": self._video_id, "frame": frame, **cells})
        self._bytes += sum(map(len, cells.values()))
        if self._bytes >= _GROUP_BYTES:
            self._store()

    def close(self) -> None:
        """Complete the file. May be called twice."""
        if self._rows:
            self._store()
        self._writer.close()

    def discard(self) -> None:
        """Remove the file."""
        self._rows = []
        self._writer.close()
        self._path.unlink(missing_ok=True)

    def _store(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []
        self._bytes = 0


def own_paths(folder: Path) -> list[Path]:
    """What only `open_dataset` may write in a folder of results: the settings, and the parts that are there."""
    return [folder / SETTINGS, *_parts(folder)]


def is_own_name(folder: Path, path: Path) -> bool:
    """Whether `path` is, or is below, what `open_dataset` may make in this folder, now or later: a part, or a lock.

    Raises:
        OSError: symbolic links go round in a circle.
    """
    root, target = resolved(folder), resolved(path)
    return root in target.parents and _OWN_NAME.fullmatch(target.relative_to(root).parts[0]) is not None


def _parts(folder: Path) -> list[Path]:
    """The parts that are there; a file of the user, such as part-1.json, is none."""
    return sorted(path for path in folder.glob("part-*") if _NAME_OF_PART.fullmatch(path.name) and path.is_dir())


@contextmanager
def open_dataset(folder: Path, settings: dict[str, Any], shard: Shard) -> Iterator[Dataset]:
    """Open the folder of results for one shard, and keep other processes of the same shard out.

    What a killed process of this number of shards, or of another one, left unfinished is removed.

    Args:
        folder: is made if it does not exist.
        settings: what determines the rows; must be those of all earlier runs, but for `model`, a name of the same bundle.
        shard: that this process writes.

    Raises:
        DatasetInUseError: another process writes this shard, or another number of shards.
        UsageError: the folder has results of other settings.
        SvgError: it cannot be made or written.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_written(folder, error) from error
        with _start_lock(folder):
            _refuse_other_shards(folder, shard)
            _remove_unfinished(folder)  # before the own lock: this process would be taken for another one
            held.enter_context(_locked(folder, shard.name))
            _agree_on(folder, settings, shard)
        dataset = Dataset(folder, shard, settings)
        try:
            yield dataset
        finally:
            shutil.rmtree(dataset.scratch, ignore_errors=True)


@contextmanager
def _start_lock(folder: Path) -> Iterator[None]:
    """Hold the lock under which processes of all shards agree on what they do."""
    try:
        with _file_lock(folder / ".start.lock", timeout_s=_START_S):
            yield
    except OSError as error:
        if isinstance(error, Timeout):
            raise DatasetInUseError(f"another process takes long to open '{folder}'\n  try again") from error
        raise _not_written(folder, error) from error


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of a shard; the operating system releases it when the process ends, however it ends."""
    lock = _file_lock(folder / f".shard-{name}.lock", timeout_s=0)
    try:
        lock.acquire()
    except OSError as error:
        if not isinstance(error, Timeout):
            raise _not_written(folder, error) from error
        raise DatasetInUseError(
            f"shard {name.replace('-of-', '/')} of '{folder}' is being written by another process\n"
            "  wait for it, or give each process a shard of its own: --shard 1/2 and --shard 2/2"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _file_lock(file: Path, timeout_s: float) -> BaseFileLock:
    """A lock of the operating system. filelock's substitute for file systems without any would outlive a killed process."""
    return FileLock(file, timeout=timeout_s, fallback_to_soft=False)


def _refuse_other_shards(folder: Path, shard: Shard) -> None:
    """Two numbers of shards at the same time would forecast videos twice."""
    for name in _being_written(folder):
        number, _, count = name.partition("-of-")
        if count != str(shard.count):
            raise DatasetInUseError(
                f"shard {number}/{count} of '{folder}' is being written by another process, "
                f"and this is shard {shard.number}/{shard.count}\n"
                f"  wait for it, or take one of its {count} shards: --shard 1/{count} to --shard {count}/{count}"
            )


def _being_written(folder: Path) -> Iterator[str]:
    """Names of the shards whose locks are held, by this process or by others."""
    for file in folder.glob(".shard-*-of-*.lock"):
        name = file.name.removeprefix(".shard-").removesuffix(".lock")
        try:
            with _locked(folder, name):
                pass
        except DatasetInUseError:
            yield name


def _remove_unfinished(folder: Path) -> None:
    """Remove parts in progress whose processes are gone."""
    for path in folder.glob(".part-*-of-*-*"):
        found = _NAME_OF_PART.fullmatch(path.name.removeprefix("."))
        if found is None:
            continue
        with suppress(DatasetInUseError), _locked(folder, found[1]):
            shutil.rmtree(path, ignore_errors=True)  # a download that was left alone may still be writing


def _agree_on(folder: Path, settings: dict[str, Any], shard: Shard) -> None:
    """Write the settings, or compare them with those that are there, if anything depends on these."""
    file = folder / SETTINGS
    asked = json.loads(json.dumps({"schema": SCHEMA, **settings}))
    if not file.exists():
        if _parts(folder):
            raise UsageError(f"'{folder}' has parts but no {SETTINGS}\n  choose another --out")
        write_json(file, asked)
        return
    known = _read_settings(file)
    known = {name: value for name, value in _LATER_SETTINGS.items() if name in asked} | known
    own = ("model", _ENGINE)  # one is only a name, the other is compared when it is open
    differing = [name for name in {**known, **asked} if name not in own and known.get(name) != asked.get(name)]
    if not differing:
        return
    is_alone = set(_being_written(folder)) <= {shard.name}
    if is_alone and not _parts(folder):  # of a run that was refused when its model was open
        write_json(file, asked)
        return
    if "schema" in differing:
        raise UsageError(
            f"'{folder}' has results of another version of svg-edge: {known.get('schema')} there, {SCHEMA} now\n"
            "  choose another --out"
        )
    lines = [f"{name}: {known.get(name)} there, {asked.get(name)} now" for name in differing]
    raise UsageError(
        f"'{folder}' has results of other settings:\n  "
        + "\n  ".join(lines)
        + "\n  choose another --out, or give the same model and options"
    )


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UsageError:
    return UsageError(f"'{file}' is damaged: {error}\n  choose another --out")


def _not_written(folder: Path, error: OSError) -> SvgError:
    place = os.fsdecode(error.filename) if error.filename else folder
    advice = _ADVICE.get(error.errno or 0)
    return SvgError(
        f"cannot write '{place}': {error.strerror or error}\n"
        f"  what was there before is complete; {advice + ', and ' if advice else ''}run the same command again"
    )


class _EmptyPartError(Exception):
    """No video was finished."""
