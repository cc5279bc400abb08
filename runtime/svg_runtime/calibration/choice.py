"""The choice of `auto`: the kept decision, or one that is measured now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svg_common.errors import UsageError
from svg_common.progress import ProgressListener
from svg_runtime.backends import engine_stamps
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration.decisions import (
    Decision,
    decision_key,
    forget_decision,
    is_busy,
    keep_decision,
    load_decision,
    this_machine,
)
from svg_runtime.calibration.race import Row, Runner, Task, find_fastest
from svg_runtime.calibration.ways import NOT_TIMED, Request, Way, list_ways, reference_way
from svg_runtime.forecast_options import Calibrate
from svg_runtime.machine.hardware import usable_cores

# ready: what opens in seconds, with engines that are ready; full: also engines that take minutes to build;
# again: measure even if a decision is kept; no: a rule of thumb instead.
CALIBRATE: tuple[Calibrate, ...] = ("ready", "full", "again", "no")
VARIABLE = "SVG_EDGE_CALIBRATE"


def wanted(calibrate: Calibrate | None) -> Calibrate:
    """What was asked for, else what the environment says, else ready.

    Raises:
        UsageError: neither is one of `CALIBRATE`.
    """
    asked = (os.environ.get(VARIABLE) or "ready") if calibrate is None else calibrate
    known: dict[str, Calibrate] = {**{name: name for name in CALIBRATE}, "0": "no", "1": "ready"}
    if not isinstance(asked, str) or asked not in known:
        where = VARIABLE if calibrate is None else "calibrate"
        raise UsageError(f"{where} is '{asked}'\n  expected one of: {', '.join(CALIBRATE)}")
    return known[asked]


def graphs_of(manifest: Manifest) -> list[str]:
    """What the speed of a bundle depends on: the hashes of all its graphs."""
    return sorted({spec.sha256 for variant in manifest.variants.values() for spec in variant.graphs.values()})


@dataclass(frozen=True)
class Choice:
    """What is to be decided for one bundle.

    Attributes:
        bundle: the opened bundle.
        samples, horizon: of the forecasts.
        max_batch: the largest batch that will be bound, which engines must take.
        threads: CPU threads; None means one per usable core, or fewer if that is faster.
        request: what the user has fixed.
        machine: as it was before measuring took memory: the next opening finds it so.
    """

    bundle: Bundle
    samples: int
    max_batch: int
    horizon: int
    threads: int | None
    request: Request
    machine: Mapping[str, Any] = field(default_factory=this_machine)

    def decide(self, open_way: Callable[[Way], Runner], progress: ProgressListener, again: bool = False) -> Decision | None:
        """Return the kept decision, or measure it now and keep it. The only way to run the bundle here is not measured.

        Args:
            open_way: opens a forecaster with the manifest's context.
            progress: listener for the measuring.
            again: measure even if a decision is kept.

        Returns:
            The decision; None where nothing can be compared, because the cpu backend does not run.
        """
        kept = None if again else load_decision(self._key())
        if kept is not None:
            return kept
        manifest, cores = self.bundle.manifest, 1 if self.threads else usable_cores()
        busy, ways = is_busy(), list_ways(manifest, self.request)
        if not ways:
            return None
        if ways == [reference_way(manifest)] and cores == 1:
            return Decision(ways[0], [Row(ways[0], reason=NOT_TIMED).as_json()], False, time.time())
        task = Task.make(manifest, self.samples, self.horizon)
        fastest, rows = find_fastest(ways=ways, task=task, open_way=open_way, progress=progress, cores=cores)
        if fastest is None:
            return None
        decision = Decision(fastest, [row.as_json() for row in rows], busy, time.time())
        self.keep(decision)
        return decision

    def keep(self, decision: Decision) -> None:
        """Keep a decision that was made elsewhere, on a machine of the same kind."""
        keep_decision(self._key(), decision)

    def forget(self) -> None:
        """Remove the kept decision, which does not work any more."""
        forget_decision(self._key())

    def _key(self) -> str:
        depends = {
            "graphs": graphs_of(self.bundle.manifest), "variants": sorted(self.bundle.manifest.variants),
            "samples": self.samples, "horizon": self.horizon, "threads": self.threads,
            # Not whether it was allowed to build them: what they won holds for every later opening.
            "engines": engine_stamps(self.bundle, self.max_batch),
            "request": [self.request.device, self.request.precision, self.request.fused, self.request.shuffled],
        }  # fmt: skip
        return decision_key(depends, self.machine)
