"""The summary at the end of a run, on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from svg_runtime.live.events import EventLog
from svg_runtime.live.live_summary import print_summary
from svg_runtime.live.run_stats import RunStats
from tests.svg_runtime.live.page.page_helpers import make_stats


def test_brackets_in_names_are_no_markup():
    camera = make_stats()
    camera.name = "gate[north]"
    summary = RunStats({"model": "m[bold].svgb", "backend": "cpu"}, [camera, make_stats()], EventLog()).summary()
    console = Console(force_terminal=True, width=200, file=io.StringIO())
    print_summary(console, summary, ["a[/b].mp4"])
    text = console.file.getvalue()
    assert "\x1b[2mgate[north]" in text  # dimmed
    assert "m[bold].svgb" in text
    assert "a[/b].mp4" in text
