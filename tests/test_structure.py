"""The repository's metadata: structure in numbers, checks, citation."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks import structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def load_yaml(name: str):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_no_arrow_between_rooms_runs_upwards(capsys):
    structure.print_rooms()
    folders, rooms, *upwards = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ package folders, \d+ arrows between them", folders)
    assert re.fullmatch(r"17 rooms, [1-9]\d* arrows between them, 0 upwards", rooms)
    assert upwards == []


def test_an_import_from_a_later_room_runs_upwards(monkeypatch, tmp_path, capsys):
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from svg_runtime.live.loop import run_cameras\n")
    monkeypatch.setattr(structure, "modules", lambda: [("svg_runtime.bundle.manifest", module)])
    structure.print_rooms()
    assert "1 upwards\n  svg_runtime.bundle -> svg_runtime.live" in capsys.readouterr().out


@pytest.fixture
def thawed() -> Iterator[None]:
    """The garbage collector shows what was imported before the tests began, too."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("thawed")
def test_types_are_counted_for_both_contexts_and_all_graphs(fused_bundle, capsys):
    structure.print_types(fused_bundle)
    lines = capsys.readouterr().out.splitlines()
    counted = [line.partition(":")[0] for line in lines[::3]]
    assert counted == [f"{context}, {graphs} graphs" for context in ("window", "stream") for graphs in ("separate", "fused")]
    for counts, run, named in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        types, running = (int(count) for count in re.findall(r"\d+", counts))
        assert 0 < len(run.split()) - 1 == running < types
        assert len(named.split()) - 2 == types - running


def test_the_workflow_runs_the_same_script_as_ci():
    """And its examples exist."""
    jobs = load_yaml(".github/workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    scripts = [command.split()[1] for command in commands if command.startswith("python ")]
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_hooks_call_tools_that_the_development_environment_pins():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    hooks = [hook for repo in load_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "codespell", "mypy"}
    assert {"ruff", "codespell", "mypy", "pre-commit", "nox"} <= set(pinned)


def test_extras_of_the_development_environment_are_pinned():
    """What CI tests is exact, so that a new release of a tool breaks nothing overnight."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {re.split(r"[\[>=<; ]", requirement)[0] for requirement in extras["dev"]} - {"svg-edge"}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names <= pinned


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_one_version_of_each_library_is_pinned_for_each_python(python):
    """The first releases of NumPy and ONNX Runtime without Python 3.10 are 2.3 and 1.24."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    here = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    pinned = {pin.name: str(pin.specifier).removeprefix("==") for pin in here}
    assert len(pinned) == len(here)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    installed = ("cpu", "openvino", "hub", "serve", "forecast", "mqtt", "train", "export", "eval", "tensorrt-rtx")
    needed = [*project["dependencies"], *(line for name in installed for line in extras[name])]
    asked = [each for each in map(Requirement, needed) if each.marker is None]
    assert [str(each) for each in asked if not each.specifier.contains(pinned.get(each.name, "0"))] == []
    assert (Version(pinned["numpy"]) < Version("2.3")) == (python == "3.10")
    assert (Version(pinned["onnxruntime"]) < Version("1.24")) == (python == "3.10")


def test_every_extra_asks_for_a_torch_with_what_the_models_call():
    """torch.compiler.is_exporting came with 2.7."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    torch = {name: line for name, lines in extras.items() for line in lines if line.startswith("torch")}
    assert set(torch) == {"train", "export", "eval"}
    assert [name for name, line in torch.items() if Requirement(line).specifier.contains("2.6.0")] == []
