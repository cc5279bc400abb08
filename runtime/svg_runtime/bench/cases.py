"""What `svg-bench` measures: every backend, precision and set of graphs that could run a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from svg_runtime.backends import BACKENDS, COMPUTE_BF16
from svg_runtime.bundle.contract import FUSED
from svg_runtime.bundle.manifest import PRECISIONS, Manifest, Precision
from svg_runtime.errors import UsageError


@dataclass(frozen=True)
class Case:
    """One way to run a bundle."""

    backend: str
    precision: Precision
    fused: bool  # the fused graphs, or the separate ones

    @property
    def graphs(self) -> str:
        """Its graphs, for people."""
        return "fused" if self.fused else "separate"

    def __str__(self) -> str:
        return f"{self.backend} {self.precision} {self.graphs}"


# Errors are taken against it: fp32 on the engine that every export was checked with, on the graphs that every bundle has.
REFERENCE = Case("cpu", "fp32", fused=False)


def list_cases(manifest: Manifest, backend: str | None, precision: Precision | None) -> list[Case]:
    """Cases in the order of the table; all cases of a backend follow each other.

    A precision that the bundle lacks is one case, which fails with the reason.

    Args:
        manifest: of the bundle.
        backend: a backend's name or "auto"; None for every one that this release knows.
        precision: this one alone, even on a backend that is known not to have it; None for all that backends have.

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
    """Fused graphs first, where the bundle has them."""
    variant = manifest.variants.get(precision)
    return (True, False) if variant is not None and set(FUSED) <= set(variant.graphs) else (False,)
