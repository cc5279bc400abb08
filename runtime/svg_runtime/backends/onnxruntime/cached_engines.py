"""Records of the TensorRT engines that ONNX Runtime has cached.

ONNX Runtime builds an engine that is not in its cache, for minutes, and its documentation has no option that forbids it. So
what a session has left in the cache folder of its graph is recorded there, and a graph whose files are as recorded opens
without a build.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import Field, ValidationError

from svg_common.cache import cache_folder
from svg_common.errors import SvgError
from svg_common.files import atomic_file, file_sha256
from svg_runtime.backends.gpu_options import not_built
from svg_runtime.backends.nvidia.engine_files import file_stamp
from svg_runtime.bundle.manifest import Frozen, GraphSpec, Precision, Sha256
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import EngineError

_LOG = logging.getLogger(__name__)
_RECORD = "engines.json"
_LIMIT = 1 << 16  # bytes
_ENGINE = ".engine"
_SUFFIXES = (_ENGINE, ".profile")


class EnginesRecord(Frozen):
    """Content of the record."""

    onnx_sha256: Sha256  # of the bundle's graph
    max_batch: int = Field(ge=1)
    files: dict[str, Sha256]  # name -> hash, of engines and of the profiles without which they are built again


def ort_engines_root(cache_dir: str | None) -> Path:
    """Return the folder whose folders hold the engines of a graph each.

    Raises:
        SvgError: the user has no cache folder.
    """
    return cache_folder(cache_dir) / "ort-tensorrt"


def record_engines(folder: Path, spec: GraphSpec, max_batch: int) -> None:
    """Record the engines in `folder` after a session of the graph has opened. Without a record they are not seen as ready."""
    try:
        files = {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.suffix in _SUFFIXES}
        if not any(name.endswith(_ENGINE) for name in files):  # it could not be written
            return
        record = EnginesRecord(onnx_sha256=spec.sha256, max_batch=max_batch, files=files)
        with atomic_file(folder / _RECORD) as partial:
            partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        _LOG.info("the engines are not recorded: %s: %s", error.strerror or error, folder)


def check_engines(folders: Mapping[str, Path]) -> None:
    """Refuse graphs that ONNX Runtime would build engines for, or whose engines are damaged.

    Args:
        folders: file of a graph -> folder of its engines.

    Raises:
        EngineNotBuiltError: with the graphs.
        EngineError: an engine is not what was built.
    """
    records = {graph_file: _read(folder) for graph_file, folder in folders.items()}
    missing = [graph_file for graph_file, record in records.items() if record is None]
    if missing:
        raise not_built("ort-tensorrt", missing)
    for graph_file, record in records.items():
        for name, sha256 in record.files.items() if record is not None else ():
            _check_engine(folders[graph_file] / name, sha256)


def refuse_unrecorded(
    specs: Mapping[str, GraphSpec], graph_names: Sequence[str], precision: Precision, max_batch: int, cache_dir: str | None
) -> None:
    """Refuse graphs that have no record on any GPU, before a library is loaded.

    Raises:
        EngineNotBuiltError: with the graphs.
    """
    recorded = {record.onnx_sha256 for _, record in _records(cache_dir, max_batch)}
    missing = [f"{precision}/{graph_name}.onnx" for graph_name in graph_names if specs[graph_name].sha256 not in recorded]
    if missing:
        raise not_built("ort-tensorrt", missing)


def ort_engine_stamps(bundle: Bundle, max_batch: int) -> list[str]:
    """Return what changes when an engine of the bundle's graphs is built, replaced or removed."""
    hashes = {spec.sha256 for variant in bundle.manifest.variants.values() for spec in variant.graphs.values()}
    return [
        f"ort-tensorrt {folder.name} {[file_stamp(folder / name) for name in sorted(record.files)]}"
        for folder, record in _records(None, max_batch)
        if record.onnx_sha256 in hashes
    ]


def _records(cache_dir: str | None, max_batch: int) -> Iterator[tuple[Path, EnginesRecord]]:
    with suppress(SvgError):
        for file in sorted(ort_engines_root(cache_dir).glob(f"*/{_RECORD}")):
            record = _read(file.parent)
            if record is not None and record.max_batch == max_batch:
                yield file.parent, record


def _read(folder: Path) -> EnginesRecord | None:
    file = folder / _RECORD
    try:
        return EnginesRecord.model_validate_json(file.read_bytes()) if file.stat().st_size <= _LIMIT else None
    except (OSError, ValidationError):
        return None


def _check_engine(file: Path, sha256: str) -> None:
    try:
        actual = file_sha256(file)
    except OSError as error:
        raise EngineError(f"the engine '{file}' cannot be read: {error.strerror}") from error
    if actual != sha256:
        raise EngineError(f"the engine '{file}' changed since it was built")
