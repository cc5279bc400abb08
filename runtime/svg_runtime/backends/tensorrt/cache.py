"""A cache folder for engines, safe against a second process and against damage."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from svg_runtime.backends.cache_lock import locked
from svg_runtime.backends.nvidia.folders import CacheFolders
from svg_runtime.backends.tensorrt.engine import EngineKey, list_engines, read_engine, record_of, write_engine
from svg_runtime.errors import EngineError

_LOG = logging.getLogger(__name__)


class EngineCache:
    """Engine files by key, in `<folder>/<library>/`.

    Args:
        configured: folder chosen by the user; None means $SVG_EDGE_CACHE, else the user's cache folder.
        library: name of NVIDIA's library, and of the pip extra that installs filelock.

    Attributes:
        folders: the folders to read and to write.

    Raises:
        MissingExtraError: filelock is not installed.
    """

    def __init__(self, configured: str | None, library: str = "tensorrt-rtx") -> None:
        self.folders = CacheFolders(configured, library)

    def fetch(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """Return the engine that was built for exactly this `key` from the cache, or build and cache it.

        Raises:
            EngineError: `build` failed.
        """
        engine_bytes = self._first(self._built_for(key), key)
        return self.make(key, build) if engine_bytes is None else engine_bytes

    def find(self, key: EngineKey, rejected: Sequence[bytes] = (), rebuilds: bool = True) -> bytes | None:
        """Return a cached engine that serves `key` and is not in `rejected`, else None.

        Damaged ones are logged and skipped, where the caller `rebuilds` them.

        Raises:
            EngineError: one is damaged, none replaces it, and it is not to be built again.
        """
        return self._first(self._serving(key), key, rejected, rebuilds)

    def make(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """Build and cache the engine for `key`, unless another process has done so meanwhile.

        Raises:
            EngineError: `build` failed.
        """
        if self.folders.writable is None:
            return build()
        engine_file = self._file(self.folders.writable, key)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(engine_file.with_suffix(".lock"), f"another process is building {engine_file.name}"))
            except OSError as error:  # the folder is gone, or the file system does not support locks
                _LOG.warning("the engine is not cached: %s: %s", error.strerror or error, engine_file)
                return build()
            with contextlib.suppress(EngineError):  # already logged
                engine_bytes = read_engine(engine_file, key)  # another process may have built it meanwhile
                if engine_bytes is not None:
                    return engine_bytes
            return self._build(engine_file, key, build)

    def forget(self, key: EngineKey) -> None:
        """Make the next `make` build again, by removing the record without which an engine file is not used."""
        if self.folders.writable is not None:
            with contextlib.suppress(OSError):
                record_of(self._file(self.folders.writable, key)).unlink(missing_ok=True)

    def _build(self, engine_file: Path, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        engine_bytes = build()
        try:
            write_engine(engine_file, key, engine_bytes)
        except OSError as error:
            _LOG.warning("the engine is not cached: %s: %s", error.strerror or error, error.filename or engine_file)
        return engine_bytes

    def _first(
        self, engine_files: Iterable[Path], key: EngineKey, rejected: Sequence[bytes] = (), rebuilds: bool = True
    ) -> bytes | None:
        """Return the first engine of these that is neither damaged nor rejected."""
        found: bytes | None = None
        damaged: list[EngineError] = []
        for engine_file in engine_files:
            try:
                engine_bytes = read_engine(engine_file, key)
            except EngineError as error:
                damaged.append(error)
                continue
            if engine_bytes is not None and engine_bytes not in rejected:
                found = engine_bytes
                break
        if damaged and found is None and not rebuilds:
            raise damaged[0]
        for damage in damaged:
            _LOG.warning("%s; %s", damage, "building it again" if found is None else "ignoring it")
        return found

    def _serving(self, key: EngineKey) -> Iterator[Path]:
        """Yield the files of engines for exactly `key`, then of those for more GPUs or samples.

        The fewest samples come first: an engine is tuned for the most that it takes.
        """
        yield from self._built_for(key)
        built_for = self._built_for(key)
        listed = [each for folder in self.folders.readable for each in list_engines(folder / key.nvidia_library)]
        more = [(other.max_batch, engine_file) for engine_file, other in listed if other.serves(key)]
        yield from (engine_file for _, engine_file in sorted(more) if engine_file not in built_for)

    def _built_for(self, key: EngineKey) -> list[Path]:
        return [self._file(folder, key) for folder in self.folders.readable]

    def _file(self, folder: Path, key: EngineKey) -> Path:
        return folder / key.nvidia_library / f"{key.digest()}.plan"
