"""What `svg-bench` measures: every backend, precision and set of graphs that could run a bundle."""

from __future__ import annotations

from svg_runtime.backends import BACKENDS, COMPUTE_BF16, check_backend
from svg_runtime.bundle.contract import has_separate, has_step
from svg_runtime.bundle.manifest import PRECISIONS, Manifest, Precision
from svg_runtime.calibration.ways import Way


def list_cases(manifest: Manifest, backend: str | None, precision: Precision | None) -> list[Way]:
    """List the cases in the order of the table, grouped by backend.

    A precision that the bundle lacks is one case, which fails with the reason.

    Args:
        manifest: of the bundle.
        backend: a backend's name or "auto"; None for all.
        precision: only this one, even if the backend does not support it; None for all that each backend supports.

    Raises:
        UsageError: no such backend.
    """
    if backend is not None:
        check_backend(backend)
    names = BACKENDS if backend is None else (backend,)
    return [
        Way(name, None, each, fused)
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
