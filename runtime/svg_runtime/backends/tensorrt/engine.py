"""Engines on disk: a .plan file with the serialized engine, and beside it a JSON record that describes it.

A bundle's `engines` folder (built ahead of time) and the user's cache (built on this machine) hold the same two files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from svg_common.files import atomic_file
from svg_runtime.bundle.manifest import Frozen, Precision, Sha256
from svg_runtime.errors import EngineError

_SIDECAR_LIMIT = 1 << 16  # bytes
_ENGINE_LIMIT = 4 << 30  # bytes


class EngineKey(Frozen):
    """Everything that an engine depends on; `serves` decides whether it can be used."""

    onnx_sha256: Sha256  # of the bundle's graph
    platform: str  # operating system and CPU: engines do not load on others
    nvidia_library: str
    version: str
    gpu: str | None  # GpuName.model that it was tuned on; None: built ahead of time for all GPUs of its compute capability
    compute_capabilities: tuple[str, ...]  # sm80, sm86, ...
    precision: Precision
    max_batch: int = Field(ge=1)  # the profile: batches from 1 to this one
    workspace_gib: float | None
    flags: tuple[str, ...]

    def digest(self) -> str:
        """Hash of all fields, used as file name: 32 hex digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]

    def serves(self, other: EngineKey) -> bool:
        """Whether an engine with this key can replace one with the other key: it may cover more GPUs and samples."""
        free = {name: getattr(other, name) for name in ("compute_capabilities", "max_batch", "gpu", "flags")}
        return (
            self.model_copy(update=free) == other
            and self.gpu in (None, other.gpu)
            and set(self.flags) >= set(other.flags)
            and set(self.compute_capabilities) >= set(other.compute_capabilities)
            and self.max_batch >= other.max_batch
        )


class EngineRecord(Frozen):
    """Content of the JSON file beside an engine file."""

    format: Literal["svg-engine"] = "svg-engine"
    schema_version: Literal[1] = 1
    key: EngineKey
    sha256: Sha256
    bytes: int = Field(ge=1)


def record_of(engine_file: Path) -> Path:
    """Return the path of the JSON file beside an engine file."""
    return engine_file.with_name(f"{engine_file.name}.json")


def write_engine(engine_file: Path, key: EngineKey, engine_bytes: bytes) -> None:
    """Write the engine file, then its record: after an interrupted write the record does not match, and the engine is not used.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    record = EngineRecord(key=key, sha256=hashlib.sha256(engine_bytes).hexdigest(), bytes=len(engine_bytes))
    with atomic_file(engine_file) as partial:
        partial.write_bytes(engine_bytes)
    with atomic_file(record_of(engine_file)) as partial:
        partial.write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def read_engine(engine_file: Path, required: EngineKey) -> bytes | None:
    """Return the engine in `engine_file` if it serves `required`; None if the file does not exist.

    Raises:
        EngineError: the file exists, but is stale, foreign or damaged; the message says which.
    """
    try:
        record = _read_record(engine_file)
        if record is None:
            return None
        if not record.key.serves(required):
            raise EngineError(f"the engine '{engine_file}' is for {_difference(record.key, required)}")
        if not engine_file.is_file() or not engine_file.stat().st_size == record.bytes <= _ENGINE_LIMIT:
            raise EngineError(f"the engine '{engine_file}' is missing or truncated")
        engine_bytes = engine_file.read_bytes()
    except OSError as error:
        raise EngineError(f"the engine '{engine_file}' cannot be read: {error.strerror}") from error
    if hashlib.sha256(engine_bytes).hexdigest() != record.sha256:
        raise EngineError(f"the engine '{engine_file}' changed since it was built")
    return engine_bytes


def find_engine(folder: Path, required: EngineKey) -> bytes | None:
    """Return the first engine in `folder` that serves `required`, else None.

    Raises:
        EngineError: its record matches, but the engine file is damaged.
    """
    for engine_file, key in list_engines(folder):
        if key.serves(required):
            return read_engine(engine_file, required)
    return None


def list_engines(folder: Path) -> Iterator[tuple[Path, EngineKey]]:
    """Yield the engine files in `folder` and its folders that have a readable record, with their keys."""
    for sidecar in sorted(folder.glob("**/*.plan.json")):
        engine_file = sidecar.with_suffix("")
        with contextlib.suppress(EngineError, OSError):  # unusable, but another one may match
            record = _read_record(engine_file)
            if record is not None:
                yield engine_file, record.key


def _read_record(engine_file: Path) -> EngineRecord | None:
    sidecar = record_of(engine_file)
    if not sidecar.is_file():
        return None
    if sidecar.stat().st_size > _SIDECAR_LIMIT:
        raise EngineError(f"'{sidecar}' is too large for an engine record")
    try:
        return EngineRecord.model_validate_json(sidecar.read_bytes())
    except ValidationError as error:
        raise EngineError(f"'{sidecar}' is not an engine record that this release can read") from error


def _difference(actual: EngineKey, required: EngineKey) -> str:
    a, b = actual.model_dump(), required.model_dump()
    return "; ".join(f"{name} {a[name]}, not {b[name]}" for name in a if a[name] != b[name])
