"""The TensorRT engines that ONNX Runtime has cached: a folder for each graph, and a record of what is in it.

ONNX Runtime builds an engine that is not in its cache, for minutes, and its documentation has no option that forbids it. It
writes engines and timings straight to their places, and fails at what a killed process has left half-written. So what a session
has left in the folder of its graph is recorded there: a graph whose files are as recorded opens without a build, and anything
else is removed before a build.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from svg_common.files import atomic_file, file_sha256
from svg_runtime.backends.cache_lock import locked
from svg_runtime.backends.gpu_options import not_built
from svg_runtime.backends.nvidia.engine_files import engine_folders, file_stamp
from svg_runtime.backends.nvidia.folders import CacheFolders
from svg_runtime.bundle.manifest import Frozen, GraphSpec, Precision, Sha256
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import EngineError

_LOG = logging.getLogger(__name__)
_FOLDER = "ort-tensorrt"  # in a cache folder
_RECORD = "engines.json"
_LIMIT = 1 << 16  # bytes
_ENGINE = ".engine"
_SUFFIXES = (_ENGINE, ".profile")
_TIMINGS = "*.timing"  # the file name contains the GPU's architecture


class EnginesRecord(Frozen):
    """Content of the record."""

    onnx_sha256: Sha256  # of the bundle's graph
    max_batch: int = Field(ge=1)
    files: dict[str, Sha256]  # name -> hash, of engines and of the profiles without which they are built again


@dataclass(frozen=True)
class EngineFolder:
    """Where the engines of one graph are, or are to be written.

    Attributes:
        path: None: no folder can be written, and this process alone has them.
        max_batch: the largest batch that they take.
        is_ready: whether they are as recorded.
    """

    path: Path | None
    max_batch: int
    is_ready: bool


class OrtEngines:
    """The engines of one backend's graphs. A graph has a key, which is all that its engines depend on but their largest batch.

    Args:
        cache_dir: folder chosen by the user; None means $SVG_EDGE_CACHE, else the user's cache folder.
        max_batch: the largest batch that will be used; engines for larger ones serve, too.

    Raises:
        MissingExtraError: filelock is not installed.
    """

    def __init__(self, cache_dir: str | None, max_batch: int) -> None:
        self._folders = CacheFolders(cache_dir, extra="gpu")
        self._max_batch = max_batch
        self._found: dict[str, EngineFolder] = {}
        self._damage: dict[str, EngineError] = {}

    def folder(self, key: str) -> EngineFolder:
        """Return the folder of a graph: as recorded and for the smallest batch that is large enough, else a new one."""
        if key not in self._found:
            self._found[key] = self._find(key)
        return self._found[key]

    def check(self, keys: Mapping[str, str]) -> None:
        """Refuse graphs that ONNX Runtime would build engines for, or whose engines are damaged.

        Args:
            keys: file of a graph -> its key.

        Raises:
            EngineNotBuiltError: with the graphs.
            EngineError: an engine is not what was built, and no other replaces it.
        """
        lacking = [graph_file for graph_file, key in keys.items() if not self.folder(key).is_ready]
        missing = [graph_file for graph_file in lacking if keys[graph_file] not in self._damage]
        if missing:
            raise not_built(_FOLDER, missing)
        if lacking:
            raise self._damage[keys[lacking[0]]]

    @contextmanager
    def built(self, key: str, spec: GraphSpec) -> Iterator[None]:
        """Let ONNX Runtime build engines of a graph in its folder, which holds nothing else, and record them.

        Other processes that build wait meanwhile. Where the folder cannot be written, this process alone has them.
        """
        with ExitStack() as stack:
            root = None if self._folders.writable is None else self._folders.writable / _FOLDER
            if root is not None:
                with suppress(OSError):  # no locks here: another process may remove what is built, which is then built again
                    stack.enter_context(locked(root / ".lock", "another process is building engines on this machine"))
            self._found[key] = place = self._find(key)  # another process may have built them meanwhile
            if root is None or place.path is None or place.is_ready:
                yield
                return
            try:
                self._prepare(key, root, place.path)
            except OSError as error:
                _LOG.warning("the engines are not cached: %s: %s", error.strerror or error, place.path)
                self._found[key] = EngineFolder(None, self._max_batch, is_ready=False)
                yield
                return
            yield
            self._record(root, place.path, spec)

    def _find(self, key: str) -> EngineFolder:
        self._damage.pop(key, None)
        for folder in self._folders.readable:
            recorded = [(path, record) for path, record in _recorded(folder) if path.name.startswith(f"{key}-")]
            for path, record in sorted(recorded, key=lambda each: each[1].max_batch):
                if record.max_batch < self._max_batch:
                    continue
                try:
                    _check_files(path, record)
                except EngineError as error:
                    self._damage.setdefault(key, error)
                    continue
                return EngineFolder(path, record.max_batch, is_ready=True)
        writable = self._folders.writable
        new = None if writable is None else writable / _FOLDER / f"{key}-{self._max_batch}"
        return EngineFolder(new, self._max_batch, is_ready=False)

    def _prepare(self, key: str, root: Path, folder: Path) -> None:
        """Leave in the folder only the timings of earlier builds."""
        left = list(folder.iterdir()) if folder.is_dir() else []
        if key in self._damage:
            _LOG.warning("%s; building it again", self._damage[key])
        elif left:
            _LOG.info("an earlier build of '%s' did not end; building it again", folder)
        for file in left:
            file.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        for timings in root.glob(_TIMINGS):
            shutil.copyfile(timings, folder / timings.name)

    def _record(self, root: Path, folder: Path, spec: GraphSpec) -> None:
        """Record what a session has written, and keep its timings for all graphs. Without a record it is not seen as ready."""
        try:
            for timings in folder.glob(_TIMINGS):
                with atomic_file(root / timings.name) as partial:
                    shutil.copyfile(timings, partial)
                timings.unlink()
            files = {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.suffix in _SUFFIXES}
            if not any(name.endswith(_ENGINE) for name in files):  # it could not be written
                return
            record = EnginesRecord(onnx_sha256=spec.sha256, max_batch=self._max_batch, files=files)
            with atomic_file(folder / _RECORD) as partial:
                partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            _LOG.info("the engines are not recorded: %s: %s", error.strerror or error, folder)


def refuse_unrecorded(
    specs: Mapping[str, GraphSpec], graph_names: Sequence[str], precision: Precision, max_batch: int, cache_dir: str | None
) -> None:
    """Refuse graphs that have no record on any GPU, before a library is loaded.

    Raises:
        EngineNotBuiltError: with the graphs.
    """
    recorded = {record.onnx_sha256 for _, record in _large_enough(cache_dir, max_batch)}
    missing = [f"{precision}/{graph_name}.onnx" for graph_name in graph_names if specs[graph_name].sha256 not in recorded]
    if missing:
        raise not_built(_FOLDER, missing)


def ort_engine_stamps(bundle: Bundle, max_batch: int) -> list[str]:
    """Return what changes when an engine of the bundle's graphs is built, replaced or removed."""
    hashes = {spec.sha256 for variant in bundle.manifest.variants.values() for spec in variant.graphs.values()}
    return [
        f"{_FOLDER} {folder.name} {[file_stamp(folder / name) for name in sorted(record.files)]}"
        for folder, record in _large_enough(None, max_batch)
        if record.onnx_sha256 in hashes
    ]


def _large_enough(cache_dir: str | None, max_batch: int) -> Iterator[tuple[Path, EnginesRecord]]:
    for folder in engine_folders(cache_dir):
        yield from ((path, record) for path, record in _recorded(folder) if record.max_batch >= max_batch)


def _recorded(cache: Path) -> Iterator[tuple[Path, EnginesRecord]]:
    """Yield the folders of graphs in a cache folder that have a record."""
    for file in sorted((cache / _FOLDER).glob(f"*/{_RECORD}")):
        with suppress(OSError, ValidationError):
            if file.stat().st_size <= _LIMIT:
                yield file.parent, EnginesRecord.model_validate_json(file.read_bytes())


def _check_files(folder: Path, record: EnginesRecord) -> None:
    for name, sha256 in record.files.items():
        file = folder / name
        try:
            actual = file_sha256(file)
        except OSError as error:
            raise EngineError(f"the engine '{file}' cannot be read: {error.strerror}") from error
        if actual != sha256:
            raise EngineError(f"the engine '{file}' changed since it was built")
