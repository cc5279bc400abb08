"""The engine that the rows of a folder were computed by: another one rounds differently, so a folder keeps to its own."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from svg_common.errors import UsageError
from svg_runtime.bundle.manifest import Precision
from svg_runtime.forecast.forecaster import Forecaster

_FREE_DEVICES = (None, "auto", "cpu")  # with which `auto` chooses


@dataclass(frozen=True)
class Engine:
    """What computed the rows, and the choices that open the same again.

    Attributes:
        backend: its name; of `auto`, the chosen one.
        computes_in: "f32", "bf16 and f32": read from the engine, of the layers with weights; "" if it does not report it.
        device, precision, fused, shuffled: as for `Forecaster.open`; None: the backend's own choice.
        threads: that `auto` measured to be the fastest.
        description: of library and device, human-readable.
    """

    backend: str
    computes_in: str
    device: str | None = None
    precision: Precision | None = None
    fused: bool | None = None
    shuffled: bool | None = None
    threads: int | None = field(default=None, compare=False)
    description: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.backend} in {self.computes_in or 'a precision that it does not report'}"

    @classmethod
    def of(cls, forecaster: Forecaster, device: str | None, precision: Precision | None) -> Engine:
        """That of a forecaster, warmed up, which was opened with these options."""
        precisions = {name for layers in forecaster.computed_in.values() for name in layers}
        engine = cls(
            backend=forecaster.backend,
            computes_in=" and ".join(sorted(precisions)),
            device=device,
            precision=precision,
            fused=forecaster.fused,
            description=forecaster.description.partition("; ")[0],
        )
        if forecaster.decision is not None:
            way = forecaster.decision.way
            return replace(engine, device=way.device, precision=way.precision, shuffled=way.shuffled, threads=way.threads)
        return engine._as_if_asked_for()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Engine:
        """An engine from what `as_json` gave.

        Raises:
            TypeError: the values are something else.
        """
        engine = cls(**values)
        if not isinstance(engine.backend, str) or not isinstance(engine.computes_in, str):
            raise TypeError("not an engine")
        return engine

    def as_json(self) -> dict[str, Any]:
        """JSON values for `from_json`."""
        return asdict(self)

    def choices(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `Forecaster.open` that open this engine where `asked` leaves it open.

        Raises:
            UsageError: another backend is asked for.
        """
        self.check_backend(asked["backend"])
        free = asked["device"] in _FREE_DEVICES
        threads = None if self.threads is None else min(self.threads, os.cpu_count() or 1)
        return {
            **asked,
            "backend": self.backend,
            "calibrate": None,  # nothing is left to measure
            "device": self.device if free and self.device is not None else asked["device"],
            "precision": asked["precision"] or (self.precision if free else None),
            "threads": asked["threads"] or threads,
            "fused": self.fused,
            "shuffled": self.shuffled,
        }

    def check_backend(self, backend: str) -> None:
        """Refuse another backend than the folder's.

        Raises:
            UsageError: it is another one.
        """
        if backend not in ("auto", self.backend):
            raise UsageError(
                f"the results there were computed by {self}, and --backend {backend} rounds differently\n"
                f"  give --backend {self.backend}, or none; or choose another --out"
            )

    def check_same(self, other: Engine) -> None:
        """Refuse an engine that computes in something else.

        Raises:
            UsageError: it does.
        """
        if self.backend != other.backend or (self.computes_in != other.computes_in and self.computes_in and other.computes_in):
            raise UsageError(
                f"the results there were computed by {self}; here it is {other}, which rounds differently\n"
                "  give the same --device, use a machine of the same kind, or choose another --out"
            )

    def _as_if_asked_for(self) -> Engine:
        """With what the backend itself chooses by the processor spelled out, so that another processor does the same."""
        if self.backend != "openvino" or self.precision is not None or self.device not in _FREE_DEVICES or not self.computes_in:
            return self
        if self.computes_in == "f32":
            return replace(self, device="CPU:f32")
        return replace(self, precision="bf16") if "bf16" in self.computes_in else self
