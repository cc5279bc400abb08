"""Fuzzes one target in this process, with coverage from Atheris: python -m tests.fuzz.worker TARGET --out FOLDER [...].

An input that breaks a rule is saved, and the run goes on. A crash or a hang ends the process: libFuzzer saves the input.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import mmap
import os
import struct
import sys
import time
import warnings
from pathlib import Path
from random import Random

import atheris

from tests.fuzz.guards import Guard
from tests.fuzz.target import MODULE_OF, PLANTED, Finding, Target, seed_files

HANG_S = 5
PROJECT = ("svg_common", "svg_runtime", "svg_train", "svg_export", "svg_eval")
_MEMORY_EXIT = 77


def load_target(name: str) -> Target:
    """Import a target and the readers behind it, instrumented."""
    with atheris.instrument_imports(include=list(PROJECT)):
        module = importlib.import_module(f"tests.fuzz.targets.{(MODULE_OF | PLANTED)[name]}")
    target = module.TARGETS[name]
    assert isinstance(target, Target)
    return target


class Worker:
    """Feeds inputs to a target, and keeps the count and the findings in files that survive a crash."""

    def __init__(self, target: Target, guard: Guard, out: Path) -> None:
        self._target = target
        self._guard = guard
        self._out = out
        self._known: set[tuple[str, str]] = set()
        with open(out / "count", "w+b") as file:
            file.write(struct.pack("<Q", 0))
            file.flush()
            self._count = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    def feed(self, data: bytes) -> None:
        """Read one input."""
        self._count[0] += 1
        try:
            placed = self._target.place(data)
        except MemoryError:  # the memory that the reader itself needs was refused; nothing was read
            return
        finding = self._guard.read(self._target.read, placed)
        if finding is not None:
            self._save(finding, data)

    def _save(self, finding: Finding, data: bytes) -> None:
        signature = finding.kind, finding.place
        if signature not in self._known:
            self._known.add(signature)
            name = hashlib.sha256(repr(signature).encode()).hexdigest()[:12]
            (self._out / f"finding-{name}.input").write_bytes(data)
            (self._out / f"finding-{name}.json").write_text(json.dumps(vars(finding)), encoding="utf-8")
        if finding.kind == "Memory":  # the peak cannot be reset: go on in a new process
            os._exit(_MEMORY_EXIT)

    def mutate(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Atheris calls this for every new input."""
        random = Random(seed)
        assert self._target.mutate is not None
        mutated = self._target.mutate(data, random)
        while random.random() < 0.3:
            mutated = self._target.mutate(mutated, random)
        return mutated if len(mutated) <= max_size else data


def main() -> None:
    """Warm up with the seeds, so that what is imported late is loaded, then fuzz."""
    options = _options()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    out = Path(options.out)
    scratch = out / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ |= {"SVG_FUZZ_SCRATCH": str(scratch), "OMP_NUM_THREADS": "1", "SVG_EDGE_CACHE": str(scratch / "cache")}
    target = load_target(options.target)
    guard = Guard(scratch)
    inputs = [b"", b"x", *map(Path.read_bytes, seed_files(options.target))]
    if len(inputs) == 2 and options.target in MODULE_OF:
        sys.exit(f"{options.target} has no seeds: random bytes alone would never reach the code behind the first check")
    for data in inputs:
        guard.read(target.read, target.place(data))
    guard.limit_memory()
    worker = Worker(target, guard, out)
    if options.replay:
        worker.feed(Path(options.replay).read_bytes())
        return
    left = 0 if options.until is None else max(round(options.until - time.time()), 1)
    corpus = Path(options.corpus)
    corpus.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    arguments = [
        sys.argv[0], str(corpus), f"-seed={options.seed}", f"-timeout={HANG_S}", "-rss_limit_mb=0", f"-artifact_prefix={out}/",
        f"-max_len={1 << 18}", "-len_control=0", f"-runs={options.inputs}", f"-max_total_time={left}",
        "-print_final_stats=1",
    ]  # fmt: skip
    mutator = {"custom_mutator": worker.mutate} if target.mutate else {}
    atheris.Setup(arguments, worker.feed, **mutator)
    atheris.Fuzz()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=[*MODULE_OF, *PLANTED])
    parser.add_argument("--out", required=True)
    parser.add_argument("--corpus")
    parser.add_argument("--inputs", type=int, default=-1)
    parser.add_argument("--until", type=float, help="when to stop, in seconds since 1970")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay")
    return parser.parse_args()


if __name__ == "__main__":
    main()
