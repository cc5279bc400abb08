"""Which OpenVINO device a forecast runs on, in which precision it computes there, and where compiled graphs are kept."""

from __future__ import annotations

import functools
import logging
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_common.cache import cache_folder
from svg_common.errors import SvgError
from svg_common.signals import defer_interrupts
from svg_runtime.bundle.manifest import Precision
from svg_runtime.errors import BackendMissingError, UsageError

_LOG = logging.getLogger(__name__)
_CAPABILITY = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}  # what to ask for -> what OpenVINO calls the device's ability
_CPU_INFO = Path("/proc/cpuinfo")

# Layers with weights, in the lower-case words of execution graphs (CPU and GPU plugins).
_WEIGHTED = {"convolution", "groupconvolution", "deconvolution", "fullyconnected", "fully_connected", "matmul", "gemm"}

# Has all graphs of the process queue for one set of threads, one per core. Without it every compiled graph has a set of its
# own, and they share oneTBB's workers. With each part of a layer goes a note to the thread that should take it; that thread
# alone frees the note, even if the part is done by then. Notes to a worker that is busy with other graphs lie and wait, and
# memory grows (benchmarks/openvino_threads.py). With one set none is elsewhere.
SHARED_THREADS = "EXCLUSIVE_ASYNC_REQUESTS"


@dataclass(frozen=True)
class Placement:
    """A device that is there, and the precision to compute in."""

    device: str  # as OpenVINO names it: CPU, GPU.0, NPU
    compute: str | None  # what to ask for: f32, bf16, f16; None leaves it to the device
    has_f32: bool  # whether recurrent parts can stay in float32
    missed: bool = False  # whether bf16 would be the default, had the model earned it
    named: bool = False  # whether the user asked for `compute`: then it is that or nothing

    @property
    def is_cpu(self) -> bool:
        """Whether the device shares the host's memory and cores."""
        return self.device == "CPU"


def load_openvino() -> Any:
    """The module, without its telemetry: importing it would send a message to Google Analytics, from a process of its own.

    Raises:
        ImportError, OSError, RuntimeError: it does not load.
    """
    telemetry = "openvino_telemetry"
    blocked = telemetry not in sys.modules
    if blocked:
        sys.modules[telemetry] = None  # type: ignore[assignment]  # cannot be imported then; openvino has a stand-in for it
    try:
        with defer_interrupts():
            import openvino
    finally:
        if blocked:
            del sys.modules[telemetry]
    return openvino


@functools.cache
def the_core() -> Any:
    """OpenVINO's entry point: one per process, and never freed.

    Its CPU plugin gives the loading thread a signal stack of its own and puts the former one back when it is freed. Two,
    freed in the order they were made, would leave the thread on freed memory, and the next Ctrl-C, which Python handles on
    that stack, would crash the process.

    Raises:
        ImportError, OSError, RuntimeError: openvino does not load.
    """
    return load_openvino().Core()


def choose_placement(core: Any, wanted: str | None, precision: Precision | None = None, earned: bool = False) -> Placement:
    """Find the device that `wanted` names: DEVICE or DEVICE:PRECISION, in any case; None or "auto" is the CPU.

    Args:
        core: OpenVINO's.
        wanted: what the user named.
        precision: the bundle's variant that was asked for; bf16 says what to compute in, too.
        earned: whether the bundle has the variant bf16: if nothing was asked for, a CPU with units for it then computes in it.

    Raises:
        BackendMissingError: there is no such device, or it cannot compute in that precision.
        UsageError: the precision has no meaning, or another one than `precision`.
    """
    name, _, compute = ("CPU" if wanted in (None, "auto") else str(wanted)).partition(":")
    compute = compute.lower()
    if compute not in ("", *_CAPABILITY):
        raise UsageError(
            f"unknown precision '{compute}' in the device '{wanted}'\n"
            f"  expected one of: {', '.join(_CAPABILITY)}; for example CPU:f32"
        )
    if precision == "bf16":
        if compute not in ("", "bf16"):
            raise UsageError(f"both bf16 and the device '{wanted}' were given\n  expected one of them")
        compute = "bf16"
    there = list(core.available_devices)
    device = name.upper()
    if device not in there and f"{device}.0" not in there:  # with two GPUs they are called GPU.0 and GPU.1
        raise BackendMissingError(
            f"openvino finds no device '{name}' on this machine\n"
            f"  expected one of: {', '.join(there)}; a GPU or an NPU needs Intel's driver"
        )
    abilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    able = [precision for precision, ability in _CAPABILITY.items() if ability in abilities]
    if compute and compute not in able:
        raise BackendMissingError(
            f"the openvino device {device} cannot compute in {compute} here\n  expected one of: {', '.join(able)}"
        )
    if compute or device != "CPU":
        return Placement(device, compute or None, "f32" in able, named=bool(compute))
    faster = precision is None and "bf16" in able and has_bf16_units()
    return Placement(device, "bf16" if faster and earned else "f32", "f32" in able, faster and not earned)


def can_share_threads(core: Any) -> bool:
    """Whether the CPU's graphs can use one set of threads: not one of the properties that OpenVINO promises to keep."""
    return SHARED_THREADS in core.get_property("CPU", "INTERNAL_SUPPORTED_PROPERTIES")


def has_bf16_units() -> bool:
    """Whether the processor multiplies in bf16 (AMX, or AVX-512 with bf16); False where the system does not tell."""
    try:
        return bool({"amx_bf16", "avx512_bf16"} & set(_CPU_INFO.read_text(encoding="utf-8").split()))
    except OSError:
        return False


def computed_precisions(model: Any) -> Counter[str]:
    """Precision -> layers with weights that a compiled model computes in it, from its execution graph.

    The property INFERENCE_PRECISION_HINT of the model is no answer: it repeats what was asked for.

    Args:
        model: openvino.CompiledModel.

    Returns:
        f32, bf16, f16, ... -> layers; empty where the device does not tell.
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
    """f16 of "f16" (CPU), "FP16" or "FLOAT16"."""
    lower = text.lower()
    return lower.replace("float", "f").replace("fp", "f") if lower.startswith("f") else lower


def compiled_model_cache(core: Any, placement: Placement, compute: str | None) -> Path | None:
    """Folder for compiled graphs; None, with a warning, if it cannot be written: opening then takes longer, no more.

    A folder for each precision and for each set of abilities: OpenVINO (2026.4) looks compiled graphs up by their ONNX file and
    the device's full name alone, so a graph that was once compiled in f16 would be returned for f32 too, and the other way
    round; and processors of very different abilities are all called "Intel(R) Xeon(R) Processor" on virtual machines.

    Args:
        core: OpenVINO's.
        placement: the device.
        compute: the precision that is asked for.
    """
    try:
        abilities = sorted(str(each) for each in core.get_property(placement.device, "OPTIMIZATION_CAPABILITIES"))
        folder = cache_folder() / "openvino" / "-".join([placement.device, compute or "default", *abilities]).lower()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, SvgError) as error:
        _LOG.warning("compiled models are not cached: %s; set SVG_EDGE_CACHE to a writable folder", error)
        return None
