"""The ways in which a bundle can run on this machine: backend, device, precision and set of graphs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from svg_common.command import is_installed
from svg_runtime.backends import BACKENDS, ORT_NVIDIA, TENSORRT, cuda_is_installed
from svg_runtime.bundle.contract import FUSED
from svg_runtime.bundle.manifest import PRECISIONS, Manifest, Precision

_MODULES = {"openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class Way:
    """One way to run a bundle."""

    backend: str
    device: str | None
    precision: Precision  # of the graphs; bf16 are fp32 graphs computed in bf16
    fused: bool  # the fused graphs, or the separate ones

    def __str__(self) -> str:
        return f"{self.backend} {self.precision} {'fused' if self.fused else 'separate'}"

    def as_json(self) -> dict[str, Any]:
        """JSON values for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Way:
        """A way from what `as_json` gave.

        Raises:
            ValueError, TypeError: the values are something else.
        """
        way = cls(**values)
        known = way.backend in BACKENDS and way.precision in PRECISIONS and isinstance(way.fused, bool)
        if not known or not isinstance(way.device, str | None):
            raise ValueError("not a way to run a bundle")
        return way


REFERENCE = Way("cpu", None, "fp32", fused=False)  # the engine that checks every export, with the graphs of every bundle


@dataclass(frozen=True)
class Request:
    """What the user has fixed; None is free.

    Attributes:
        device: None, auto or cpu.
    """

    device: str | None = None
    precision: Precision | None = None
    fused: bool | None = None


def list_ways(manifest: Manifest, request: Request) -> list[Way]:
    """List the ways that could run the bundle, the reference first. Whether a library works, only opening it shows.

    Reduced precisions need a measured quality, unless they were asked for by name.
    """
    return [
        Way(backend, device, precision, fused)
        for backend, device, precision in _backends(request)
        if _is_allowed(manifest, precision, request.precision)
        for fused in _sets(manifest, precision, request.fused)
    ]


def _backends(request: Request) -> list[tuple[str, str | None, Precision]]:
    found: list[tuple[str, str | None, Precision]] = [("cpu", None, "fp32")]
    if request.precision == "fp16":  # on a CPU it was always slower (docs/results.md), and runs only by name
        found.append(("cpu", None, "fp16"))
    if is_installed(_MODULES["openvino"]):
        found += [("openvino", "CPU:f32", "fp32"), ("openvino", None, "bf16")]
        found += [("openvino", None, "fp16")] if request.precision == "fp16" else []
    if request.device != "cpu":
        found += [(name, None, precision) for name in _gpu_backends() for precision in ("fp32", "fp16")]
    return found


def _gpu_backends() -> list[str]:
    """Those with engines too: opening them without leave to build shows whether the engines are ready."""
    of_onnxruntime = ORT_NVIDIA if cuda_is_installed() else ()
    return [*of_onnxruntime, *(name for name in TENSORRT if is_installed(_MODULES[name]))]


def _is_allowed(manifest: Manifest, precision: Precision, asked: Precision | None) -> bool:
    return manifest.quality_is_known(precision) if asked is None else precision == asked and precision in manifest.variants


def _sets(manifest: Manifest, precision: Precision, asked: bool | None) -> list[bool]:
    """Separate graphs, and fused ones where the bundle has them; or the set that was asked for."""
    variant = manifest.variants.get(precision)
    has_fused = variant is not None and set(FUSED) <= set(variant.graphs)
    return [fused for fused in (False, True) if asked in (None, fused) and (has_fused or not fused)]
