"""Backends by name. A backend that the user names is used or refused with the reason, never silently replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svg_common.command import is_installed
from svg_common.progress import NullListener, ProgressListener
from svg_runtime.backends.base import Backend
from svg_runtime.backends.gpu_options import GpuOptions, no_effect
from svg_runtime.bundle.manifest import Manifest, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, UsageError

if TYPE_CHECKING:
    from svg_runtime.backends.onnxruntime.cpu import CpuBackend

ORT_NVIDIA, TENSORRT = ("cuda", "ort-tensorrt"), ("tensorrt", "tensorrt-rtx")
NVIDIA = (*ORT_NVIDIA, *TENSORRT)  # on NVIDIA GPUs only
BACKENDS = ("cpu", "openvino", *NVIDIA)
COMPUTE_BF16 = ("openvino",)  # those of them that know the precision bf16


def open_backend(
    bundle: Bundle,
    name: str,
    device: str | None,
    precision: Precision | None,
    threads: int | None = None,
    samples: int = 8,
    gpu: GpuOptions | None = None,
    progress: ProgressListener | None = None,
) -> Backend:
    """Load a bundle's graphs on a backend.

    Args:
        bundle: the opened bundle.
        name: a backend, or "auto" for the fastest one that works here: openvino where it is installed and the processor has
            bf16 units, else cpu. NVIDIA GPUs have to be named.
        device: where to run; None or "auto" leaves it to the backend.
        precision: fp32, fp16 or bf16; None leaves it to the backend (cpu: fp32, the faster one there; openvino: bf16 where the
            bundle has it and the processor has units for it, else fp32; NVIDIA GPUs: fp16 where the bundle has it). "auto"
            takes openvino for bf16, which cpu has not.
        threads: of a processor; None takes one per usable core. Other devices have no use for it.
        samples: the largest batch that will be asked for: TensorRT's engines are built for it.
        gpu: choices for NVIDIA GPUs.
        progress: who is told while engines are built.

    Raises:
        UsageError: no such backend, or choices that it has no use for.
        BackendMissingError: the backend, its library, the device or the precision is not to be had.
    """
    if name not in ("auto", *BACKENDS):
        raise UsageError(f"unknown backend '{name}'\n  expected auto or one of: {', '.join(BACKENDS)}")
    choices = gpu or GpuOptions()
    if name in NVIDIA:
        return _open_nvidia(bundle, name, device, precision, samples, choices, progress or NullListener())
    if choices.given:
        raise no_effect(choices.given, name, advice=f", or use --backend with one of: {', '.join(NVIDIA)}")
    if name == "auto":
        return _open_fastest(bundle, device, precision, threads)
    opener = _open_openvino if name == "openvino" else _open_cpu
    return opener(bundle, device, precision, threads)


def nvidia_precision(manifest: Manifest) -> Precision:
    """What a bundle runs in on an NVIDIA GPU if nobody says: fp16 where it has it, for which it was exported."""
    return "fp16" if "fp16" in manifest.variants else "fp32"


def _open_nvidia(
    bundle: Bundle,
    name: str,
    device: str | None,
    precision: Precision | None,
    samples: int,
    choices: GpuOptions,
    progress: ProgressListener,
) -> Backend:
    if precision == "bf16":
        raise BackendMissingError(
            f"the {name} backend does not compute in bf16\n  expected fp32 or fp16, or --backend openvino"
        )
    wanted = precision or nvidia_precision(bundle.manifest)
    if name in ORT_NVIDIA:
        from svg_runtime.backends.onnxruntime.gpu import OrtGpuBackend

        return OrtGpuBackend(name, bundle, wanted, device, samples, choices, progress)
    from svg_runtime.backends.tensorrt.backend import TensorrtBackend

    return TensorrtBackend(name, bundle, wanted, device, samples, choices, progress)


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
    """Whether openvino is installed and the processor has bf16 units: measured there, in f32 too (see docs/results.md)."""
    from svg_runtime.backends.openvino.device import has_bf16_units

    return has_bf16_units() and is_installed("openvino")


def _open_cpu(bundle: Bundle, device: str | None, precision: Precision | None, threads: int | None) -> CpuBackend:
    from svg_runtime.backends.onnxruntime.cpu import CpuBackend

    return CpuBackend(bundle, precision or "fp32", device, threads)


def _open_openvino(bundle: Bundle, device: str | None, precision: Precision | None, threads: int | None) -> Backend:
    from svg_runtime.backends.openvino.backend import OpenVinoBackend

    return OpenVinoBackend(bundle, precision, device, threads)
