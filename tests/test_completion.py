"""Shell completion of every command, and what --help may load."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
from typer.main import get_command

import svg_runtime

COMMANDS = {
    "svg-train": "svg_adapt.cli",
    "svg-export": "svg_export.cli",
    "svg-eval": "svg_eval.cli",
    "svg-live": "svg_runtime.live.cli",
    "svg-forecast": "svg_runtime.offline.cli",
    "svg-bench": "svg_runtime.bench.cli",
    "svg-doctor": "svg_runtime.doctor.cli",
    "svg-serve": "svg_runtime.serve.cli",
}
BEGINNINGS = {"svg-serve": ("--tok", "--token-file")}  # of an option that completes to one; of the others: --js
HEAVY = [
    "torch", "lightning_fabric", "onnx", "onnxruntime", "openvino", "tensorrt", "cv2", "av", "matplotlib",
    "starlette", "uvicorn", "prometheus_client", "pyarrow", "fsspec", "ray",
]  # fmt: skip
PROGRAM = """
import atexit, sys
atexit.register(lambda: print("loaded:", [name for name in {heavy!r} if name in sys.modules], file=sys.stderr))
sys.argv = {arguments!r}
from {module} import main
main()
"""


def run(name: str, *arguments: str, **environment: str) -> str:
    """The output of the command, which must succeed without loading anything heavy."""
    program = PROGRAM.format(heavy=HEAVY, arguments=[name, *arguments], module=COMMANDS[name])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "loaded: []\n")
    return done.stdout


def completion(name: str, instruction: str, words: str = "") -> str:
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    return run(name, **{variable: instruction, "COMP_WORDS": words, "COMP_CWORD": "1"})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_installs_and_shows_its_completion(name):
    module = importlib.import_module(COMMANDS[name])
    options = {option for parameter in get_command(module.app).params for option in parameter.opts}
    assert {"--install-completion", "--show-completion"} <= options


@pytest.mark.parametrize("name", COMMANDS)
def test_the_shell_is_given_a_script_and_the_options_that_begin_so(name):
    assert f"complete -o default -F _{name.replace('-', '_')}_completion {name}" in completion(name, "source_bash")
    beginning, option = BEGINNINGS.get(name, ("--js", "--json"))
    assert completion(name, "complete_bash", f"{name} {beginning}").split() == [option]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_nothing_heavy(name):
    assert "--show-completion" in run(name, "--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_version_is_that_of_the_package_and_loads_nothing_heavy(name):
    assert run(name, "--version") == f"{name} {svg_runtime.__version__}\n"


def test_choices_of_a_setting_are_completed():
    variables = {"_SVG_TRAIN_COMPLETE": "complete_bash", "COMP_WORDS": "svg-train --prior ", "COMP_CWORD": "2"}
    assert run("svg-train", **variables).split() == ["learned", "fixed", "none"]
