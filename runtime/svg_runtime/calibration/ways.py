"""The ways in which a bundle can run on this machine: backend, device, precision, graphs and threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from svg_common.command import is_installed
from svg_runtime.backends import BACKENDS, ORT_NVIDIA, TENSORRT, cuda_is_installed
from svg_runtime.bundle.contract import SHUFFLED_DECODER, has_separate, has_step
from svg_runtime.bundle.manifest import PRECISIONS, Manifest, Precision

_CHOOSE_DECODER = ("cpu", "openvino", "cuda")  # engines for another decoder would take minutes more to build
_MODULES = {"openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class Way:
    """One way to run a bundle."""

    backend: str
    device: str | None
    precision: Precision  # of the graphs; bf16 are fp32 graphs computed in bf16
    fused: bool  # the fused graphs, or the separate ones
    shuffled: bool = False  # of the separate graphs: the graph decoder_shuffled, or the plain decoder
    threads: int | None = None  # on a CPU; None: as many as the user says, else one per usable core

    @property
    def graphs(self) -> str:
        """Name of the set of graphs: fused, shuffled or separate."""
        return "fused" if self.fused else "shuffled" if self.shuffled else "separate"

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.backend} {self.precision} {self.graphs}{threads}"

    @property
    def on_cpu(self) -> bool:
        """Whether its time depends on CPU threads."""
        return self.backend in ("cpu", "openvino") and (self.device or "cpu").partition(":")[0].lower() in ("cpu", "auto")

    def as_json(self) -> dict[str, Any]:
        """JSON values for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Way:
        """A way from what `as_json` gave.

        Raises:
            ValueError, TypeError: the values are something else.
        """
        if set(values) != {field.name for field in fields(cls)}:
            raise ValueError("a way of another release")
        way = cls(**values)
        known = way.backend in BACKENDS and way.precision in PRECISIONS and isinstance(way.device, str | None)
        graphs = isinstance(way.fused, bool) and isinstance(way.shuffled, bool) and not (way.fused and way.shuffled)
        threads = way.threads is None or (type(way.threads) is int and way.threads > 0)
        if not (known and graphs and threads):
            raise ValueError("not a way to run a bundle")
        return way


NOT_TIMED = "not timed, as no other way took part"  # why the way that is taken has no time
REFERENCE = Way("cpu", None, "fp32", fused=False)  # the engine that checks every export, with the plain graphs


def reference_way(manifest: Manifest) -> Way:
    """The way that computes the expected frames: the reference, on the fused graphs where the bundle has no others."""
    variant = manifest.variants.get(REFERENCE.precision)
    return replace(REFERENCE, fused=variant is not None and not has_separate(variant))


@dataclass(frozen=True)
class Request:
    """What the user has fixed; None is free.

    Attributes:
        device: None, auto or cpu.
    """

    device: str | None = None
    precision: Precision | None = None
    fused: bool | None = None
    shuffled: bool | None = None


def list_ways(manifest: Manifest, request: Request) -> list[Way]:
    """List the ways that could run the bundle: the reference, then those that were the fastest on most machines.

    The earlier the fastest one is measured, the sooner the others are dropped. Whether a library works, only opening it shows.
    Reduced precisions need a measured quality, unless they were asked for by name.
    """
    ways = [
        Way(backend=backend, device=device, precision=precision, fused=fused, shuffled=shuffled)
        for backend, device, precision in _backends(request)
        if _is_allowed(manifest, precision, request.precision)
        for fused, shuffled in _graph_sets(manifest, backend, precision, request)
    ]
    reference = reference_way(manifest)
    return sorted(ways, key=lambda way: way != reference)


def _backends(request: Request) -> list[tuple[str, str | None, Precision]]:
    found: list[tuple[str, str | None, Precision]] = []
    if request.device != "cpu":
        found += [(name, None, precision) for name in _gpu_backends() for precision in ("fp16", "fp32")]
    if is_installed(_MODULES["openvino"]):
        found += [("openvino", None, "bf16"), ("openvino", "CPU:f32", "fp32")]
        found += [("openvino", None, "fp16")] if request.precision == "fp16" else []
    found.append(("cpu", None, "fp32"))
    if request.precision == "fp16":  # on a CPU it was always slower (docs/results.md), and runs only by name
        found.append(("cpu", None, "fp16"))
    return found


def _gpu_backends() -> list[str]:
    """Those with engines too: opening them without leave to build shows whether the engines are ready."""
    of_onnxruntime = ORT_NVIDIA if cuda_is_installed() else ()
    return [*of_onnxruntime, *(name for name in TENSORRT if is_installed(_MODULES[name]))]


def _is_allowed(manifest: Manifest, precision: Precision, asked: Precision | None) -> bool:
    return manifest.quality_is_known(precision) if asked is None else precision == asked and precision in manifest.variants


def _graph_sets(manifest: Manifest, backend: str, precision: Precision, request: Request) -> list[tuple[bool, bool]]:
    """Fused and shuffled: what the bundle has, less what was not asked for. The sets that a backend prefers come first."""
    variant = manifest.variants[precision]
    sets = [(False, False)] if has_separate(variant) else []
    if SHUFFLED_DECODER in variant.graphs and backend in _CHOOSE_DECODER:
        sets.insert(0 if backend == "openvino" else 1, (False, True))
    if has_step(variant):
        sets.insert(len(sets) if backend == "openvino" else 0, (True, False))
    return [
        (fused, shuffled) for fused, shuffled in sets if request.fused in (None, fused) and request.shuffled in (None, shuffled)
    ]
