"""Which package and which room may import which, read from the sources, and what an import may load, in new processes."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import svg_common
import svg_runtime
from svg_runtime.machine.hardware import versions

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "svg_common": ROOT / "runtime/svg_common",
    "svg_train": ROOT / "svg_train",
    "svg_export": ROOT / "export/svg_export",
    "svg_eval": ROOT / "export/svg_eval",
    "svg_runtime": ROOT / "runtime/svg_runtime",
    "svg_adapt": ROOT / "export/svg_adapt",
}
MAY_IMPORT = {
    "svg_common": set(),
    "svg_train": {"svg_common"},
    "svg_runtime": {"svg_common"},
    "svg_eval": {"svg_common", "svg_train", "svg_runtime"},
    "svg_export": {"svg_common", "svg_train", "svg_runtime", "svg_eval"},
    "svg_adapt": {"svg_common", "svg_train", "svg_runtime", "svg_eval", "svg_export"},
}
# Rooms of the runtime: folder -> the folders that it may import. All may import errors and options.
ROOMS = {
    "machine": set(),
    "web": set(),
    "bundle": set(),
    "backends": {"bundle", "machine"},
    "calibration": {"bundle", "backends", "machine"},
    "forecast": {"bundle", "backends", "calibration"},
    "live": {"bundle", "backends", "forecast", "machine", "web"},
    "offline": {"bundle", "forecast", "live"},
    "bench": {"bundle", "backends", "calibration", "forecast", "live", "machine"},
    "doctor": {"bundle", "backends", "forecast", "machine"},
    "serve": {"bundle", "backends", "forecast", "live", "machine", "web"},
    "triton": {"bundle", "forecast"},
}
LIBRARIES = {
    "nvidia": set(),
    "onnxruntime": {"nvidia"},
    "openvino": set(),
    "tensorrt": {"nvidia"},
}  # folders of backends, likewise
TORCH_SIDE = {"torch", "torchvision", "torchmetrics", "lightning_fabric", "lightning", "onnx", "onnxscript", "tensorboard"}


@functools.cache
def imported_modules(source: str) -> frozenset[str]:
    """Dotted names that a source file imports, wherever in the file; of `from a import b`, both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            found |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    return frozenset(found)


def imported(source: str) -> set[str]:
    """Top-level packages that a source file imports."""
    return {name.split(".")[0] for name in imported_modules(source)}


def imports_of(package: str) -> dict[str, set[str]]:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    return {str(file.relative_to(ROOT)): imported(file.read_text(encoding="utf-8")) for file in files}


def test_the_reader_of_imports_finds_all_kinds():
    source = (
        "import a.b\ndef f():\n  from c.d import e\n  import_module('g.h')\n  importlib.import_module('i')\nfrom . import j"
    )
    assert imported(source) == {"a", "c", "g", "i"}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_along_the_arrows(package):
    forbidden = set(PACKAGES) - MAY_IMPORT[package] - {package}
    assert {file: found & forbidden for file, found in imports_of(package).items() if found & forbidden} == {}


@pytest.mark.parametrize("package", ["svg_common", "svg_runtime"])
def test_the_device_side_never_names_torch(package):
    assert {file: found & TORCH_SIDE for file, found in imports_of(package).items() if found & TORCH_SIDE} == {}


def test_svg_export_stands_on_both_sides():
    """Guards the two tests above: allowed arrows are found."""
    assert set.union(*imports_of("svg_export").values()) >= {"svg_train", "svg_runtime", "svg_common", "torch", "onnx"}


def arrows(parent: str, folders: set[str]) -> dict[str, set[str]]:
    """File -> the sibling folders that it imports, for all files of `folders` in the package `parent`."""
    root = PACKAGES["svg_runtime"] / Path(*parent.split(".")[1:])
    found = {}
    for folder in folders:
        for file in (root / folder).rglob("*.py"):
            names = imported_modules(file.read_text(encoding="utf-8"))
            others = {name.removeprefix(f"{parent}.").split(".")[0] for name in names if name.startswith(f"{parent}.")}
            found[str(file.relative_to(root))] = (others & folders) - {folder}
    return found


@pytest.mark.parametrize(
    ("parent", "may_import"), [("svg_runtime", ROOMS), ("svg_runtime.backends", LIBRARIES)], ids=["rooms", "libraries"]
)
def test_rooms_import_only_along_the_arrows(parent, may_import):
    found = arrows(parent, set(may_import))
    assert {file: others for file, others in found.items() if not others <= may_import[file.split("/")[0]]} == {}
    used = {room: set().union(*(others for file, others in found.items() if file.split("/")[0] == room)) for room in may_import}
    assert used == may_import  # no unused arrow is allowed


def test_every_folder_of_the_runtime_is_a_room():
    folders = {path.name for path in PACKAGES["svg_runtime"].iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ROOMS)
    libraries = {path.name for path in (PACKAGES["svg_runtime"] / "backends").iterdir() if (path / "__init__.py").exists()}
    assert libraries == set(LIBRARIES)


BLOCKED_IMPORTS = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ModuleNotFoundError:
    count = 0  # the blocker works; otherwise count is undefined
for package in ("svg_runtime", "svg_common"):
    package = importlib.import_module(package)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        count += 1
print(count)
"""


def fresh(program: str) -> str:
    path = [str(Path(package.__file__).parents[1]) for package in (svg_common, svg_runtime)]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_of_the_device_side_imports_without_torch_and_engines():
    """Engines too: the base install has none, and a backend loads its own when it is opened."""
    blocked = TORCH_SIDE | {"svg_train", "svg_export", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino", "cuda"}
    files = [file for package in ("svg_common", "svg_runtime") for file in PACKAGES[package].rglob("*.py")]
    count = int(fresh(BLOCKED_IMPORTS.format(blocked=blocked)))
    assert count == len(files) - 2  # all but the two packages themselves


def test_import_svg_runtime_loads_nothing_heavy():
    heavy = ["torch", "onnx", "cv2", "av", "onnxruntime", "numpy", "pydantic", "rich", "typer", "importlib.metadata"]
    program = (
        "import sys; before = set(sys.modules); import svg_runtime\n"  # a coverage tool loads some of them at the start
        f"print([name for name in {heavy!r} if name in set(sys.modules) - before])"
    )
    assert fresh(program).strip() == "[]"


def test_the_forecaster_loads_no_engine_and_no_video():
    heavy = ["torch", "onnx", "cv2", "av", "onnxruntime"]
    program = f"import sys; from svg_runtime import Forecaster; print([name for name in {heavy!r} if name in sys.modules])"
    assert fresh(program).strip() == "[]"


def test_a_forecast_needs_no_torch(tiny_bundle):
    program = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
import numpy as np
from svg_runtime import Forecaster
with Forecaster.open({str(tiny_bundle)!r}, samples=2, horizon=3) as forecaster:
    for _ in range(3):
        forecaster.observe(np.full((64, 64, 1), 0.5, np.float32))
    print(forecaster.forecast().shape)
"""
    assert fresh(program).strip() == "(2, 3, 64, 64, 1)"


def test_the_version_is_that_of_the_installed_package():
    assert svg_runtime.__version__ == versions()["svg-edge"] == metadata.version("svg-edge")


def test_a_source_tree_that_is_not_installed_has_no_version_and_works(monkeypatch):
    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_installed)
    assert svg_runtime.__version__ == "0+unknown"
    assert versions()["svg-edge"] == "0+unknown"


def test_public_names_are_the_real_ones():
    from svg_runtime.forecast import forecaster, scores

    assert svg_runtime.Forecaster is forecaster.Forecaster
    assert svg_runtime.Observation is forecaster.Observation
    assert svg_runtime.ForecastScore is scores.ForecastScore
    assert all(getattr(svg_runtime, name) is not None for name in svg_runtime.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = svg_runtime.nothing_such
