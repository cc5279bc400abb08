"""A machine of which the choice of `auto` knows little."""

from __future__ import annotations

from pathlib import Path

import pytest

from svg_runtime.calibration import choice, decisions, race, ways


def know_only_the_cpu_backend(patch: pytest.MonkeyPatch, cache: Path, cores: int = 1) -> None:
    """Only the cpu backend is installed, as far as the choice knows, and decisions are kept in `cache`."""
    patch.delenv("SVG_EDGE_CALIBRATE", raising=False)
    patch.setenv("SVG_EDGE_CACHE", str(cache))
    patch.setattr(ways, "is_installed", lambda module: False)
    patch.setattr(ways, "cuda_is_installed", lambda: False)
    patch.setattr(decisions, "_free_memory_class", lambda: 30)
    patch.setattr(race, "_RACE_S", 0.1)  # what wins does not matter
    patch.setattr(choice, "is_busy", lambda: False)
    patch.setattr(choice, "usable_cores", lambda: cores)
