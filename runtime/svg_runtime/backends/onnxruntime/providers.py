"""ONNX Runtime's execution providers for NVIDIA GPUs: whether they are available, and the options for loading a graph."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import os
import re
from dataclasses import dataclass
from typing import Any

from svg_common.signals import defer_interrupts
from svg_runtime.backends.gpu_options import GpuOptions, no_effect
from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.onnxruntime.cached_engines import OrtEngines
from svg_runtime.backends.onnxruntime.session import load_onnxruntime
from svg_runtime.bundle.manifest import GraphSpec, Precision, TensorSpec
from svg_runtime.errors import BackendMissingError, UsageError
from svg_runtime.machine.hardware import this_platform

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
ALLOWED = {
    "cuda": (CUDA,),
    "ort-tensorrt": (TENSORRT, CUDA),
}  # backend -> providers that its nodes may run on, the main one first
_LIBRARIES = {
    "cuda": "the CUDA and cuDNN libraries: pip install 'onnxruntime-gpu[cuda,cudnn]', or NVIDIA's system packages",
    "ort-tensorrt": "the CUDA, cuDNN and TensorRT libraries that it was built with (TensorRT 10, libnvinfer.so.10, for all "
    "releases up to 1.31): pip install 'tensorrt-cu13<11', or with CUDA 12 'tensorrt-cu12<11', or NVIDIA's system packages",
}
_GRAPHS_SINCE = (1, 30)  # before, a replay read pointers from host memory that had been reused (onnxruntime #32121)


@dataclass(frozen=True)
class Provider:
    """Everything that the sessions of one backend share."""

    backend: str
    onnxruntime: Any
    gpu: GpuName
    stream: int
    precision: Precision
    max_batch: int  # the largest batch that will be used
    gpu_options: GpuOptions
    cuda_graph: bool  # whether runs are captured as CUDA graphs and replayed
    messages: str = ""  # what was printed while the provider's libraries were loaded
    engines: OrtEngines | None = None  # those of TensorRT

    @property
    def name(self) -> str:
        """ONNX Runtime's name of the main provider."""
        return ALLOWED[self.backend][0]

    @property
    def hides_precision(self) -> bool:
        """Whether the precision of layers is not known: TensorRT chooses it in weakly typed networks and does not report it."""
        return self.backend == "ort-tensorrt"

    def options(self, spec: GraphSpec) -> list[tuple[str, dict[str, str]]]:
        """Return the providers for a session of a graph with this interface, in order, with their options."""
        if self.backend == "cuda":
            return [(CUDA, self._cuda_options())]
        return [(TENSORRT, self._tensorrt_options(spec)), (CUDA, self._cuda_options())]

    def missing(self, reason: str) -> BackendMissingError:
        """Return the error for a provider that does not start."""
        lines = [line.strip() for line in (reason, self.messages) if line.strip()]
        return BackendMissingError(
            "\n  ".join(
                [
                    f"the {self.backend} backend cannot start the {self.name} of ONNX Runtime {self.onnxruntime.__version__}",
                    *lines,
                    f"expected {_LIBRARIES[self.backend]}; or use --backend cpu",
                ]
            )
        )

    def _common_options(self) -> dict[str, str]:
        # One stream for the provider's kernels and our copies: that alone keeps them in order.
        return {"device_id": str(self.gpu.index), "user_compute_stream": str(self.stream)}

    def _cuda_options(self) -> dict[str, str]:
        return {
            **self._common_options(),
            "use_tf32": "0",  # fp32 promises float32, and the recurrent parts of fp16 are float32, too
            # Trying all of cuDNN's convolutions finds the fastest in float32, but slow ones in float16 (docs/results.md).
            "cudnn_conv_algo_search": "HEURISTIC" if self.precision == "fp16" else "EXHAUSTIVE",
            "enable_cuda_graph": str(int(self.cuda_graph)),
        }

    def _tensorrt_options(self, spec: GraphSpec) -> dict[str, str]:
        assert self.engines is not None
        place = self.engines.folder(self.engine_key(spec))
        options = {
            **self._common_options(),
            "trt_fp16_enable": str(self.precision == "fp16"),  # "True" or "False": this provider refuses "1" and "0"
            **_profile(spec.inputs, place.max_batch),
        }
        if place.path is not None:  # timings are kept in this folder, too
            options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(place.path)}
            options |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(place.path)}
        if self.gpu_options.workspace_gib is not None:
            options["trt_max_workspace_size"] = str(int(self.gpu_options.workspace_gib * 2**30))
        return options

    def engine_key(self, spec: GraphSpec) -> str:
        """Return the key of a graph's engines, of which each key has folders of its own.

        ONNX Runtime names an engine after the names in the graph, not after its weights (see LeelaChessZero/lc0 #2214) or its
        shapes (onnxruntime #32254): in a shared folder, a bundle would load the engines of another training run. The version in
        the key is that of the TensorRT it was built with; an engine that the installed one cannot load is an error, and is
        not rebuilt.
        """
        libraries = self.onnxruntime.__version__, _tensorrt_version()
        machine = this_platform(), self.gpu.model, self.gpu.compute_capability
        parts = (spec.sha256, self.precision, self.gpu_options.workspace_gib, libraries, machine)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def wants_cuda_graph(backend: str, onnxruntime: Any, gpu_options: GpuOptions) -> bool:
    """Whether graphs are captured: as the user says, else wherever that works, because replays are faster (docs/results.md)."""
    if gpu_options.cuda_graph is not None:
        return gpu_options.cuda_graph
    return backend == "cuda" and not gpu_options.cpu_fallback and _release(onnxruntime.__version__) >= _GRAPHS_SINCE


def check_gpu_options(backend: str, gpu_options: GpuOptions) -> None:
    """Refuse options that have no effect with a backend or exclude each other.

    ONNX Runtime's TensorRT provider keeps a single CUDA graph per session, whatever `gpu_graph_id` says (seen in 1.30), and
    replays it with the addresses of the first run: since states have two buffers, every second step would use the wrong ones.

    Raises:
        UsageError: options that have no effect, or that cannot be combined.
    """
    engine_flags = [flag for flag in gpu_options.given if flag in ("--cache-dir", "--workspace")]
    if backend == "cuda" and engine_flags:
        raise no_effect(engine_flags, backend, reason=", which builds no engines")
    if backend == "ort-tensorrt" and gpu_options.cuda_graph:
        raise UsageError(
            "--cuda-graph is not available with the ort-tensorrt backend: ONNX Runtime replays one graph with fixed addresses "
            "there, but every state has two buffers\n  remove it, or use --backend tensorrt"
        )
    if gpu_options.cuda_graph and gpu_options.cpu_fallback:
        raise UsageError(
            f"both --cuda-graph and --cpu-fallback were given to the {backend} backend, but a CUDA graph cannot replay nodes "
            "that run on the CPU\n  expected one of them"
        )


def has_provider(backend: str) -> bool:
    """Whether the installed onnxruntime loads and contains the backend's provider; its GPU and its libraries may be missing."""
    try:
        return ALLOWED[backend][0] in load_onnxruntime(backend, "gpu").get_available_providers()
    except BackendMissingError:
        return False


def load_provider(backend: str, cuda_graph: bool) -> tuple[Any, str]:
    """Import ONNX Runtime with the backend's provider; also return what was printed while its libraries were loaded.

    Args:
        backend: cuda or ort-tensorrt.
        cuda_graph: whether graphs will be captured.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        BackendMissingError: it does not load, lacks the provider, or is too old for CUDA graphs.
    """
    onnxruntime = load_onnxruntime(backend, "gpu")
    provider, available = ALLOWED[backend][0], onnxruntime.get_available_providers()
    if provider not in available:
        raise BackendMissingError(
            f"the {backend} backend needs an onnxruntime with {provider}; the installed one has {', '.join(available)}\n"
            "  expected an NVIDIA GPU and onnxruntime-gpu without onnxruntime, which hides it when both are installed\n"
            "  with a GPU: pip uninstall -y onnxruntime onnxruntime-gpu && "
            "pip install 'onnxruntime-gpu[cuda,cudnn]' 'cuda-bindings>=12'\n"
            "  with a driver before 580: the same with 'onnxruntime-gpu[cuda,cudnn]<1.27' 'cuda-bindings<13'; "
            "without a GPU: --backend cpu"
        )
    if cuda_graph and _release(onnxruntime.__version__) < _GRAPHS_SINCE:
        needed = ".".join(map(str, _GRAPHS_SINCE))
        raise BackendMissingError(
            f"the {backend} backend produces wrong frames with the CUDA graphs of ONNX Runtime {onnxruntime.__version__}\n"
            f"  expected {needed} or later; else remove --cuda-graph, or use --backend tensorrt"
        )
    onnxruntime.set_default_logger_severity(3)  # it warns about every provider that is not a plug-in
    if backend == "ort-tensorrt":
        # The provider has no option for TF32 (onnxruntime #26029); TensorRT and the CUDA libraries read this variable when they
        # start. It applies to the whole process, and not to libraries that already use the GPU.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    return onnxruntime, _preload_libraries(onnxruntime, backend)


def _preload_libraries(onnxruntime: Any, backend: str) -> str:
    """Load libraries from Python packages, where the system would not find them."""
    printed = io.StringIO()  # stdout is for the results of the commands
    with contextlib.redirect_stdout(printed), defer_interrupts():
        if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
            onnxruntime.preload_dlls()
        if backend == "ort-tensorrt":
            with contextlib.suppress(ImportError, OSError, RuntimeError):
                import tensorrt  # noqa: F401  (loads the libraries that the provider needs)
    return "\n  ".join(printed.getvalue().splitlines())


def _release(version: str) -> tuple[int, ...]:
    """Parse "1.30.0" into (1, 30)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _tensorrt_version() -> str:
    """Return the version of the TensorRT that the provider finds; "" if unknown."""
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        import tensorrt

        version = str(tensorrt.__version__)
        if version.startswith("10."):  # the provider was built with TensorRT 10
            return version
    with contextlib.suppress(OSError, AttributeError):  # a system package without Python bindings
        return str(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    return ""


def _profile(inputs: tuple[TensorSpec, ...], max_batch: int) -> dict[str, str]:
    """Return the shapes that the engine is built for, in the provider's notation: h:1x128,z:1x10."""
    dynamic = [tensor for tensor in inputs if any(isinstance(size, str) for size in tensor.shape)]
    ranges = {tensor.name: tensor.batch_range(max_batch) for tensor in dynamic}
    return {
        f"trt_profile_{which}_shapes": ",".join(f"{name}:{'x'.join(map(str, shapes[at]))}" for name, shapes in ranges.items())
        for at, which in enumerate(("min", "opt", "max"))
    }
