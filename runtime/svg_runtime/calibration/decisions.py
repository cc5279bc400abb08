"""Decisions that were measured on this machine, kept in the cache until anything that they depend on changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from svg_common.cache import cache_folder
from svg_common.errors import SvgError
from svg_common.files import write_json
from svg_runtime.calibration.ways import NOT_TIMED, Way
from svg_runtime.machine.hardware import cpu_limits, load_average, load_share, system_cpu, this_platform, usable_cores, versions

_LOG = logging.getLogger(__name__)
SCHEMA = 2
_BUSY = 0.75  # load average per core of the machine, beyond which timings are doubtful
_DOUBTFUL_FOR_S = 3600.0
_WAY = [field.name for field in fields(Way)]
DAMAGED = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError)  # what reading a damaged one raises


@dataclass(frozen=True)
class Decision:
    """The fastest way, or the only one that took part.

    Attributes:
        rows: the table that it was taken from, as JSON values.
        busy: the machine had other work, so that it is measured again after an hour.
        measured_s: when, in seconds since 1970.
    """

    way: Way
    rows: list[dict[str, Any]]
    busy: bool
    measured_s: float

    @property
    def summary(self) -> str:
        """Why it was chosen, in a few words for the description of a run."""
        ranked = sorted((row for row in self.rows if "ms" in row), key=self._rank)
        if not ranked:
            return NOT_TIMED
        times = ", ".join(f"{way_of(row)} {row['ms']:.3g} ms" for row in ranked[:3])
        steps = {row["steps"] for row in ranked if "steps" in row}
        shortened = f" with forecasts of {max(steps)} steps" if steps else ""
        return f"chosen by measurement{shortened}: {times}{', on a busy machine' if self.busy else ''}"

    def as_json(self) -> dict[str, Any]:
        """JSON values for `from_json`."""
        return {**vars(self), "way": self.way.as_json()}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Decision:
        """A decision from what `as_json` gave.

        Raises:
            ValueError, TypeError, KeyError, OverflowError: the values are something else.
        """
        rows = [dict(row) for row in about["rows"]]
        if not rows:
            raise ValueError("there are no rows")
        decision = cls(Way.from_json(about["way"]), rows, bool(about["busy"]), float(about["measured_s"]))
        _ = decision.summary  # its rows are complete
        return decision

    def _rank(self, row: Mapping[str, Any]) -> tuple[bool, float]:
        """The chosen one first: times of different races do not compare exactly."""
        return way_of(row) != self.way, float(row["ms"])


def way_of(row: Mapping[str, Any]) -> Way:
    """The way that a row of a decision is about."""
    return Way.from_json({name: row[name] for name in _WAY})


def is_busy() -> bool:
    """Whether other programs use the machine."""
    return load_share(load_average()) > _BUSY


def decision_key(circumstances: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """Name of a decision: of the circumstances, the machine as `this_machine` describes it, and its libraries."""
    depends = {**circumstances, "machine": machine, "versions": versions(), "schema": SCHEMA}
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def load_decision(key: str) -> Decision | None:
    """Return the kept decision; None if there is none, it is damaged, or the machine was busy more than an hour ago."""
    try:
        decision = Decision.from_json(json.loads(_file(key).read_text(encoding="utf-8")))
    except (SvgError, *DAMAGED):
        return None
    age_s = time.time() - decision.measured_s
    return None if decision.busy and not 0 <= age_s < _DOUBTFUL_FOR_S else decision


def keep_decision(key: str, decision: Decision) -> None:
    """Write it to the cache. Without a cache it is measured again next time."""
    try:
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, decision.as_json())
    except (SvgError, OSError) as error:
        _LOG.info("the choice of the backend cannot be kept, and is measured again next time: %s", error)


def forget_decision(key: str) -> None:
    """Remove a kept decision."""
    with contextlib.suppress(SvgError, OSError):
        _file(key).unlink()


def _file(key: str) -> Path:
    return cache_folder() / "calibration" / f"{key}.json"


def this_machine() -> dict[str, Any]:
    """What the choice depends on: processor, limits, GPUs, driver, and free memory to a factor of two."""
    return {
        "platform": this_platform(),
        "cpu": system_cpu(Path("/proc/cpuinfo")),
        "limits": cpu_limits(),
        "cores": usable_cores(),
        "gpus": sorted(_text(file) for file in Path("/proc/driver/nvidia/gpus").glob("*/information")),
        "driver": _text(Path("/proc/driver/nvidia/version")),
        "memory": _free_memory_class(),
    }


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _free_memory_class() -> int | None:
    """Free memory as a power of two of bytes; None if the system does not report it."""
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    line = next((line for line in _text(Path("/proc/meminfo")).splitlines() if line.startswith("MemAvailable:")), "")
    numbers = [int(word) for word in line.split() if word.isdigit()]
    return round(math.log2(numbers[0] * 1024)) if numbers and numbers[0] else None
