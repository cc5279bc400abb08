"""The state of a machine during a measurement: power mode, clocks, temperatures, from the system's own files.

Throttling makes a device slower without showing in the results, so the state is read before and after a run. Values that a
system does not have, or does not let a user read, are left out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")

_SMI_FIELDS = ("name", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw", "power.limit")
_SMI_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # since driver 535, and before
_COLDEST = -100.0  # degrees Celsius; a Jetson reports -256 for a sensor whose part is switched off


def telemetry(root: Path = Path("/")) -> dict[str, Any]:
    """Read the current power mode, clocks in MHz and temperatures in degrees Celsius.

    Args:
        root: root of the file system.

    Returns:
        power_mode: of a Jetson (nvpmodel): its name, or its number if the name is unknown.
        device_clocks: per device with frequency scaling (the GPU of a Jetson is one): mhz, max_mhz, governor.
        cpu_clocks: the same per core.
        emc_mhz: clock of a Jetson's memory, which only root may read.
        temperatures: per thermal zone; the hottest of zones with the same name.
        gpus: state of each GPU from nvidia-smi.
    """
    values = {
        "power_mode": power_mode(root),
        "device_clocks": device_clocks(root),
        "cpu_clocks": cpu_clocks(root),
        "emc_mhz": _read(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate", lambda text: int(text) / 1e6),
        "temperatures": temperatures(root),
        "gpus": gpu_states(),
    }
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def power_mode(root: Path) -> str | None:
    """Name of a Jetson's power mode, such as 15W or MAXN; None on other machines."""
    number = _read(root / "var/lib/nvpmodel/status", lambda text: int(text.partition("pmode:")[2].split()[0]))
    if number is None:
        return None
    modes = _read(root / "etc/nvpmodel.conf", _mode_names) or {}
    return modes.get(number, str(number))


def device_clocks(root: Path) -> dict[str, dict[str, Any]]:
    """Clocks of devices other than the CPU, by the kernel's name: 17000000.gpu is the GPU of a Jetson Orin."""
    return _clocks(_entries(root / "sys/class/devfreq", "*"), ("cur_freq", "max_freq", "governor"), 1e6)


def cpu_clocks(root: Path) -> dict[str, dict[str, Any]]:
    """Current clock, highest allowed clock and governor of every core."""
    cores = sorted(_entries(root / "sys/devices/system/cpu", "cpu[0-9]*"), key=lambda core: int(core.name[3:]))
    files = ("cpufreq/scaling_cur_freq", "cpufreq/scaling_max_freq", "cpufreq/scaling_governor")
    return _clocks(cores, files, 1e3)


def temperatures(root: Path) -> dict[str, float]:
    """Degrees Celsius per thermal zone."""
    hottest: dict[str, float] = {}
    for zone in _entries(root / "sys/class/thermal", "thermal_zone*"):
        kind, celsius = _read(zone / "type", str), _read(zone / "temp", lambda text: int(text) / 1000)
        if kind and celsius is not None and celsius > _COLDEST:
            hottest[kind] = max(celsius, hottest.get(kind, celsius))
    return hottest


def gpu_states() -> list[dict[str, Any]]:
    """Per NVIDIA GPU its power state, clocks (MHz), temperature (degrees Celsius), power (W) and reasons for lower clocks."""
    states = [_known(zip(_SMI_FIELDS, values, strict=False)) for values in nvidia_smi(_SMI_FIELDS)]
    if not states:
        return []
    reasons = next(filter(None, (nvidia_smi([field]) for field in _SMI_REASONS)), [])
    for state, values in zip(states, reasons, strict=False):
        state |= _known([("lower_clocks_because", values[0])])  # a bit mask; 0x1 means idle
    return states


def nvidia_smi(fields: Sequence[str]) -> list[list[str]]:
    """Return the fields' values, without units, per GPU. Empty if the driver does not respond or does not know a field."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[value.strip() for value in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]


def _known(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Convert numbers, and leave out "[N/A]", "[Not Supported]" and the like, which are common on a Jetson."""
    known = {name: value for name, value in pairs if value and not value.startswith("[") and value != "N/A"}
    return {name: float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else value for name, value in known.items()}


def _clocks(folders: Iterable[Path], files: tuple[str, str, str], per_mhz: float) -> dict[str, dict[str, Any]]:
    """Read clock, highest clock and governor from the files of each folder; folders without a clock are left out."""
    clocks: dict[str, dict[str, Any]] = {}
    for folder in folders:
        now, highest = (_read(folder / file, lambda text: int(text) / per_mhz) for file in files[:2])
        values = {"mhz": now, "max_mhz": highest, "governor": _read(folder / files[2], str)}
        if now is not None:
            clocks[folder.name] = {name: value for name, value in values.items() if value is not None}
    return clocks


def _mode_names(conf: str) -> dict[int, str]:
    """Parse lines such as `< POWER_MODEL ID=0 NAME=15W >` into number -> name."""
    return {int(number): name for number, name in re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", conf, re.M)}


def _entries(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _read(file: Path, parse: Callable[[str], _T]) -> _T | None:
    """Return the parsed content of a file; None if it does not exist, cannot be read or cannot be parsed."""
    try:
        return parse(file.read_text(encoding="utf-8", errors="replace").strip())
    except (OSError, ValueError, IndexError):
        return None
