"""Which OpenVINO device a forecast runs on, in which precision it computes there, and where compiled graphs are kept."""

from __future__ import annotations

import functools
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_common.cache import cache_folder
from svg_common.errors import SvgError
from svg_common.signals import interrupts_wait
from svg_runtime.errors import BackendMissingError, UsageError
from svg_runtime.manifest import Precision

_CAPABILITY = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}  # what to ask for -> what OpenVINO calls the device's ability
_CPU_INFO = Path("/proc/cpuinfo")

# Has all graphs of the process queue for one set of threads, one per core. Without it every compiled graph has a set of its
# own, and they share oneTBB's workers. With each part of a layer goes a note to the thread that should take it; that thread
# alone frees the note, even if the part is done by then. Notes to a worker that is busy with other graphs lie and wait, and
# memory grows (benchmarks/openvino_threads.py). With one set none is elsewhere.
SHARED_THREADS = "EXCLUSIVE_ASYNC_REQUESTS"


@dataclass(frozen=True)
class Target:
    """A device that is there, and the precision to compute in."""

    device: str  # as OpenVINO names it: CPU, GPU.0, NPU
    compute: str | None  # f32, bf16, f16; None leaves it to the device
    has_f32: bool  # whether recurrent parts can stay in float32
    missed: bool = False  # whether bf16 would be the default, had the model earned it

    @property
    def is_cpu(self) -> bool:
        """Whether the device shares the host's memory and cores."""
        return self.device == "CPU"

    @property
    def wording(self) -> str:
        """The precision, for people."""
        return self.compute or "the device's own precision"


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
        with interrupts_wait():
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


def choose_target(core: Any, wanted: str | None, precision: Precision | None = None, earned: bool = False) -> Target:
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
            f"the device '{wanted}' asks for the precision '{compute}'\n"
            f"  expected one of: {', '.join(_CAPABILITY)}; for example CPU:f32"
        )
    if precision == "bf16":
        if compute not in ("", "bf16"):
            raise UsageError(f"bf16 and the device '{wanted}' were both given\n  leave out one of the two")
        compute = "bf16"
    there = list(core.available_devices)
    device = name.upper()
    if device not in there and f"{device}.0" not in there:  # with two GPUs they are called GPU.0 and GPU.1
        raise BackendMissingError(
            f"openvino finds no device '{name}' here\n"
            f"  expected one of: {', '.join(there)}; a GPU or an NPU is found once Intel's driver for it is installed"
        )
    abilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    able = [precision for precision, ability in _CAPABILITY.items() if ability in abilities]
    if compute and compute not in able:
        raise BackendMissingError(
            f"openvino's device {device} cannot compute in {compute} here\n  expected one of: {', '.join(able)}"
        )
    if compute or device != "CPU":
        return Target(device, compute or None, "f32" in able)
    faster = precision is None and "bf16" in able and has_bf16_units()
    return Target(device, "bf16" if faster and earned else "f32", "f32" in able, faster and not earned)


def can_share_threads(core: Any) -> bool:
    """Whether the CPU's graphs can use one set of threads: not one of the properties that OpenVINO promises to keep."""
    return SHARED_THREADS in core.get_property("CPU", "INTERNAL_SUPPORTED_PROPERTIES")


def has_bf16_units() -> bool:
    """Whether the processor multiplies in bf16 (AMX, or AVX-512 with bf16); False where the system does not tell."""
    try:
        return bool({"amx_bf16", "avx512_bf16"} & set(_CPU_INFO.read_text(encoding="utf-8").split()))
    except OSError:
        return False


def compiled_model_cache() -> Path | None:
    """Folder for compiled graphs; None, with a warning, if it cannot be written: opening then takes longer, no more."""
    try:
        folder = cache_folder() / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, SvgError) as error:
        message = f"compiled models are not kept: {error}; set SVG_EDGE_CACHE to a writable folder"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None
