"""The parameters of the node: their defaults, bounds and meaning, and the options of the stream that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from svg_edge_ros.forecast_stream import StreamOptions
from svg_runtime.backends import THREADS_LIMIT
from svg_runtime.bundle.manifest import PRECISIONS, Precision
from svg_runtime.errors import UsageError
from svg_runtime.live.roi import parse_roi

CONTEXTS = ("window", "stream")


@dataclass(frozen=True)
class NodeParameter:
    """One parameter. All are read only: a forecaster is opened for them.

    Attributes:
        choices: the texts that it may be; empty: any.
        bounds: smallest and largest number.
    """

    name: str
    default: str | int | float | bool
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """Which values it takes, for messages."""
        if self.choices:
            return f"one of: {', '.join(repr(choice) for choice in self.choices)}"
        if self.bounds is None:
            return "true or false" if isinstance(self.default, bool) else "text"
        low, high = self.bounds
        if isinstance(self.default, float):
            return f"a number from {low:.1f} to {high:.1f}, written with a point"
        return f"a whole number from {low:.0f} to {high:.0f}"


PARAMETERS = (
    NodeParameter("topic", "image", "Topic of the images; remap it, or name it here."),
    NodeParameter("compressed", False, "Whether the topic has sensor_msgs/CompressedImage, JPEG or PNG."),
    NodeParameter("model", "camera", "Absolute path of a *.svgb folder; or camera or digits, the models of the package."),
    NodeParameter("backend", "auto", "Inference backend, or auto for the fastest one that works."),
    NodeParameter("precision", "", "Precision variant of the bundle; empty: the backend chooses.", choices=("", *PRECISIONS)),
    NodeParameter("samples", 8, "Futures per forecast.", bounds=(1, 1024)),
    NodeParameter("horizon", 10, "Steps per future.", bounds=(1, 1024)),
    NodeParameter("seed", 0, "Seed of the model's noise.", bounds=(0, 2**31 - 1)),
    NodeParameter("threads", 0, "CPU threads; 0: one per core, or what auto measured.", bounds=(0, THREADS_LIMIT)),
    NodeParameter("context", "", "window or stream; empty: as the bundle says.", choices=("", *CONTEXTS)),
    NodeParameter("post_process", True, "Correct forecasts by what came after earlier ones, as svg-live does."),
    NodeParameter("rate", 0.0, "Observed pictures per second; 0: as in training.", bounds=(0.0, 1000.0)),
    NodeParameter("roi", "", "Part that the model looks at, X,Y,W,H in pixels or fractions; empty: all."),
)


def stream_options(values: Mapping[str, Any]) -> StreamOptions:
    """Return the options for the values of all parameters.

    Raises:
        UsageError: a value is not one of its choices, or is out of bounds. ROS checks bounds too, but not texts.
    """
    for parameter in PARAMETERS:
        value = values[parameter.name]
        if parameter.choices and value not in parameter.choices:
            raise UsageError(f"parameter {parameter.name} is '{value}'\n  expected {parameter.expected}")
        if parameter.bounds is not None:
            low, high = parameter.bounds
            if not (math.isfinite(value) and low <= value <= high):
                raise UsageError(f"parameter {parameter.name} is {value}\n  expected {parameter.expected}")
    return StreamOptions(
        model=values["model"],
        backend=values["backend"],
        precision=cast("Precision | None", values["precision"] or None),
        samples=values["samples"],
        horizon=values["horizon"],
        seed=values["seed"],
        threads=values["threads"] or None,
        context=values["context"] or None,
        post_process=values["post_process"],
        interval_s=1 / values["rate"] if values["rate"] else None,
        roi=parse_roi(values["roi"], "roi") if values["roi"] else None,
    )
