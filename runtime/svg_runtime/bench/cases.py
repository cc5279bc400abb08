"""What `svg-bench` measures: every backend, precision and set of graphs that could run a bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace

from svg_runtime.backends import BACKENDS, COMPUTE_BF16
from svg_runtime.bundle.contract import has_separate, has_step
from svg_runtime.bundle.manifest import PRECISIONS, Manifest, Precision
from svg_runtime.errors import UsageError


@dataclass(frozen=True)
class Case:
    """One way to run a bundle: backend, precision and set of graphs."""

    backend: str
    precision: Precision
    fused: bool  # the fused graphs, or the separate ones

    @property
    def graphs(self) -> str:
        """Name of the set of graphs: fused or separate."""
        return "fused" if self.fused else "separate"

    def __str__(self) -> str:
        return f"{self.backend} {self.precision} {self.graphs}"


REFERENCE = Case("cpu", "fp32", fused=False)  # the engine that checks every export, with the plain graphs


def reference_case(manifest: Manifest) -> Case:
    """The case that the errors of all are relative to: the reference, on the fused graphs where the bundle has no others."""
    variant = manifest.variants.get(REFERENCE.precision)
    return replace(REFERENCE, fused=variant is not None and not has_separate(variant))


def list_cases(manifest: Manifest, backend: str | None, precision: Precision | None) -> list[Case]:
    """List the cases in the order of the table, grouped by backend.

    A precision that the bundle lacks is one case, which fails with the reason.

    Args:
        manifest: of the bundle.
        backend: a backend's name or "auto"; None for all.
        precision: only this one, even if the backend does not support it; None for all that each backend supports.

    Raises:
        UsageError: no such backend.
    """
    if backend not in (None, "auto", *BACKENDS):
        raise UsageError(f"unknown backend '{backend}'\n  expected auto or one of: {', '.join(BACKENDS)}")
    names = BACKENDS if backend is None else (backend,)
    return [
        Case(name, each, fused)
        for name in names
        for each in ([precision] if precision else _precisions(name))
        for fused in _sets(manifest, each)
    ]


def _precisions(backend: str) -> list[Precision]:
    return [each for each in PRECISIONS if each != "bf16" or backend in ("auto", *COMPUTE_BF16)]


def _sets(manifest: Manifest, precision: Precision) -> tuple[bool, ...]:
    """What the bundle has, fused graphs first. A precision that it lacks has one case, which fails with the reason."""
    variant = manifest.variants.get(precision)
    if variant is None:
        return (not has_separate(next(iter(manifest.variants.values()))),)
    return tuple(fused for fused, has in ((True, has_step(variant)), (False, has_separate(variant))) if has)
