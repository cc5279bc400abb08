"""Backends by name. A backend that the user names is used or refused with the reason, never silently replaced."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svg_common.arguments import check_count, check_flag
from svg_common.command import is_installed
from svg_common.errors import first_line
from svg_common.progress import NullListener, ProgressListener
from svg_runtime.backends.base import Backend
from svg_runtime.backends.gpu_options import GpuOptions, no_effect
from svg_runtime.bundle.manifest import PRECISIONS, Manifest, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, BundleError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from svg_runtime.backends.onnxruntime.cpu import CpuBackend

_LOG = logging.getLogger(__name__)
ORT_NVIDIA, TENSORRT = ("cuda", "ort-tensorrt"), ("tensorrt", "tensorrt-rtx")
NVIDIA = (*ORT_NVIDIA, *TENSORRT)  # on NVIDIA GPUs only
BACKENDS = ("cpu", "openvino", *NVIDIA)
WITH_ENGINES = ("ort-tensorrt", *TENSORRT)  # backends that build engines, in folders of their names in the cache
COMPUTE_BF16 = ("openvino",)  # backends that can compute in bf16
THREADS_LIMIT = 256


@dataclass(frozen=True)
class _Request:
    """What every backend is opened with, see `open_backend`."""

    bundle: Bundle
    device: str | None
    precision: Precision | None
    threads: int | None
    samples: int
    shuffled: bool | None
    lanes: int

    @property
    def bundle_of_decoder(self) -> Bundle:
        """The bundle with the decoder that runs, where the backend does not choose it."""
        return self.bundle.with_decoder(bool(self.shuffled))


def open_backend(
    bundle: Bundle,
    name: str,
    device: str | None,
    precision: Precision | None,
    threads: int | None = None,
    samples: int = 8,
    gpu: GpuOptions | None = None,
    progress: ProgressListener | None = None,
    shuffled: bool | None = None,
    lanes: int = 1,
) -> Backend:
    """Load a bundle's graphs into a backend.

    Args:
        bundle: the opened bundle.
        name: a backend, or "auto" for a rule of thumb, which `Forecaster.open` takes where it does not measure: cuda where
            onnxruntime-gpu is installed and finds a GPU; else openvino where it is installed and the CPU has bf16 units; else
            cpu. Without ONNX Runtime it is what else is installed: openvino; else tensorrt; else tensorrt-rtx.
        device: where to run; None or "auto" lets the backend choose. Another than cpu makes "auto" open the backend that has
            it: cuda for cuda or cuda:1 (without ONNX Runtime tensorrt or tensorrt-rtx), openvino for CPU, GPU or NPU.
        precision: fp32, fp16 or bf16; None lets the backend choose. cpu: fp32, which is faster there. openvino: bf16 if the
            bundle has it and the CPU has units for it, else fp32. NVIDIA GPUs: fp16 if the bundle has it. A variant whose
            quality against the truth was not measured is never chosen. With bf16, "auto" means openvino, because cpu does
            not support it.
        threads: CPU threads; None means one per usable core. Ignored on other devices.
        samples: the largest batch that will be used: TensorRT engines are built for it.
        gpu: options for NVIDIA GPUs.
        progress: listener for the building of engines.
        shuffled: whether to run the graph `decoder_shuffled` as the decoder. None lets the backend choose: openvino takes it
            on a CPU where the bundle has it, the others do not.
        lanes: on a CPU, how many graphs can run at the same time, if there are so many threads; they share them equally.

    Raises:
        UsageError: no such backend, an invalid value, or options that have no effect with it.
        BackendMissingError: the backend, its library, the device, the precision or the decoder is not available.
    """
    check_backend(name)
    if not isinstance(bundle, Bundle):
        raise UsageError(f"bundle is {bundle!r}\n  expected an opened one: Bundle.open(path)")
    check_options(precision=precision, threads=threads, gpu=gpu, progress=progress, shuffled=shuffled)
    check_count("samples", samples)
    check_count("lanes", lanes)
    gpu_options = gpu or GpuOptions()
    request = _Request(
        bundle=bundle, device=device, precision=precision, threads=threads, samples=samples, shuffled=shuffled, lanes=lanes
    )  # fmt: skip
    if name in NVIDIA:
        return _open_nvidia(request, name, gpu_options, progress or NullListener())
    if gpu_options.given:
        raise no_effect(gpu_options.given, name, advice=f", or use --backend with one of: {', '.join(NVIDIA)}")
    if name == "auto":
        return _open_fastest(request, gpu_options, progress or NullListener())
    if name == "openvino":
        return _open_openvino(request)
    return _open_cpu(request)


def check_backend(name: str) -> None:
    """Refuse what is neither the name of a backend nor "auto".

    Raises:
        UsageError: there is no such backend.
    """
    if name not in ("auto", *BACKENDS):
        raise UsageError(f"unknown backend '{name}'\n  expected auto or one of: {', '.join(BACKENDS)}")


def check_options(
    precision: Precision | None,
    threads: int | None,
    gpu: GpuOptions | None,
    progress: ProgressListener | None,
    shuffled: bool | None,
) -> None:
    """Refuse what no backend can do, see `open_backend`.

    Raises:
        UsageError: an invalid value.
    """
    if precision not in (None, *PRECISIONS):
        raise UsageError(f"unknown precision '{precision}'\n  expected one of: {', '.join(PRECISIONS)}")
    if threads is not None:
        check_count("threads", threads, THREADS_LIMIT)
    if not isinstance(gpu, (GpuOptions, type(None))):
        raise UsageError(f"gpu is {gpu!r}\n  expected a GpuOptions, or None")
    if progress is not None and not callable(getattr(progress, "progress", None)):
        raise UsageError(f"progress is {progress!r}\n  expected an object with a method progress(task, share), or None")
    check_flag("shuffled", shuffled, or_none=True)


def engine_stamps(bundle: Bundle, samples: int) -> list[str]:
    """Return what changes when a TensorRT engine for a bundle becomes ready, is replaced or is removed.

    It is read from the bundle and the cache in milliseconds, and no library is loaded.

    Args:
        bundle: the opened bundle.
        samples: the largest batch that will be used.
    """
    from svg_runtime.backends.nvidia.engine_files import BUNDLE_FOLDER, engine_folders

    caches = [folder / name for folder in engine_folders(None) for name in WITH_ENGINES]
    if not any(folder.is_dir() for folder in (bundle.path / BUNDLE_FOLDER, *caches)):
        return []
    from svg_runtime.backends.onnxruntime.cached_engines import ort_engine_stamps
    from svg_runtime.backends.tensorrt.ready import tensorrt_engine_stamps

    return sorted([*ort_engine_stamps(bundle, samples), *tensorrt_engine_stamps(bundle, samples)])


def nvidia_precision(manifest: Manifest) -> Precision:
    """Default precision on NVIDIA GPUs: fp16 if the bundle has it with measured quality, else fp32."""
    return "fp16" if manifest.quality_is_known("fp16") else "fp32"


def _open_nvidia(request: _Request, name: str, gpu_options: GpuOptions, progress: ProgressListener) -> Backend:
    if request.precision == "bf16":
        raise BackendMissingError(
            f"the {name} backend does not compute in bf16\n  expected fp32 or fp16, or --backend openvino"
        )
    bundle = request.bundle_of_decoder
    precision = request.precision or nvidia_precision(bundle.manifest)
    if name in ORT_NVIDIA:
        from svg_runtime.backends.onnxruntime.gpu import OrtGpuBackend

        return OrtGpuBackend(
            name=name,
            bundle=bundle,
            precision=precision,
            device=request.device,
            samples=request.samples,
            gpu_options=gpu_options,
            progress=progress,
        )
    from svg_runtime.backends.tensorrt.backend import TensorrtBackend

    return TensorrtBackend(
        name=name,
        bundle=bundle,
        precision=precision,
        device=request.device,
        samples=request.samples,
        gpu_options=gpu_options,
        progress=progress,
    )


def _open_fastest(request: _Request, gpu_options: GpuOptions, progress: ProgressListener) -> Backend:
    """A GPU, then OpenVINO where it is faster, then the cpu backend, whose description tells why the others do not work."""
    if request.device not in (None, "auto", "cpu"):
        return _open_backend_with(request, str(request.device), gpu_options, progress)
    if request.precision == "bf16":
        return _open_openvino(request)
    failures = ""
    if request.device != "cpu" and cuda_is_installed():
        try:
            return _open_nvidia(request, "cuda", gpu_options, progress)
        except (BackendMissingError, BundleError) as error:  # a bundle that is damaged fails on the cpu backend, too
            failures += _does_not_work("cuda", error)
    if _openvino_is_faster():
        try:
            return _open_openvino(request, remark=failures)
        except (BackendMissingError, BundleError) as error:
            failures += _does_not_work("openvino", error)
    tensorrt = None if request.device == "cpu" else _only_tensorrt()
    if tensorrt is not None:
        if not engine_stamps(request.bundle, request.samples):
            _LOG.info("auto takes %s, as no other engine runs here; building its engines takes minutes, once", tensorrt)
        return _open_nvidia(request, tensorrt, gpu_options, progress)
    backend = _open_cpu(request)
    backend.description += failures
    return backend


def _open_backend_with(request: _Request, device: str, gpu_options: GpuOptions, progress: ProgressListener) -> Backend:
    """The backend that has the device which the user names: one for NVIDIA GPUs or openvino, as the cpu backend has cpu alone.

    Raises:
        BackendMissingError: no backend has such a device, or it is not available.
    """
    from svg_runtime.backends.nvidia.device import is_gpu_name
    from svg_runtime.backends.openvino.device import is_device_name

    if not is_gpu_name(device) and not is_device_name(device):
        raise BackendMissingError(
            f"unknown device '{device}'\n  expected cpu; cuda or cuda:1 for an NVIDIA GPU; or CPU, GPU or NPU for OpenVINO"
        )
    backend = (_only_tensorrt() or "cuda") if is_gpu_name(device) else "openvino"
    try:
        if backend == "openvino":
            return _open_openvino(request)
        return _open_nvidia(request, backend, gpu_options, progress)
    except (BackendMissingError, MissingExtraError) as error:
        raise BackendMissingError(f"'{device}' is a device of the {backend} backend: {error}") from error


def _only_tensorrt() -> str | None:
    """TensorRT's backend where it is installed and ONNX Runtime is not, as on a Jetson: the one way to run on the GPU."""
    from svg_runtime.backends.tensorrt.nvidia_library import LIBRARIES

    if is_installed("onnxruntime"):
        return None
    return next((name for name, module in LIBRARIES.items() if is_installed(module)), None)


def _does_not_work(name: str, error: Exception) -> str:
    return f"; {name} does not work here: {first_line(error)}"


def cuda_is_installed() -> bool:
    """Whether ONNX Runtime has its CUDA provider: on the GPU that was measured it is faster (docs/results.md)."""
    if not is_installed("cuda.bindings") or not is_installed("onnxruntime"):
        return False
    from svg_runtime.backends.onnxruntime.providers import has_provider

    return has_provider("cuda")


def _openvino_is_faster() -> bool:
    """Whether openvino is installed, and the CPU has bf16 units: there it was measured faster, in f32 too (docs/results.md).

    Without ONNX Runtime the cpu backend does not run at all.
    """
    from svg_runtime.backends.openvino.device import has_bf16_units

    return is_installed("openvino") and (has_bf16_units() or not is_installed("onnxruntime"))


def _open_cpu(request: _Request) -> CpuBackend:
    from svg_runtime.backends.onnxruntime.cpu import CpuBackend

    return CpuBackend(
        bundle=request.bundle_of_decoder,
        precision=request.precision or "fp32",
        device=request.device,
        threads=request.threads,
        lanes=request.lanes,
    )


def _open_openvino(request: _Request, remark: str = "") -> Backend:
    from svg_runtime.backends.openvino.backend import OpenVinoBackend

    return OpenVinoBackend(
        bundle=request.bundle,
        precision=request.precision,
        device=request.device,
        threads=request.threads,
        remark=remark,
        shuffled=request.shuffled,
        lanes=request.lanes,
    )
