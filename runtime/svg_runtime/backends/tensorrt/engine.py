"""Engines on disk: a plain plan file as the library serialized it, and beside it a JSON file that says what it is.

The same two files lie in a bundle's `engines` folder (built ahead of time) and in the user's cache (built on this machine).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from svg_common.files import atomic_file
from svg_runtime.bundle.manifest import Frozen, Precision, Sha256
from svg_runtime.errors import EngineError

BUNDLE_FOLDER = "engines"  # inside a bundle
_SIDECAR_LIMIT = 1 << 16  # bytes
_PLAN_LIMIT = 4 << 30  # bytes


class EngineKey(Frozen):
    """All that an engine depends on: it can be used where this is equal, see `serves`."""

    onnx_sha256: Sha256  # of the bundle's graph
    platform: str  # operating system and processor: an engine of another one does not load
    nvidia_library: str
    version: str
    gpu: str | None  # that it was tuned on, see GpuName.model; None when built ahead of time, for any of its compute capability
    compute_capabilities: tuple[str, ...]  # sm80, sm86, ...
    precision: Precision
    max_batch: int = Field(ge=1)  # the profile: every batch from 1 to this one
    workspace_gib: float | None
    flags: tuple[str, ...]

    def digest(self) -> str:
        """A file name for it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]

    def serves(self, other: EngineKey) -> bool:
        """Whether an engine with this key does what one with the other key would: it may be good for more GPUs and samples."""
        free = {name: getattr(other, name) for name in ("compute_capabilities", "max_batch", "gpu", "flags")}
        return (
            self.model_copy(update=free) == other
            and self.gpu in (None, other.gpu)
            and set(self.flags) >= set(other.flags)
            and set(self.compute_capabilities) >= set(other.compute_capabilities)
            and self.max_batch >= other.max_batch
        )


class EngineRecord(Frozen):
    """The JSON file beside a plan."""

    format: Literal["svg-engine"] = "svg-engine"
    schema_version: Literal[1] = 1
    key: EngineKey
    sha256: Sha256
    bytes: int = Field(ge=1)


def record_of(plan_file: Path) -> Path:
    """The JSON file beside a plan."""
    return plan_file.with_name(f"{plan_file.name}.json")


def write_engine(plan_file: Path, key: EngineKey, plan: bytes) -> None:
    """Write the plan, then its record: an interrupted write leaves a plan that its record does not fit, so it is not used.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    record = EngineRecord(key=key, sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan))
    with atomic_file(plan_file) as partial:
        partial.write_bytes(plan)
    with atomic_file(record_of(plan_file)) as partial:
        partial.write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def read_engine(plan_file: Path, wanted: EngineKey) -> bytes | None:
    """The plan in `plan_file` if it serves `wanted`; None if there is none.

    Raises:
        EngineError: it is there, but stale, foreign or damaged; the message says which.
    """
    try:
        record = _read_record(plan_file)
        if record is None:
            return None
        if not record.key.serves(wanted):
            raise EngineError(f"the engine '{plan_file}' is for {_difference(record.key, wanted)}")
        if not plan_file.is_file() or not plan_file.stat().st_size == record.bytes <= _PLAN_LIMIT:
            raise EngineError(f"the engine '{plan_file}' is missing or truncated")
        plan = plan_file.read_bytes()
    except OSError as error:
        raise EngineError(f"the engine '{plan_file}' cannot be read: {error.strerror}") from error
    if hashlib.sha256(plan).hexdigest() != record.sha256:
        raise EngineError(f"the engine '{plan_file}' changed since it was built")
    return plan


def find_engine(folder: Path, wanted: EngineKey) -> bytes | None:
    """The first engine in `folder` that serves `wanted`; None if there is none.

    Raises:
        EngineError: one that serves it by its record is damaged.
    """
    for sidecar in sorted(folder.glob("**/*.plan.json")):
        plan_file = sidecar.with_suffix("")
        try:
            record = _read_record(plan_file)
        except (EngineError, OSError):
            continue  # of no use, but perhaps another one is
        if record is not None and record.key.serves(wanted):
            return read_engine(plan_file, wanted)
    return None


def _read_record(plan_file: Path) -> EngineRecord | None:
    sidecar = record_of(plan_file)
    if not sidecar.is_file():
        return None
    if sidecar.stat().st_size > _SIDECAR_LIMIT:
        raise EngineError(f"'{sidecar}' is too large for an engine record")
    try:
        return EngineRecord.model_validate_json(sidecar.read_bytes())
    except ValidationError as error:
        raise EngineError(f"'{sidecar}' is not an engine record that this release can read") from error


def _difference(found: EngineKey, wanted: EngineKey) -> str:
    a, b = found.model_dump(), wanted.model_dump()
    return "; ".join(f"{name} {a[name]}, not {b[name]}" for name in a if a[name] != b[name])
