"""A machine of which the choice knows little, and a count of its measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from svg_runtime.calibration import choice, decisions, race, ways


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """Only the cpu backend is installed, as far as the choice knows."""
    monkeypatch.delenv("SVG_EDGE_CALIBRATE", raising=False)
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ways, "is_installed", lambda module: False)
    monkeypatch.setattr(ways, "cuda_is_installed", lambda: False)
    monkeypatch.setattr(decisions, "_free_memory_class", lambda: 30)
    monkeypatch.setattr(choice, "is_busy", lambda: False)
    monkeypatch.setattr(choice, "usable_cores", lambda: 1)
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
