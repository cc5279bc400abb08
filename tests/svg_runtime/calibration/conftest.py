"""A machine of which the choice knows little, and a count of its measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from svg_runtime.calibration import choice, race
from tests.svg_runtime.choice_helpers import know_only_the_cpu_backend


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    know_only_the_cpu_backend(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch) -> list[list[str]]:
    """The ways of every measurement."""
    seen: list[list[str]] = []

    def find(ways, **rest):
        seen.append([str(way) for way in ways])
        return race.find_fastest(ways, **rest)

    monkeypatch.setattr(choice, "find_fastest", find)
    return seen


@pytest.fixture
def asked(monkeypatch) -> list[list[str]]:
    """The ways of every measurement. The first one is taken and none is run: for tests of what is kept, and for how long."""
    seen: list[list[str]] = []

    def find(ways, **rest):
        seen.append([str(way) for way in ways])
        return ways[0], [race.Row(way, [0.001]) for way in ways]

    monkeypatch.setattr(choice, "find_fastest", find)
    return seen
