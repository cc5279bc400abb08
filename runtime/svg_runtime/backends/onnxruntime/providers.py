"""ONNX Runtime's execution providers for NVIDIA GPUs: whether they are there, and with which options a graph is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_common.cache import cache_folder
from svg_common.signals import defer_interrupts
from svg_runtime.backends.gpu_options import GpuOptions, no_effect
from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.onnxruntime.session import load_onnxruntime
from svg_runtime.bundle.manifest import GraphSpec, Precision, TensorSpec
from svg_runtime.errors import BackendMissingError, UsageError
from svg_runtime.machine.hardware import this_platform

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
ALLOWED = {
    "cuda": (CUDA,),
    "ort-tensorrt": (TENSORRT, CUDA),
}  # backend -> providers that its nodes may run on, wanted one first
_LIBRARIES = {
    "cuda": "the CUDA and cuDNN libraries: pip install 'onnxruntime-gpu[cuda,cudnn]', or NVIDIA's system packages",
    "ort-tensorrt": "the CUDA, cuDNN and TensorRT libraries that it was built with (TensorRT 10, libnvinfer.so.10, for all "
    "releases up to 1.31), where the system can find them",
}
_GRAPHS_SINCE = (1, 30)  # before, a replay read pointers from host memory that was in other use by then (onnxruntime #32121)


@dataclass(frozen=True)
class Provider:
    """What the sessions of one backend have in common."""

    backend: str
    onnxruntime: Any
    gpu: GpuName
    stream: int
    precision: Precision
    max_batch: int  # TensorRT's engines take every batch from 1 to this one and are tuned for it
    choices: GpuOptions
    messages: str = ""  # what was said while the provider's libraries were loaded

    @property
    def name(self) -> str:
        """The wanted one."""
        return ALLOWED[self.backend][0]

    @property
    def cuda_graph(self) -> bool:
        """Whether graphs are captured: only if asked for, as long as its worth has not been measured."""
        return bool(self.choices.cuda_graph)

    @property
    def chooses_precision(self) -> bool:
        """Whether the library picks each layer's precision: TensorRT in weakly typed networks, which do not tell."""
        return self.backend == "ort-tensorrt" and self.precision == "fp16"

    def options(self, spec: GraphSpec) -> list[tuple[str, dict[str, str]]]:
        """Providers for a session of the graph with this interface, in order, with their options."""
        if self.backend == "cuda":
            return [(CUDA, self._cuda_options())]
        return [(TENSORRT, self._tensorrt_options(spec)), (CUDA, self._cuda_options())]

    def missing(self, reason: str) -> BackendMissingError:
        """What to say when the provider does not start."""
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
            "enable_cuda_graph": str(int(self.cuda_graph)),
        }

    def _tensorrt_options(self, spec: GraphSpec) -> dict[str, str]:
        folder = self._engine_folder(spec)
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            **self._common_options(),
            "trt_fp16_enable": str(int(self.precision == "fp16")),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder.parent),  # for all graphs; its name has the GPU's architecture
            **_profile(spec.inputs, self.max_batch),
        }
        if self.choices.workspace_gib is not None:
            options["trt_max_workspace_size"] = str(int(self.choices.workspace_gib * 2**30))
        return options

    def _engine_folder(self, spec: GraphSpec) -> Path:
        """One for each graph, batch, machine and library.

        ONNX Runtime names an engine after the names in the graph, not after its weights (see LeelaChessZero/lc0 #2214) or its
        shapes (onnxruntime #32254): in one folder, a bundle would get the engines of another training run. The TensorRT in the
        name is the one that it was built with, and an engine that the one there does not load is an error, not built again.
        """
        libraries = self.onnxruntime.__version__, _tensorrt_version()
        machine = this_platform(), self.gpu.model, self.gpu.compute_capability
        parts = (spec.sha256, self.precision, self.max_batch, self.choices.workspace_gib, libraries, machine)
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
        return cache_folder(self.choices.cache_dir) / "ort-tensorrt" / key


def check_choices(backend: str, choices: GpuOptions) -> None:
    """Refuse what a backend has no use for, or cannot do together.

    ONNX Runtime's TensorRT provider keeps a single CUDA graph per session, whatever `gpu_graph_id` says (so in 1.30), and
    replays it with the addresses of the first run: as states have two buffers, every second step would use the wrong ones.

    Raises:
        UsageError: options that mean nothing there.
    """
    engine_flags = [flag for flag in choices.given if flag in ("--cache-dir", "--workspace")]
    if backend == "cuda" and engine_flags:
        raise no_effect(engine_flags, backend, reason=", which builds no engines")
    if backend == "ort-tensorrt" and choices.cuda_graph:
        raise UsageError(
            "--cuda-graph is not available with the ort-tensorrt backend: ONNX Runtime replays one graph with fixed addresses "
            "there, but every state has two buffers\n  remove it, or use --backend tensorrt"
        )
    if choices.cuda_graph and choices.cpu_fallback:
        raise UsageError(
            "both --cuda-graph and --cpu-fallback were given, but a CUDA graph cannot replay nodes that run on the CPU\n"
            "  expected one of them"
        )


def load_provider(backend: str, cuda_graph: bool) -> tuple[Any, str]:
    """ONNX Runtime with the backend's provider, and what was said while its libraries were loaded.

    Args:
        backend: cuda or ort-tensorrt.
        cuda_graph: whether graphs are to be captured.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        BackendMissingError: it does not load, has no such provider, or is too old for what is asked.
    """
    onnxruntime = load_onnxruntime(backend, "gpu")
    wanted, there = ALLOWED[backend][0], onnxruntime.get_available_providers()
    if wanted not in there:
        raise BackendMissingError(
            f"the {backend} backend needs an onnxruntime with {wanted}; the installed one has {', '.join(there)}\n"
            "  expected an NVIDIA GPU and onnxruntime-gpu without onnxruntime, which hides it when both are installed\n"
            "  with a GPU: pip uninstall onnxruntime onnxruntime-gpu && pip install 'svg-edge[gpu]'; without: --backend cpu"
        )
    if cuda_graph and _release(onnxruntime.__version__) < _GRAPHS_SINCE:
        needed = ".".join(map(str, _GRAPHS_SINCE))
        raise BackendMissingError(
            f"the {backend} backend produces wrong frames with the CUDA graphs of ONNX Runtime {onnxruntime.__version__}\n"
            f"  expected {needed} or later; else remove --cuda-graph, or use --backend tensorrt"
        )
    onnxruntime.set_default_logger_severity(3)  # it warns of every provider that is no plug-in
    if backend == "ort-tensorrt":
        # The provider has no option for it (onnxruntime #26029), TensorRT and the CUDA libraries read this when they start: it
        # holds for the whole process, and comes too late for what has used the GPU in this process before.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    return onnxruntime, _preload_libraries(onnxruntime, backend)


def _preload_libraries(onnxruntime: Any, backend: str) -> str:
    """Load what comes from Python packages, which the system would not find; the rest is the system's matter."""
    said = io.StringIO()  # stdout belongs to the commands' results
    with contextlib.redirect_stdout(said), defer_interrupts():
        if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
            onnxruntime.preload_dlls()
        if backend == "ort-tensorrt":
            with contextlib.suppress(ImportError, OSError, RuntimeError):
                import tensorrt  # noqa: F401  (loads its libraries, of which the provider then finds the ones it needs)
    return "\n  ".join(said.getvalue().splitlines())


def _release(version: str) -> tuple[int, ...]:
    """Of "1.30.0": (1, 30)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _tensorrt_version() -> str:
    """Of the TensorRT that the provider finds; "" where that cannot be told."""
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        import tensorrt

        version = str(tensorrt.__version__)
        if version.startswith("10."):  # another one is not what the provider was built with
            return version
    with contextlib.suppress(OSError, AttributeError):  # a package of the system, without Python
        return str(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    return ""


def _profile(inputs: tuple[TensorSpec, ...], max_batch: int) -> dict[str, str]:
    """Shapes that the engine is built for, in the provider's notation: h:1x128,z:1x10."""
    dynamic = [tensor for tensor in inputs if any(isinstance(size, str) for size in tensor.shape)]
    ranges = {tensor.name: tensor.batch_range(max_batch) for tensor in dynamic}
    return {
        f"trt_profile_{which}_shapes": ",".join(f"{name}:{'x'.join(map(str, found[at]))}" for name, found in ranges.items())
        for at, which in enumerate(("min", "opt", "max"))
    }
