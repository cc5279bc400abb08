"""Backends by name. A backend that the user names is used or refused with the reason, never silently replaced."""

from __future__ import annotations

from svg_common.command import is_installed
from svg_runtime.backends.base import Backend
from svg_runtime.bundle import Bundle
from svg_runtime.errors import BackendMissingError, UsageError
from svg_runtime.manifest import Precision

BACKENDS = ("cpu", "openvino")  # what this release can run
COMPUTE_BF16 = ("openvino",)  # those of them that know the precision bf16
PLANNED = ("cuda", "tensorrt", "tensorrt-rtx", "ort-tensorrt")


def open_backend(
    bundle: Bundle, name: str, device: str | None, precision: Precision | None, threads: int | None = None
) -> Backend:
    """Load a bundle's graphs on a backend.

    Args:
        bundle: the opened bundle.
        name: a backend, or "auto" for the fastest one that works here: openvino where it is installed and the processor has
            bf16 units, else cpu.
        device: where to run; None or "auto" leaves it to the backend.
        precision: fp32, fp16 or bf16; None leaves it to the backend (cpu: fp32, the faster one there; openvino: bf16 where the
            bundle has it and the processor has units for it, else fp32). "auto" takes openvino for bf16, which cpu has not.
        threads: of a processor; None takes one per usable core. Other devices have no use for it.

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
    if name == "auto":
        return _open_fastest(bundle, device, precision, threads)
    opener = _open_openvino if name == "openvino" else _open_cpu
    return opener(bundle, device, precision, threads)


def _open_fastest(bundle: Bundle, device: str | None, precision: Precision | None, threads: int | None) -> Backend:
    """OpenVINO where it is faster; should it not work there, the cpu backend, whose description then says why."""
    if precision == "bf16":
        return _open_openvino(bundle, device, precision, threads)
    if device not in (None, "auto", "cpu") or not _openvino_is_faster():
        return _open_cpu(bundle, device, precision, threads)
    try:
        return _open_openvino(bundle, device, precision, threads)
    except BackendMissingError as error:
        backend = _open_cpu(bundle, device, precision, threads)
        backend.description += f"; openvino does not work here: {str(error).splitlines()[0]}"
        return backend


def _openvino_is_faster() -> bool:
    """Whether openvino is installed and the processor has bf16 units: measured there, in f32 too (see benchmarks/README.md)."""
    from svg_runtime.backends.openvino_device import has_bf16_units

    return has_bf16_units() and is_installed("openvino")


def _open_cpu(bundle: Bundle, device: str | None, precision: Precision | None, threads: int | None) -> Backend:
    from svg_runtime.backends.ort import CpuBackend

    return CpuBackend(bundle, precision or "fp32", device, threads)


def _open_openvino(bundle: Bundle, device: str | None, precision: Precision | None, threads: int | None) -> Backend:
    from svg_runtime.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(bundle, precision, device, threads)
