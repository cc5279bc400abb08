"""Fixtures of the runtime's tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def svg_live(tiny_bundle, tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; returns its exit code, stderr, and statistics when it wrote some."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, model: bool = True) -> tuple[int, str, dict]:
        from svg_runtime.live.cli import main

        Path("stats.json").unlink(missing_ok=True)
        bundle = ["--model", str(tiny_bundle)] if model else []
        monkeypatch.setattr("sys.argv", ["svg-live", *bundle, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        assert output.out == ""
        stats = json.loads(Path("stats.json").read_text()) if Path("stats.json").exists() else {}
        return int(end.value.code), output.err, stats

    return run
