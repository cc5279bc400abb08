"""Hardware and versions of this machine, for the JSON of `svg-bench` and of the benchmarks."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import svg_runtime
from svg_runtime.machine.cpu_quota import cpu_quota
from svg_runtime.machine.telemetry import nvidia_smi

_SIMD = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "neon", "sve", "bf16", "i8mm")
# oneDNN, and so OpenVINO's CPU plugin, then uses fewer instructions than the processor has; ONNX Runtime does not read them.
_CPU_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "torch",
    "onnx",
)


def hardware(cpu: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe CPU, memory and accelerators.

    Args:
        cpu: output of py-cpuinfo, of which `brand_raw` and `flags` are used; None: what the system itself reports.
    """
    cpu = system_cpu(Path("/proc/cpuinfo")) if cpu is None else cpu
    return {
        "cpu": cpu.get("brand_raw") or platform.processor() or platform.machine(),
        "cores_usable": usable_cores(),
        "simd": simd_flags(cpu.get("flags", [])),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
        "board": board(Path("/proc/device-tree/model")),
        # Other load makes timings worse: readers of the JSON must be able to see it.
        "load_average": load_average(),
    }


def machine_today() -> dict[str, Any]:
    """Return what belongs to every measurement: `hardware`, `versions` and the date."""
    return {**hardware(), "versions": versions(), "date": date.today().isoformat()}


def versions() -> dict[str, str]:
    """Return the versions of Python, svg-edge and the installed libraries, without importing them."""
    own = {"python": platform.python_version(), "svg-edge": svg_runtime.__version__}
    return own | {package: release for package in _PACKAGES if (release := _version(package)) is not None}


def this_platform() -> str:
    """Operating system and architecture: linux x86_64, win32 AMD64, ..."""
    return f"{sys.platform} {platform.machine()}"


def usable_cores() -> int:
    """Number of cores that this process may use; in a container or a service fewer than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else min(cores, math.ceil(quota))


def cpu_limits() -> dict[str, str]:
    """Environment variables that hold libraries to fewer instructions than the processor has."""
    return {name: os.environ[name] for name in _CPU_LIMITS if os.environ.get(name)}


def load_average() -> float | None:
    """Load average of the whole machine over the last minute; None if the system does not report it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def load_share(load: float | None) -> float:
    """`load` per core of the whole machine, 0 if it is not known: in a container, too, it is that of all cores."""
    return (load or 0.0) / (os.cpu_count() or 1)


def system_cpu(cpuinfo: Path) -> dict[str, Any]:
    """Name (`brand_raw`) and `flags` of the first CPU in Linux's cpuinfo; empty on other systems."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = [line.partition(":") for line in text.split("\n\n")[0].splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    return {
        "brand_raw": fields.get("model name", ""),  # missing on ARM, where the board is more telling
        "flags": (fields.get("flags") or fields.get("Features") or "").split(),
    }


def simd_flags(flags: Iterable[str]) -> list[str]:
    """List the vector and matrix extensions among a CPU's flags."""
    return sorted(flag for flag in flags if flag.startswith(_SIMD))


def board(device_tree: Path) -> str | None:
    """Name of a single-board computer, such as a Jetson; None on anything else."""
    try:
        return device_tree.read_text(encoding="utf-8").rstrip("\0\n") or None
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)


def _gpus() -> list[str]:
    """List NVIDIA GPUs as "name, driver, memory"; empty if the driver does not respond."""
    return [f"{', '.join(values)} MiB" for values in nvidia_smi(("name", "driver_version", "memory.total"))]
