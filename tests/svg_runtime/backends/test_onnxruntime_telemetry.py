"""ONNX Runtime reports nothing and writes nothing into the home of the user: its telemetry is off wherever we import it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_arrows import PACKAGES, ROOT, imported

LOADER = "runtime/svg_runtime/backends/onnxruntime/session.py"
INT8 = "benchmarks/explore_int8.py"
FORECAST = """
import sys
import numpy as np
from svg_runtime import Forecaster

with Forecaster.open(sys.argv[1], samples=1, horizon=1) as forecaster:
    frame = forecaster.manifest.frame
    for _ in range(3):
        forecaster.observe(np.zeros((frame.height, frame.width, frame.channels), np.float32))
    forecaster.forecast()
"""
COUNT = """
import sys
from svg_common.progress import NullListener
from svg_runtime.bench.operations import count_operations

count_operations(NullListener(), "counting", sys.argv[1], "fp32")
"""


def left_at_home(home: Path, program: str, *arguments: str) -> list[Path]:
    """Files in a new home folder after a program. In the environment is nothing that switches telemetry off, such as CI."""
    home.mkdir()
    environment = {
        "HOME": str(home), "SVG_EDGE_CACHE": str(home.parent / "cache"), "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("runtime", "export", ".")),
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", program, *arguments], env=environment, check=True, timeout=120, cwd=home.parent)
    return [file.relative_to(home) for file in home.rglob("*") if file.is_file()]


@pytest.mark.parametrize("program", [FORECAST, COUNT], ids=["forecast", "count"])
def test_nothing_is_written_into_the_users_home(fused_bundle, tmp_path, program):
    if not left_at_home(tmp_path / "other", "import onnxruntime"):
        pytest.skip("this onnxruntime has no telemetry")
    assert left_at_home(tmp_path / "home", program, str(fused_bundle)) == []


def test_one_place_imports_it():
    folders = [*PACKAGES.values(), ROOT / "benchmarks"]
    files = {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for folder in folders for file in folder.rglob("*.py")
    }
    importers = [name for name, source in files.items() if "onnxruntime" in imported(source)]
    assert sorted(importers) == [INT8, LOADER]
    int8 = files[INT8]
    assert int8.index("\nimport_onnxruntime()") < int8.index("from onnxruntime.quantization")


def test_the_example_without_our_code_switches_it_off_too():
    source = (ROOT / "examples/02_plain_onnxruntime.py").read_text(encoding="utf-8")
    assert source.index('os.environ["ORT_DISABLE_TELEMETRY"] = "1"') < source.index("import onnxruntime")
