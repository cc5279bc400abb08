"""Engines are built once: kept in a cache folder, safe against a second process and against damage."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from svg_runtime.backends.tensorrt.engine import EngineKey, read_engine, record_of, write_engine
from svg_runtime.backends.tensorrt.folders import CacheFolders
from svg_runtime.errors import EngineError

_LOG = logging.getLogger(__name__)


class EngineCache:
    """Plans by key, in `<folder>/<library>/`.

    Args:
        configured: the user's choice of a folder; None takes $SVG_EDGE_CACHE, else the user's cache folder.
        library: the name of NVIDIA's library, which is the extra that has what is needed here.

    Attributes:
        folders: where they are.

    Raises:
        MissingExtraError: filelock is not installed.
    """

    def __init__(self, configured: str | None, library: str = "tensorrt-rtx") -> None:
        self.folders = CacheFolders(configured, library)

    def fetch(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """The plan for `key`: from the cache, or built and kept.

        Raises:
            EngineError: `build` failed.
        """
        plan = self.find(key)
        return self.make(key, build) if plan is None else plan

    def find(self, key: EngineKey, refused: Sequence[bytes] = ()) -> bytes | None:
        """The plan for `key` that is none of `refused`; None if there is none. A damaged one is logged and not taken."""
        for folder in self.folders.readable:
            plan = self._read(self._file(folder, key), key)
            if plan is not None and plan not in refused:
                return plan
        return None

    def make(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """The plan for `key`, which was not found: built and kept, or from another process that was faster.

        Raises:
            EngineError: `build` failed.
        """
        if self.folders.writable is None:
            return build()
        target = self._file(self.folders.writable, key)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.folders.locked(target, f"another process is building {target.name}"))
            except OSError as error:  # the folder is gone, or the file system knows no locks
                _LOG.warning("the engine is not cached: %s: %s", error.strerror or error, target)
                return build()
            with contextlib.suppress(EngineError):  # already logged
                plan = read_engine(target, key)  # another process may have built it meanwhile
                if plan is not None:
                    return plan
            return self._build(target, key, build)

    def forget(self, key: EngineKey) -> None:
        """Let the next `make` build, whatever is kept: a plan without its record is not used."""
        if self.folders.writable is not None:
            with contextlib.suppress(OSError):
                record_of(self._file(self.folders.writable, key)).unlink(missing_ok=True)

    def _build(self, target: Path, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        plan = build()
        try:
            write_engine(target, key, plan)
        except OSError as error:
            _LOG.warning("the engine is not cached: %s: %s", error.strerror or error, error.filename or target)
        return plan

    def _read(self, file: Path, key: EngineKey) -> bytes | None:
        try:
            return read_engine(file, key)
        except EngineError as error:
            _LOG.warning("%s; building it again", error)
            return None

    def _file(self, folder: Path, key: EngineKey) -> Path:
        return folder / key.nvidia_library / f"{key.digest()}.plan"
