"""What a fuzz target is, and the list of all of them. Their code is imported by the worker alone, which instruments it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

SEEDS = Path(__file__).with_name("seeds")  # seeds/TARGET/FILE
FINDINGS = Path(__file__).with_name("findings")  # findings/TARGET/FILE: inputs that once broke the rules

# The file in targets/ that defines each target.
MODULE_OF: dict[str, str] = {
    "manifest": "bundles",
    "onnx-interface": "bundles",
    "bundle-forecast": "bundles",
    "bundle-archive": "bundles",
    "checkpoint": "checkpoints",
    "reference-zip": "checkpoints",
    "reference-stream": "checkpoints",
    "reference-tar": "checkpoints",
    "srvp-checkpoint": "checkpoints",
    "model-settings": "checkpoints",
    "tfrecord": "data_sets",
    "bair-png": "data_sets",
    "kth-ranges": "data_sets",
    "idx": "data_sets",
    "frame-cache": "data_sets",
    "recipe": "recipes",
    "run-metrics": "recipes",
    "engine-record": "engines",
    "engine-cache": "engines",
    "decision": "engines",
    "address": "live",
    "live-config": "live",
    "video-container": "live",
    "video": "live",
}

# Readers that break the rules on purpose, for the tests of the fuzzer itself.
PLANTED = {f"planted-{fault}": "planted" for fault in ("crash", "hang", "memory", "code", "write", "error")}

# Of the inputs of a run, relative to 1 for the other targets: less for slow readers.
SHARES = {
    "bundle-forecast": 0.02,
    "checkpoint": 0.1,
    "reference-zip": 0.2,
    "reference-stream": 0.5,
    "srvp-checkpoint": 0.1,
    "model-settings": 0.1,
    "bair-png": 0.5,
    "onnx-interface": 0.5,
    "frame-cache": 0.1,
    "engine-cache": 0.2,
    "recipe": 0.5,
    "live-config": 0.5,
    "video": 0.05,
}

Mutate = Callable[[bytes, Random], bytes]


def as_it_is(data: bytes) -> Any:
    """The input itself, for readers of bytes."""
    return data


@dataclass(frozen=True)
class Target:
    """One reader of foreign bytes.

    Args:
        read: gives the reader what `place` returned. It may return, or raise an SvgError; anything else is a finding.
        place: puts the input where the reader looks for it, such as a file. It is not watched.
        mutate: knows the format, so that checksums and lengths stay right; None: libFuzzer's mutations alone.
    """

    read: Callable[[Any], object]
    place: Callable[[bytes], Any] = as_it_is
    mutate: Mutate | None = None


@dataclass(frozen=True)
class Finding:
    """An input that broke a rule: `kind` of error, `place` in the code where it came up, and the full text."""

    kind: str
    place: str
    text: str


def seed_files(name: str) -> list[Path]:
    """The seeds of a target, and the inputs that once broke the rules."""
    return sorted(file for folder in (SEEDS / name, FINDINGS / name) if folder.is_dir() for file in folder.iterdir())
