"""Power mode, clocks and temperatures from a made-up tree of system files, and what nvidia-smi prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from svg_runtime.machine.hardware import hardware
from svg_runtime.machine.telemetry import cpu_clocks, device_clocks, gpu_states, power_mode, telemetry, temperatures

CONF = """
# < POWER_MODEL ID=9 NAME=COMMENT >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=0 >
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("status", "expected"),
    [("pmode:0002", "MAXN_SUPER"), ("pmode:0000 fmode:quiet", "15W"), ("pmode:0009", "9"), ("", None), ("pmode:x", None)],
)
def test_power_mode_is_read_from_nvpmodel(tmp_path, status, expected):
    write(tmp_path, {"var/lib/nvpmodel/status": status, "etc/nvpmodel.conf": CONF})
    assert power_mode(tmp_path) == expected


def test_power_mode_without_names_is_its_number(tmp_path):
    assert power_mode(write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0002"})) == "2"


def test_clocks_of_a_jetson_are_read(tmp_path):
    gpu, cpu = "sys/class/devfreq/17000000.gpu", "sys/devices/system/cpu"
    write(
        tmp_path,
        {
            f"{gpu}/cur_freq": "306000000", f"{gpu}/max_freq": "624750000", f"{gpu}/governor": "nvhost_podgov",
            "sys/class/devfreq/15340000.vic/max_freq": "435200000",  # does not report its current clock
            f"{cpu}/cpu10/cpufreq/scaling_cur_freq": "729600", f"{cpu}/cpu2/cpufreq/scaling_cur_freq": "1510400",
            f"{cpu}/cpu2/cpufreq/scaling_max_freq": "1510400", f"{cpu}/cpu2/cpufreq/scaling_governor": "schedutil",
            f"{cpu}/cpu3/cpufreq/scaling_cur_freq": "<unknown>",
            f"{cpu}/cpufreq/policy0/scaling_cur_freq": "1",
        },
    )  # fmt: skip
    assert device_clocks(tmp_path) == {"17000000.gpu": {"mhz": 306.0, "max_mhz": 624.75, "governor": "nvhost_podgov"}}
    cores = cpu_clocks(tmp_path)
    assert cores == {"cpu2": {"mhz": 1510.4, "max_mhz": 1510.4, "governor": "schedutil"}, "cpu10": {"mhz": 729.6}}
    assert list(cores) == ["cpu2", "cpu10"]


def test_temperatures_leave_out_sensors_that_are_off_or_unreadable(tmp_path):
    zones = {"cpu-thermal": "48250", "gpu-thermal": "-256000", "tj-thermal": "50000"}
    for number, (kind, temp) in enumerate(zones.items()):
        write(tmp_path, {f"sys/class/thermal/thermal_zone{number}/{name}": v for name, v in (("type", kind), ("temp", temp))})
    write(tmp_path, {"sys/class/thermal/thermal_zone8/type": "cv0-thermal"})
    write(tmp_path, {"sys/class/thermal/thermal_zone9/type": "tj-thermal", "sys/class/thermal/thermal_zone9/temp": "61500"})
    (tmp_path / "sys/class/thermal/thermal_zone8/temp").mkdir()  # a read of it fails
    assert temperatures(tmp_path) == {"cpu-thermal": 48.25, "tj-thermal": 61.5}


def test_telemetry_contains_only_values_that_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert telemetry(tmp_path) == {}
    write(tmp_path, {"sys/kernel/debug/bpmp/debug/clk/emc/rate": "2133000000", "var/lib/nvpmodel/status": "pmode:0001"})
    assert telemetry(tmp_path) == {"emc_mhz": 2133.0, "power_mode": "1"}


def install_smi(folder: Path, monkeypatch, script: str) -> None:
    smi = folder / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_nvidia_smi_of_a_desktop_is_read(tmp_path, monkeypatch):
    """An older driver refuses a whole query for one field that it does not know."""
    install_smi(
        tmp_path, monkeypatch,
        'case "$1" in\n'
        "*pstate*) echo 'NVIDIA A10, P0, 1695, 1710, 6251, 61, 148.32, 150.00'\n"
        "  echo 'NVIDIA T4, P8, 300, 1590, 405, 34, 9.5, 70';;\n"
        "*driver_version*) echo 'NVIDIA A10, 550.54, 23028'; echo 'NVIDIA T4, 550.54, 15360';;\n"
        "*throttle_reasons*) echo 0x0000000000000004; echo 0x0000000000000001;;\n"
        "*) echo 'Field is not a valid field to query.'; exit 2;;\nesac",
    )  # fmt: skip
    first, second = gpu_states()
    assert first == {
        "name": "NVIDIA A10", "pstate": "P0", "clocks.sm": 1695.0, "clocks.max.sm": 1710.0, "clocks.mem": 6251.0,
        "temperature.gpu": 61.0, "power.draw": 148.32, "power.limit": 150.0, "lower_clocks_because": "0x0000000000000004",
    }  # fmt: skip
    assert (second["name"], second["lower_clocks_because"]) == ("NVIDIA T4", "0x0000000000000001")
    assert hardware()["gpus"] == ["NVIDIA A10, 550.54, 23028 MiB", "NVIDIA T4, 550.54, 15360 MiB"]


def test_values_that_nvidia_smi_of_a_jetson_lacks_are_left_out(tmp_path, monkeypatch):
    install_smi(
        tmp_path, monkeypatch,
        'case "$1" in\n*pstate*) echo "Orin (nvgpu), [N/A], [N/A], N/A, [Not Supported], [Unknown Error], [N/A], [N/A]";;\n'
        '*) echo "[N/A]";;\nesac',
    )  # fmt: skip
    assert gpu_states() == [{"name": "Orin (nvgpu)"}]


def test_without_a_driver_nvidia_smi_returns_nothing(tmp_path, monkeypatch):
    install_smi(tmp_path, monkeypatch, 'echo "NVIDIA-SMI has failed because it could not communicate"; exit 9')
    assert gpu_states() == []
