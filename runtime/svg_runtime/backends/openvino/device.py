"""The OpenVINO device and precision of a forecast."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_common.fork import fork_problem, keep_in_children
from svg_common.signals import defer_interrupts
from svg_runtime.bundle.manifest import Precision
from svg_runtime.errors import BackendMissingError, UsageError

_CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}  # precision -> OpenVINO's name of the capability
_CPU_INFO = Path("/proc/cpuinfo")

# Layers with weights, by their lower-case names in execution graphs (CPU and GPU plugins).
_WEIGHTED = {"convolution", "groupconvolution", "deconvolution", "fullyconnected", "fully_connected", "matmul", "gemm"}

# All graphs of the process use one set of threads, one per core. Without it every compiled graph has its own set, and all sets
# share oneTBB's workers. Each part of a layer sends a task proxy to its preferred thread, and only that thread frees the proxy,
# even if the part is already done. Proxies for a worker that is busy with other graphs pile up, and memory grows
# (benchmarks/openvino_threads.py). With one set this cannot happen.
SHARED_THREADS = "EXCLUSIVE_ASYNC_REQUESTS"


@dataclass(frozen=True)
class Placement:
    """An available device, and the precision to compute in."""

    device: str  # as OpenVINO names it: CPU, GPU.0, NPU
    compute: str | None  # f32, bf16, f16; None lets the device choose
    has_f32: bool  # whether recurrent parts can stay in float32
    bf16_advised: bool = False  # whether bf16 would be the default if the bundle had that variant
    explicit: bool = False  # whether the user requested `compute`, so that nothing else will do

    @property
    def is_cpu(self) -> bool:
        """Whether the device shares the host's memory and cores."""
        return self.device == "CPU"


def load_openvino() -> Any:
    """Import the module without its telemetry, which would send a message to Google Analytics from a separate process.

    Raises:
        ImportError, OSError, RuntimeError: it does not load.
    """
    telemetry = "openvino_telemetry"
    blocked = telemetry not in sys.modules
    if blocked:
        sys.modules[telemetry] = None  # type: ignore[assignment]  # makes its import fail; openvino has a stand-in
    try:
        with defer_interrupts():
            import openvino
    finally:
        if blocked:
            del sys.modules[telemetry]
    return openvino


def shared_core() -> Any:
    """Return OpenVINO's entry point: one per process, never freed.

    Its CPU plugin installs a signal stack in the loading thread and restores the previous one when it is freed. Two cores that
    are freed in the order of their creation would leave the thread on freed memory, and the next Ctrl-C, which Python handles
    on that stack, would crash the process.

    Raises:
        ImportError, OSError, RuntimeError: openvino does not load.
        BackendMissingError: this process was forked from one that uses OpenVINO, in which compiling never returns.
    """
    owner, core = _core_and_its_process()
    problem = fork_problem(owner, "OpenVINO")
    if problem is not None:
        raise BackendMissingError(problem)
    return core


@functools.cache
def _core_and_its_process() -> tuple[int, Any]:
    core = load_openvino().Core()
    keep_in_children(core)
    return os.getpid(), core


def is_device_name(requested: str) -> bool:
    """Whether a user means a device of OpenVINO: CPU, GPU.1, NPU, GPU:f16, in upper or lower case."""
    return re.fullmatch(r"(cpu|gpu|npu)(\.\d+)?(:.*)?", requested.lower()) is not None


def choose_placement(
    core: Any, requested: str | None, precision: Precision | None = None, has_bf16_variant: bool = False
) -> Placement:
    """Find the device that `requested` names: DEVICE or DEVICE:PRECISION, in upper or lower case; None or "auto" means the CPU.

    Args:
        core: OpenVINO's Core.
        requested: the device as the user named it.
        precision: the requested variant of the bundle; bf16 also determines the precision to compute in.
        has_bf16_variant: whether the bundle has a bf16 variant of known quality; without a request, a CPU with bf16 units
            then computes in bf16.

    Raises:
        BackendMissingError: the device does not exist, or cannot compute in that precision.
        UsageError: the precision is unknown, or contradicts `precision`.
    """
    name, _, compute = ("CPU" if requested in (None, "auto") else str(requested)).partition(":")
    compute = compute.lower()
    if compute not in ("", *_CAPABILITIES):
        raise UsageError(
            f"unknown precision '{compute}' in the device '{requested}'\n"
            f"  expected one of: {', '.join(_CAPABILITIES)}; for example CPU:f32"
        )
    if precision == "bf16":
        if compute not in ("", "bf16"):
            raise UsageError(f"both bf16 and the device '{requested}' were given\n  expected one of them")
        compute = "bf16"
    available = list(core.available_devices)
    device = name.upper()
    if device not in available and f"{device}.0" not in available:  # two GPUs are called GPU.0 and GPU.1
        raise BackendMissingError(
            f"openvino finds no device '{name}' on this machine\n"
            f"  expected one of: {', '.join(available)}; a GPU or an NPU needs Intel's driver"
        )
    capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    supported = [precision for precision, capability in _CAPABILITIES.items() if capability in capabilities]
    if compute and compute not in supported:
        raise BackendMissingError(
            f"the openvino device {device} cannot compute in {compute} here\n  expected one of: {', '.join(supported)}"
        )
    if compute or device != "CPU":
        return Placement(device, compute or None, has_f32="f32" in supported, explicit=bool(compute))
    faster = precision is None and "bf16" in supported and has_bf16_units()
    return Placement(
        device=device,
        compute="bf16" if faster and has_bf16_variant else "f32",
        has_f32="f32" in supported,
        bf16_advised=faster and not has_bf16_variant,
    )


def can_share_threads(core: Any) -> bool:
    """Whether graphs on the CPU can share one set of threads: an internal property, which a release of OpenVINO may lack."""
    return SHARED_THREADS in core.get_property("CPU", "INTERNAL_SUPPORTED_PROPERTIES")


def has_bf16_units() -> bool:
    """Whether the CPU multiplies in bf16 (AMX, or AVX-512 with bf16); False if the system does not report it."""
    try:
        return bool({"amx_bf16", "avx512_bf16"} & set(_CPU_INFO.read_text(encoding="utf-8").split()))
    except OSError:
        return False


def computed_precisions(model: Any) -> Counter[str]:
    """Count the layers with weights per precision that a compiled model computes them in, from its execution graph.

    The model's property INFERENCE_PRECISION_HINT would only repeat the request.

    Args:
        model: openvino.CompiledModel.

    Returns:
        f32, bf16, f16, ... -> number of layers; empty if the device does not report it.
    """
    try:
        layers = [layer.get_rt_info() for layer in model.get_runtime_model().get_ordered_ops()]
        kinds = [(_text_of(about, "layerType"), _text_of(about, "runtimePrecision")) for about in layers]
    except Exception:  # a device without an execution graph; OpenVINO raises RuntimeError and classes of its own
        return Counter()
    return Counter(_precision_name(precision) for kind, precision in kinds if kind.lower() in _WEIGHTED and precision)


def _text_of(about: Any, name: str) -> str:
    return str(about[name].astype(str)) if name in about else ""


def _precision_name(text: str) -> str:
    """Normalize "f16" (CPU), "FP16" and "FLOAT16" to f16."""
    lower = text.lower()
    return lower.replace("float", "f").replace("fp", "f") if lower.startswith("f") else lower
