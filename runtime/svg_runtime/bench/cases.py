"""What `svg-bench` measures: every backend, precision and set of graphs that could run a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from svg_runtime.backends import BACKENDS, PLANNED
from svg_runtime.contract import FUSED
from svg_runtime.errors import UsageError
from svg_runtime.manifest import Manifest, Precision


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


def list_cases(manifest: Manifest, backend: str | None, fp16: bool) -> list[Case]:
    """Cases in the order of the table; all cases of a backend follow each other.

    A precision that the bundle lacks is one case, which fails with the reason.

    Args:
        manifest: of the bundle.
        backend: a backend's name or "auto"; None for every one that this release knows.
        fp16: the fp16 graphs alone.

    Raises:
        UsageError: no such backend.
    """
    known = (*BACKENDS, *PLANNED)
    if backend not in (None, "auto", *known):
        raise UsageError(f"unknown backend '{backend}'\n  expected auto or one of: {', '.join(known)}")
    precisions: tuple[Precision, ...] = ("fp16",) if fp16 else get_args(Precision)
    names = known if backend is None else (backend,)
    return [Case(name, precision, fused) for name in names for precision in precisions for fused in _sets(manifest, precision)]


def _sets(manifest: Manifest, precision: Precision) -> tuple[bool, ...]:
    """Fused graphs first, where the bundle has them."""
    variant = manifest.variants.get(precision)
    return (True, False) if variant is not None and set(FUSED) <= set(variant.graphs) else (False,)
