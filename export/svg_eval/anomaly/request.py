"""What `svg-eval --anomaly` was asked for. Light: the command imports it before anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_runtime.bundle.manifest import Precision


@dataclass(frozen=True)
class AnomalyRequest:
    """What to evaluate.

    Attributes:
        labels: file or folder of labels.
        first_number: of a clip's first frame in ranges; None: the default, see `read_labels`.
        model: bundle or name of an embedded one; None: the default.
        data: the [data] settings; None means not given.
        samples, horizon, seed: of the forecasts.
    """

    labels: Path
    first_number: int | None
    model: str | None
    backend: str | None
    device: str | None
    precision: Precision | None
    data: Mapping[str, Any]
    samples: int
    horizon: int
    seed: int
