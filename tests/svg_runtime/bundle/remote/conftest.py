"""A Hub of the test's own, an own cache, and the embedded model as its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from svg_runtime.bundle.reader import EMBEDDED_FOLDER
from svg_runtime.bundle.remote import fetch


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of fetched models; what this process has fetched before is forgotten."""
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_COMMITS", {})
    return tmp_path / "cache" / "models"


@pytest.fixture
def files() -> dict[str, bytes]:
    """A bundle by path."""
    return bundle_files(EMBEDDED_FOLDER / "camera.svgb")


def bundle_files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def files_below(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}
