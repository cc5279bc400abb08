"""Backends by name. A backend that the user names is used or refused with the reason, never silently replaced."""

from __future__ import annotations

from svg_runtime.backends.base import Backend
from svg_runtime.bundle import Bundle
from svg_runtime.errors import BackendMissingError, UsageError
from svg_runtime.manifest import Precision

BACKENDS = ("cpu",)  # what this release can run, fastest first: `auto` takes the first
PLANNED = ("cuda", "tensorrt", "tensorrt-rtx", "ort-tensorrt", "openvino")


def open_backend(bundle: Bundle, name: str, device: str | None, precision: Precision | None) -> Backend:
    """Load a bundle's graphs on a backend.

    Args:
        bundle: the opened bundle.
        name: a backend, or "auto" for the fastest one that works here.
        device: where to run; None or "auto" leaves it to the backend.
        precision: fp32 or fp16; None leaves it to the backend (cpu: fp32, the faster one there).

    Raises:
        UsageError: no such backend.
        BackendMissingError: the backend, its library, the device or the precision is not to be had.
    """
    if name in PLANNED:
        raise BackendMissingError(
            f"backend '{name}' is not part of this release\n  expected auto or one of: {', '.join(BACKENDS)}"
        )
    if name not in ("auto", *BACKENDS):
        raise UsageError(f"unknown backend '{name}'\n  expected auto or one of: {', '.join(BACKENDS)}")
    from svg_runtime.backends.ort import CpuBackend

    return CpuBackend(bundle, precision or "fp32", device)
