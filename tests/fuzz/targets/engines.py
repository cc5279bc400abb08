"""Files beside engines: their records, in a bundle and in the cache, and what TensorRT may reuse on the same GPU."""

from __future__ import annotations

import json
from pathlib import Path

from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.nvidia.folders import CachedBlob, CacheFolders
from svg_runtime.backends.tensorrt.engine import EngineKey, find_engine, read_engine
from svg_runtime.bench.calibrate import read_decision
from svg_runtime.calibration.decisions import load_decision
from tests.fuzz.mutations import mutate_json
from tests.fuzz.scratch import scratch_file, scratch_folder
from tests.fuzz.target import SEEDS, Target

_ENGINE = b"an engine"
_KEY = EngineKey.model_validate_json(json.dumps(json.loads((SEEDS / "engine-record" / "bundle.json").read_bytes())["key"]))


def place_record(data: bytes) -> Path:
    scratch_file("engines/step.plan", _ENGINE)
    return scratch_file("engines/step.plan.json", data).with_suffix("")


def read_record(engine_file: Path) -> None:
    """As from a bundle, then as from the cache."""
    found = find_engine(engine_file.parent, _KEY)
    assert found in (None, _ENGINE)
    assert read_engine(engine_file, _KEY) in (None, _ENGINE)


def place_blob(data: bytes) -> CachedBlob:
    gpu = GpuName(index=0, name="NVIDIA GPU", compute_capability="sm89", multiprocessors=46)
    blob = CachedBlob(
        folders=CacheFolders(str(scratch_folder()), "tensorrt-rtx"),
        library="tensorrt-rtx",
        version="1.7",
        gpu=gpu,
        kind="timings",
    )
    blob.save(b"placeholder")
    for file in scratch_folder().glob("tensorrt-rtx/*.timings"):
        file.write_bytes(data)
    return blob


def place_decision(data: bytes) -> Path:
    scratch_file("cache/calibration/decision.json", data)
    return scratch_file("decision.json", data)


def read_decision_everywhere(file: Path) -> None:
    """As from another machine, then as from the cache."""
    try:
        read_decision(file)
    finally:
        load_decision("decision")


TARGETS = {
    "engine-record": Target(read=read_record, place=place_record, mutate=mutate_json),
    "engine-cache": Target(read=CachedBlob.load, place=place_blob),
    "decision": Target(read=read_decision_everywhere, place=place_decision, mutate=mutate_json),
}
