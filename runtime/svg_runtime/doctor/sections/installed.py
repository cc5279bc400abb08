"""Versions of Python and of the packages."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Container
from importlib.metadata import distributions

from svg_runtime.doctor.finding import Finding
from svg_runtime.machine.hardware import this_platform, versions

_EXTRAS = {  # extra -> what needs it, and the packages; those of backends are told by the backends
    "mqtt": ("--mqtt", ("paho-mqtt",)),
    "serve": ("--serve and svg-serve", ("starlette", "uvicorn", "prometheus-client")),
    "hub": ("--model hf://...", ("huggingface-hub",)),
    "forecast": ("svg-forecast", ("pyarrow", "fsspec", "filelock")),
}
_OTHERS = ("av", "pydantic", "typer", "rich", "tomli", *(name for _, packages in _EXTRAS.values() for name in packages))
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")


def check() -> list[Finding]:
    """List what is there, and the extras that are not; packages that hide each other are a problem."""
    names = {_normal(str(found.metadata["Name"])): found.version for found in distributions()}
    known = versions()
    python = f"{known.pop('python')} on {this_platform()}, kernel {platform.release()}"
    packages = known | {name: names[name] for name in (*_OTHERS, *_OPENCV) if name in names}
    # The release for CUDA that was there: a newer one may need a newer driver.
    onnxruntime_gpu = f"onnxruntime-gpu=={names.get('onnxruntime-gpu')}"
    return [
        Finding("Python", "info", python),
        Finding("environment", "info", sys.prefix if sys.prefix != sys.base_prefix else f"{sys.prefix}, not a virtual one"),
        *(Finding(name, "info", release) for name, release in packages.items()),
        *_missing_extras(names),
        *_conflict("OpenCV", [name for name in _OPENCV if name in names], "opencv-python"),
        *_conflict("ONNX Runtime", [name for name in _ONNXRUNTIME if name in names], onnxruntime_gpu),
    ]


def _missing_extras(installed: Container[str]) -> list[Finding]:
    found = []
    for extra, (what, packages) in _EXTRAS.items():
        missing = [name for name in packages if name not in installed]
        if missing:
            reason = f"only for {what}; lacks {', '.join(missing)}"
            found.append(Finding(f"svg-edge[{extra}]", "missing", reason, f"pip install 'svg-edge[{extra}]'"))
    return found


def _normal(name: str) -> str:
    """As packages are compared: huggingface_hub is huggingface-hub."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _conflict(library: str, installed: list[str], keep: str) -> list[Finding]:
    """Packages with the same files: which one is imported depends on which was installed last."""
    if len(installed) < 2:
        return []
    advice = f"pip uninstall -y {' '.join(installed)} && pip install {keep}"
    return [Finding(library, "problem", f"{' and '.join(installed)} overwrite each other's files", advice)]
