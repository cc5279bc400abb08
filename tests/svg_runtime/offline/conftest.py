"""Fixtures of the tests of svg-forecast: a few tiny videos, and the command in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from svg_runtime.live.stop import StopRequest
from svg_runtime.offline.schema import EVENTS, FRAMES, VIDEOS
from tests.svg_runtime.live.live_helpers import write_video

OPTIONS = ("--model", "digits", "--samples", "2", "--horizon", "3", "--backend", "cpu", "--threads", "1")
NEVER = StopRequest()  # a stop that is not requested


def rows_of(out: Path) -> dict[str, pa.Table]:
    """All rows of all tables, in an order that does not depend on how they were made."""
    order = {"frames": ["video_id", "frame"], "events": ["video_id", "frame", "kind", "message"], "videos": ["video_id"]}
    tables = {}
    for name, schema in {"frames": FRAMES, "events": EVENTS, "videos": VIDEOS}.items():
        parts = [pq.read_table(file).replace_schema_metadata() for file in out.glob(f"part-*/{name}.parquet")]
        table = pa.concat_tables([schema.empty_table(), *parts])
        tables[name] = table.sort_by([(key, "ascending") for key in order[name]])
    return tables


def counts(listed: int, done_before: int, **by_status: int) -> dict[str, int]:
    """Those of `--json`."""
    return {"listed": listed, "done_before": done_before, "ok": 0, "damaged": 0, "failed": 0, "unreachable": 0, **by_status}


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Five videos in two folders, one of which has a pause. Read only."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "gate").mkdir()
    for number in range(3):
        write_video(folder / f"yard{number}.mp4", frames=10 + 2 * number, seed=number)
    write_video(folder / "gate" / "a.mkv", frames=15, seed=7)
    times_s = [number / 10 + (5 if number >= 9 else 0) for number in range(18)]
    write_video(folder / "gate" / "pause.mp4", frames=18, seed=8, times_s=times_s)
    return folder


@pytest.fixture
def svg_forecast(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder, with the results in `out`; returns its exit code, stderr and summary."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, out: str | Path = "out") -> tuple[int, str, dict]:
        from svg_runtime.offline.cli import main

        Path("summary.json").unlink(missing_ok=True)
        command = ["svg-forecast", "--out", str(out), "--json", "summary.json", *OPTIONS, *map(str, arguments)]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        assert output.out == ""
        summary = json.loads(Path("summary.json").read_text()) if Path("summary.json").exists() else {}
        return int(end.value.code), output.err, summary

    return run
