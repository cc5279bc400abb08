"""Processor, memory, board, GPUs and the driver of NVIDIA's."""

from __future__ import annotations

import os
from pathlib import Path

from svg_runtime.doctor.finding import Finding
from svg_runtime.machine.hardware import cpu_limits, hardware

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SVG_EDGE_CALIBRATE", "LD_LIBRARY_PATH")


def check() -> list[Finding]:
    """Describe this machine."""
    about = hardware()
    findings = [
        Finding("CPU", "info", f"{about['cpu']}, {about['cores_usable']} usable cores"),
        Finding("instructions", "info", " ".join(about["simd"]) or "unknown"),
        Finding("memory", "info", f"{about['memory_gb']} GB" if about["memory_gb"] else "unknown"),
        Finding("load", "info", f"{about['load_average']} in the last minute"),
    ]
    if about["board"]:
        findings.append(Finding("board", "info", about["board"]))
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ} | cpu_limits()
    findings += [Finding(name, "info", value) for name, value in variables.items()]
    return findings + nvidia_findings(about["gpus"], Path("/")) + _render_nodes(Path("/dev/dri"))


def nvidia_findings(gpus: list[str], root: Path) -> list[Finding]:
    """NVIDIA GPUs; where the driver does not answer, whether it is there at all.

    Args:
        gpus: what nvidia-smi listed.
        root: root of the file system.
    """
    if gpus:
        return [Finding(f"NVIDIA GPU {index}", "ok", gpu) for index, gpu in enumerate(gpus)]
    nodes = sorted((root / "dev").glob("nvidia[0-9]*"))
    driver = root / "proc/driver/nvidia/version"
    closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        names = " ".join(f"/dev/{node.name}" for node in closed)
        return [Finding("NVIDIA GPU", "problem", f"no permission for {names}", "sudo usermod -aG video $USER; log in again")]
    if nodes or driver.exists():
        return [Finding("NVIDIA GPU", "problem", "a driver is loaded, and nvidia-smi finds no GPU", "reboot; then: nvidia-smi")]
    return [Finding("NVIDIA GPU", "missing", "no driver and no device (/dev/nvidia0); not needed for cpu and openvino")]


def _render_nodes(folder: Path) -> list[Finding]:
    """GPUs of Intel and AMD; OpenVINO can use those of Intel."""
    findings = []
    for node in sorted(folder.glob("render*")):
        if os.access(node, os.R_OK | os.W_OK):
            findings.append(Finding(node.name, "ok", f"{node}, which this user may use"))
        else:
            advice = "sudo usermod -aG render $USER; log in again"
            findings.append(Finding(node.name, "missing", f"no permission for {node}", advice))
    return findings
