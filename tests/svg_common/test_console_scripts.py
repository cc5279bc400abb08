"""The entry points of the commands."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from svg_common import console_scripts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
SLOW_IMPORT = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
from svg_common.console_scripts import svg_live
svg_live()
"""


def test_every_script_runs_the_main_of_its_module():
    scripts = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["scripts"]
    assert len(scripts) == 8
    for name, place in scripts.items():
        module, _, attribute = place.partition(":")
        assert module == console_scripts.__name__
        script = getattr(console_scripts, attribute)
        assert isinstance(script, partial)
        command = import_module(*script.args)
        assert callable(command.main)
        assert f"`{name}" in command.__doc__


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_imports_is_quiet(number):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_IMPORT, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130
