"""Fixtures of the exporter's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def svg_export(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder, within this process, where graphs are exported once: its exit code and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str]:
        from svg_export.cli import main

        monkeypatch.setattr("sys.argv", ["svg-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code), capsys.readouterr().err

    return run
