"""The source of docs/add-a-source.md, written and registered as the page says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from svg_common.errors import ExitCode
from svg_runtime.live.sources import own
from svg_runtime.live.sources.capture import NoPictureError

PAGE = Path(__file__).parents[3] / "docs" / "add-a-source.md"
SMALL = ("--headless", "--samples", "2", "--horizon", "2", "--json", "stats.json")


@pytest.fixture
def registered(monkeypatch):
    """The two steps of the page."""
    source, registration, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    module = ModuleType("svg_runtime.live.sources.noise")
    exec(source, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    register(registration, monkeypatch)


def register(lines: str, monkeypatch, **names) -> None:
    """As if `own.py` had these lines in place of its own table."""
    namespace = {**vars(own), **names}
    exec(lines, namespace)
    monkeypatch.setattr(own, "OWN_SOURCES", namespace["OWN_SOURCES"])


def test_a_device_of_the_page_is_waited_for_as_long_as_asked(svg_live, monkeypatch):
    """With the lines that the page shows for anything with `read()`."""
    *_, registration = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)

    def absent():
        raise NoPictureError("nobody is there")

    register(registration, monkeypatch, MyDevice=absent)
    code, stderr, _ = svg_live(*SMALL, "--source", "device://x", "--reconnect", "0.2")
    assert code == ExitCode.SOURCE_LOST
    assert "device://x delivers no frames: nobody is there" in stderr


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("address", "name"), [("noise://", "noise://"), ("NOISE://user:secret@place/what?it=wants", "NOISE://place")]
)
def test_the_source_of_the_page_runs_by_its_address(svg_live, address, name):
    code, stderr, stats = svg_live(*SMALL, "--source", address, "--max-frames", "4")
    assert code == 0, stderr
    assert (stats["source"], stats["frames"]["seen"]) == (name, 4)
    assert "secret" not in stderr


@pytest.mark.usefixtures("registered")
def test_it_is_one_of_several_cameras(svg_live):
    code, stderr, stats = svg_live(*SMALL, "--source", "noise://", "--source", "synthetic://digits", "--max-frames", "3")
    assert code == 0, stderr
    assert {name: camera["frames"]["seen"] for name, camera in stats["cameras"].items()} == {"noise": 3, "digits": 3}


@pytest.mark.usefixtures("registered")
def test_its_options_are_those_of_a_camera(svg_live):
    code, stderr, _ = svg_live(*SMALL, "--source", "noise://user:secret@place", "--loop")
    assert code == ExitCode.USAGE
    assert "--loop applies to files and folders, which end, not to noise://place" in stderr


def test_an_address_that_nobody_registered_is_refused(svg_live):
    code, stderr, _ = svg_live(*SMALL, "--source", "noise://")
    assert code == ExitCode.USAGE
    assert "unknown source 'noise://'" in stderr
