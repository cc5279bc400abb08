"""Runs targets one after the other, each in a process of its own that is started again after a crash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz.target import Finding

ROOT = Path(__file__).resolve().parents[2]
_MAX_STARTS = 20  # of one target
_CRASH = re.compile(r"(crash|timeout|oom|leak)-[0-9a-f]{40}")


@dataclass
class TargetResult:
    """What one target did.

    Attributes:
        inputs: how many it read.
        seconds: how long that took, with starting the process.
        coverage: edges of the project's code that inputs reached.
        findings: broken rules, each once, and the file with the input.
    """

    inputs: int = 0
    seconds: float = 0.0
    coverage: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)


def run_target(name: str, inputs: int | None, seconds: float | None, seed: int, folder: Path) -> TargetResult:
    """Feed a target with that many inputs, or for that long.

    Args:
        name: of the target.
        inputs: how many; None: as many as the time allows.
        seconds: how long; None: until all inputs are read.
        seed: of the mutations. The corpus in `folder` matters, too.
        folder: keeps corpus, findings and the last log.
    """
    result, begun = TargetResult(), time.monotonic()
    for start in range(_MAX_STARTS):
        left = None if inputs is None else inputs - result.inputs
        time_left = None if seconds is None else seconds - (time.monotonic() - begun)
        if (left is not None and left <= 0) or (time_left is not None and time_left < 1):
            break
        if not _run_once(name, left, time_left, seed + start, folder, result):
            break
    result.seconds = round(time.monotonic() - begun, 1)
    return result


def _run_once(name: str, inputs: int | None, seconds: float | None, seed: int, folder: Path, result: TargetResult) -> bool:
    """Run the worker until it ends, and add to `result`. Returns whether it ended early, by a crash, hang or memory."""
    memory = Path("/dev/shm")  # file systems in memory are faster, and spare the disk
    out = (memory if os.access(memory, os.W_OK) else folder) / f"svg-fuzz-{os.getpid()}-{name}"
    out.mkdir(parents=True)
    limits = [] if inputs is None else [f"--inputs={inputs}"]
    limits += [] if seconds is None else [f"--until={time.time() + seconds}"]
    command = [sys.executable, "-m", "tests.fuzz.worker", name, f"--out={out}", f"--corpus={folder / 'corpus' / name}", *limits]
    try:
        with (folder / f"{name}.log").open("wb") as log:
            code = subprocess.run([*command, f"--seed={seed}"], cwd=ROOT, stdout=log, stderr=log, check=False).returncode
        text = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        count = out / "count"
        result.inputs += int.from_bytes(count.read_bytes(), "little") if count.exists() else 0
        result.coverage = max([result.coverage, *map(int, re.findall(r"cov: (\d+)", text))])
        found = _findings(out, text)
        if code and not found:
            found = [(Finding("WorkerFailed", f"exit code {code}", text[-2000:]), None)]
            code = 0  # it would fail again
        for finding, file in found:
            _keep(finding, file, folder / "findings" / name, result)
        return bool(code)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _findings(out: Path, log: str) -> list[tuple[Finding, Path | None]]:
    """What the worker has saved, and what libFuzzer has saved when the process died."""
    found: list[tuple[Finding, Path | None]] = [
        (Finding(**json.loads(file.read_text(encoding="utf-8"))), file.with_suffix(".input"))
        for file in sorted(out.glob("finding-*.json"))
    ]
    for file in sorted(out.iterdir()):
        if match := _CRASH.fullmatch(file.name):
            kind = {"timeout": "Hang", "crash": "Crash"}.get(match[1], match[1])
            found.append((Finding(kind, "", log[-4000:]), file))
    return found


def _keep(finding: Finding, file: Path | None, folder: Path, result: TargetResult) -> None:
    """Save the input outside the scratch folder, unless the same finding is already there. Every crash and hang is kept."""
    known = {(each["kind"], each["place"]) for each in result.findings}
    if (finding.kind, finding.place) in known and finding.place:
        return
    kept = ""
    if file is not None:
        folder.mkdir(parents=True, exist_ok=True)
        kept = str(shutil.copy(file, folder / file.name))
    result.findings.append({**asdict(finding), "file": kept})
