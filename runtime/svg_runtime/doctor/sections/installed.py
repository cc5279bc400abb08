"""Versions of Python and of the packages."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import distributions

from svg_runtime.doctor.finding import Finding
from svg_runtime.machine.hardware import this_platform, versions

_OTHERS = ("av", "pydantic", "typer", "rich", "tomli", "huggingface-hub", "paho-mqtt")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")


def check() -> list[Finding]:
    """List what is there; packages that hide each other are a problem."""
    names = {_normal(str(found.metadata["Name"])): found.version for found in distributions()}
    known = versions()
    python = f"{known.pop('python')} on {this_platform()}, kernel {platform.release()}"
    packages = known | {name: names[name] for name in (*_OTHERS, *_OPENCV) if name in names}
    return [
        Finding("Python", "info", python),
        Finding("environment", "info", sys.prefix if sys.prefix != sys.base_prefix else f"{sys.prefix}, not a virtual one"),
        *(Finding(name, "info", release) for name, release in packages.items()),
        *_conflict("OpenCV", [name for name in _OPENCV if name in names], "opencv-python"),
        *_conflict("ONNX Runtime", [name for name in _ONNXRUNTIME if name in names], "'svg-edge[gpu]'"),
    ]


def _normal(name: str) -> str:
    """As packages are compared: huggingface_hub is huggingface-hub."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _conflict(library: str, installed: list[str], keep: str) -> list[Finding]:
    """Packages with the same files: which one is imported depends on which was installed last."""
    if len(installed) < 2:
        return []
    advice = f"pip uninstall -y {' '.join(installed)} && pip install {keep}"
    return [Finding(library, "problem", f"{' and '.join(installed)} overwrite each other's files", advice)]
