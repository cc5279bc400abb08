"""`svg-bench --calibrate`: measures the choice of `auto` ahead of time, and carries it to other machines of the same kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_common.files import refuse_pipe
from svg_common.progress import ProgressListener
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration.choice import Choice, graphs_of
from svg_runtime.calibration.decisions import DAMAGED, Decision, way_of
from svg_runtime.calibration.ways import Request
from svg_runtime.errors import BackendMissingError
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.forecast.sampled_context import largest_batch
from svg_runtime.machine.hardware import hardware, versions


@dataclass(frozen=True)
class Calibration:
    """What is decided: the bundle, and how it will be run."""

    bundle: Bundle
    samples: int
    horizon: int
    precision: Precision | None = None

    def measure(self, full: bool, progress: ProgressListener) -> Decision:
        """Measure all ways now, and keep the decision for this machine.

        Raises:
            BackendMissingError: nothing can be compared, because the cpu backend does not run.
        """
        with Forecaster.open(
            self.bundle.path, precision=self.precision, samples=self.samples, horizon=self.horizon, progress=progress,
            calibrate="full" if full else "again",
        ) as forecaster:  # fmt: skip
            if forecaster.decision is None:
                raise BackendMissingError(
                    "nothing can be compared: the frames of every backend are compared with those of cpu, which does not run\n"
                    "  expected an onnxruntime: pip install 'svg-edge[cpu]'"
                )
            return forecaster.decision

    def take(self, file: Path, progress: ProgressListener) -> Decision:
        """Keep a decision that was measured on another machine of the same kind, if it opens here.

        Args:
            file: with the decision.
            progress: listener for the building of engines.

        Raises:
            UsageError: the file is not a decision, or one for another bundle or other forecasts.
            BackendMissingError, MissingExtraError, BundleError, BackendError: it does not open here.
        """
        decision, made_for = read_decision(file)
        decision = replace(decision, busy=False)  # it was asked for by name: it stays in force
        different = [name for name, value in self._made_for().items() if made_for.get(name) != value]
        if different:
            raise UsageError(
                f"the decision '{file}' was made for other {', '.join(different)}\n"
                "  expected the same bundle, --samples, --horizon and precision; or measure here: svg-bench --calibrate ready"
            )
        choice = Choice(  # before engines take memory, see `machine`
            bundle=self.bundle,
            samples=self.samples,
            max_batch=largest_batch(self.bundle.manifest, self.samples),
            horizon=self.horizon,
            threads=None,
            request=Request(precision=self.precision),
        )
        opened = Forecaster.open(
            self.bundle.path, samples=self.samples, horizon=self.horizon, progress=progress, **vars(decision.way)
        )
        opened.close()
        choice.keep(decision)
        return decision

    def as_json(self, decision: Decision) -> dict[str, Any]:
        """The file for `take`, with the machine that it was measured on."""
        return {
            "model": self.bundle.path.name, "made_for": self._made_for(), "decision": decision.as_json(),
            "hardware": hardware(), "versions": versions(),
        }  # fmt: skip

    def _made_for(self) -> dict[str, Any]:
        return {
            "graphs": graphs_of(self.bundle.manifest), "samples": self.samples, "horizon": self.horizon,
            "precision": self.precision,
        }  # fmt: skip


def read_decision(file: Path) -> tuple[Decision, dict[str, Any]]:
    """A decision from a file of `svg-bench --calibrate --json`, and what it was made for.

    Raises:
        UsageError: it is not such a file.
    """
    try:
        refuse_pipe(file)
        about = json.loads(file.read_text(encoding="utf-8"))
        return Decision.from_json(about["decision"]), dict(about["made_for"])
    except DAMAGED as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a decision of svg-bench --calibrate"
        raise UsageError(
            f"cannot read the decision '{file}': {reason}\n  expected a file of: svg-bench --calibrate ready --json FILE"
        ) from error


def decision_table(decision: Decision) -> Iterator[str]:
    """Lines: every way with its milliseconds, or the reason why it takes no part; then what was chosen."""
    ways = [str(way_of(row)) for row in decision.rows]
    width = max(map(len, ways))
    for way, row in zip(ways, decision.rows, strict=True):
        yield f"{way:{width}}  {row['ms']:8.2f} ms" if "ms" in row else f"{way:{width}}  {row['reason']}"
    doubtful = decision.busy and any("ms" in row for row in decision.rows)
    yield f"auto takes {decision.way}{'; measured on a busy machine: again in an hour' if doubtful else ''}"
