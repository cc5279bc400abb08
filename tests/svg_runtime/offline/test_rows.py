"""The rows of videos: the same numbers as svg-live, and what is wrong with a video."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from svg_common.metrics import psnr
from svg_runtime.errors import ForecastError
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.offline.schema import EVENTS, FRAMES, SCHEMA, VIDEOS
from tests.svg_runtime.live.live_helpers import write_video
from tests.svg_runtime.offline.conftest import OPTIONS, counts, rows_of


@pytest.fixture(
    params=[pytest.param((0.1, 0.0), marks=pytest.mark.slow), (0.1, 20.0), (0.0997, 0.0)],
    ids=["steady", "with a pause", "30.1 pictures a second"],
)
def eventful(tmp_path, request) -> Path:
    """Seven seconds of digits, which raise alarms when the threshold is low."""
    step_s, pause_s = request.param
    times_s = [step_s * number + pause_s * (number >= 35) for number in range(70)]
    return write_video(tmp_path / "eventful.mp4", frames=70, seed=4, times_s=times_s)


def test_a_model_that_does_not_fit_is_said(svg_forecast, tmp_path):
    ramp = np.linspace(0, 60, 64)[None, :, None] * np.ones((64, 1, 3))  # one colour would say nothing about the model
    bright = cv2.VideoWriter(str(tmp_path / "bright.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for number in range(60):
        bright.write((ramp + number * 10 % 190).astype(np.uint8))
    bright.release()
    write_video(tmp_path / "digits.mp4", frames=20, seed=4)
    code, message, summary = svg_forecast(tmp_path / "bright.avi", tmp_path / "digits.mp4")
    assert (code, summary["misfits"], summary["model"]) == (0, 1, "digits.svgb (embedded)"), message
    assert "1 video that the model does not fit: see the events misfit" in message
    assert "the embedded digits know only moving digits" in message
    assert "no --model" not in message
    code, message, summary = svg_forecast(tmp_path / "bright.avi", tmp_path / "digits.mp4")
    assert (code, summary["videos"], summary["misfits"]) == (0, counts(2, done_before=2, ok=2), 1)
    assert "1 video that the model does not fit: see the events misfit" in message


def test_rows_are_what_svg_live_measures(svg_forecast, eventful, monkeypatch):
    from svg_runtime.live.cli import main

    low = ["--alarm-threshold", "0.8", "--alarm-clear", "0.8", "--alarm-hold", "0.3", "--alarm-cooldown", "0"]
    code, _, summary = svg_forecast(eventful, *low)
    rows = rows_of(Path("out"))
    assert code == 0
    live = ["--source", str(eventful), "--headless", "--alarm", "--events", "alarms.jsonl", "--json", "live.json"]
    monkeypatch.setattr("sys.argv", ["svg-live", *live, *OPTIONS, *low])
    with pytest.raises(SystemExit):
        main()
    stats = json.loads(Path("live.json").read_text())
    frames = rows["frames"]
    assert frames.num_rows == stats["frames"]["seen"] == 70
    for lead in stats["score"]:
        errors = pc.list_element(frames["mse_mean"], lead["lead"] - 1).drop_null()
        assert len(errors) == lead["frames"]
        assert psnr(pc.mean(errors.cast(pa.float64())).as_py()) == pytest.approx(lead["psnr_mean"], abs=2e-3)
    assert pc.quantile(frames["surprise"], 0.5)[0].as_py() == pytest.approx(stats["surprise_nats"]["p50"], rel=1e-2)
    expected = [json.loads(line) for line in Path("alarms.jsonl").read_text().splitlines()]
    alarms = rows["events"].filter(pc.equal(rows["events"]["kind"], "alarm")).to_pylist()
    assert len(alarms) == len(expected) == summary["alarms"] >= 2
    for ours, theirs in zip(alarms, expected, strict=True):
        assert ours["time_s"] == pytest.approx(theirs["position_s"], abs=1e-3)
        assert ours["duration_s"] == pytest.approx(theirs["duration_s"], abs=1e-3)
        assert ours["peak_combined"] == pytest.approx(theirs["peak"]["combined"], abs=1e-3)
        assert ours["signal"] == theirs["signal"] == "combined"


def test_motion_is_not_measured_across_black_pictures(svg_forecast, tmp_path, monkeypatch):
    from svg_runtime.live import fit
    from svg_runtime.live.cli import main

    clip = write_video(tmp_path / "a.mp4", frames=30, black=range(10, 14))
    measured = []

    def recorded(frame, before, measure=fit.frame_statistics):
        measured.append(before is not None)
        return measure(frame, before)

    monkeypatch.setattr(fit, "frame_statistics", recorded)
    svg_forecast(clip)
    monkeypatch.setattr("sys.argv", ["svg-live", "--source", str(clip), "--headless", *OPTIONS])
    with pytest.raises(SystemExit):
        main()
    without_black = [number not in (0, 14) for number in range(30) if number not in range(10, 14)]
    assert measured == without_black * 2


def test_time_goes_on_over_a_pause_and_the_context_does_not(svg_forecast, videos):
    svg_forecast(videos / "gate" / "pause.mp4")
    rows = rows_of(Path("out"))
    frames = rows["frames"].to_pydict()
    assert frames["frame"] == list(range(18))
    assert frames["time_s"] == pytest.approx([number / 10 + (5 if number >= 9 else 0) for number in range(18)])
    assert frames["clip"] == [0] * 9 + [1] * 9
    assert frames["surprise"][9] is None
    assert frames["mse_mean"][9] == [None, None, None]
    (pause,) = rows["events"].to_pylist()
    assert (pause["kind"], pause["frame"], pause["time_s"]) == ("pause", 9, pytest.approx(5.9))
    assert pause["duration_s"] == pytest.approx(5.1)


def test_errors_stand_at_their_lead(svg_forecast, videos):
    svg_forecast(videos / "yard0.mp4")
    frames = rows_of(Path("out"))["frames"].to_pydict()
    n_past = next(number for number, errors in enumerate(frames["mse_best"]) if errors[0] is not None)
    for name in ("mse_best", "mse_mean", "mse_repeat"):
        for number, errors in enumerate(frames[name]):
            known = max(0, min(3, number - n_past + 1))
            assert [error is not None for error in errors] == [True] * known + [False] * (3 - known)


def test_damaged_videos_are_rows_with_a_reason(svg_forecast, videos, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    whole = write_video(folder / "cut.mkv", frames=40, size=128).read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "empty.mp4").touch()
    (folder / "text.avi").write_text("nothing that plays")
    (folder / "good.mkv").write_bytes((videos / "gate" / "a.mkv").read_bytes())
    code, message, summary = svg_forecast(folder)
    assert code == 1
    assert "3 of 4 videos are not forecast completely" in message
    assert summary["videos"] == counts(listed=4, done_before=0, damaged=1, failed=2, ok=1)
    rows = rows_of(Path("out"))
    table = {Path(row["video"]).name: row for row in rows["videos"].to_pylist()}
    assert {name: row["status"] for name, row in table.items()} == {
        "cut.mkv": "damaged", "empty.mp4": "failed", "text.avi": "failed", "good.mkv": "ok",
    }  # fmt: skip
    assert "the file is empty" in table["empty.mp4"]["reason"]
    assert "frames could be read" in table["cut.mkv"]["reason"]
    assert 0 < table["cut.mkv"]["frames"] < 40
    assert Counter(rows["frames"]["video_id"].to_pylist()) == {
        row["video_id"]: row["frames"] for row in table.values() if row["frames"]
    }
    problems = summary["problems"]
    assert {Path(name).name for name in problems} == {"cut.mkv", "empty.mp4", "text.avi"}
    code, message, summary = svg_forecast(folder)
    assert (code, summary["videos"]["done_before"], summary["frames"]) == (1, 4, 0)  # as the uninterrupted run says
    assert summary["problems"] == problems
    assert "the file is empty" in message
    assert rows_of(Path("out")) == rows


def test_every_reason_is_in_the_summary_and_the_screen_says_how_many_are_not_on_it(svg_forecast, tmp_path):
    for number in range(25):
        (tmp_path / f"{number:02}.mp4").touch()
    for _ in range(2):
        _, message, summary = svg_forecast(tmp_path)
        assert len(summary["problems"]) == summary["videos"]["failed"] == 25
        assert message.count("the file is empty") == 20
        assert "and 5 more" in message


def test_region_and_turn(svg_forecast, videos):
    code, _, _ = svg_forecast(videos / "yard0.mp4", "--roi", "0,0,1,0.5", "--rotate", "90", out="half")
    assert code == 0
    code, message, _ = svg_forecast(videos / "yard0.mp4", "--roi", "0,0,500,500", out="outside")
    assert code == 1
    (row,) = rows_of(Path("outside"))["videos"].to_pylist()
    assert row["status"] == "failed"
    assert "does not lie within the picture" in row["reason"]
    assert "does not lie within the picture" in message


def test_pictures_in_which_the_region_does_not_lie_have_no_rows_and_the_others_do(svg_forecast, tmp_path):
    parts = [
        write_video(tmp_path / f"{size}{seed}.ts", frames=8, size=size, seed=seed) for seed, size in enumerate((128, 64, 128))
    ]
    video = tmp_path / "all.ts"
    video.write_bytes(b"".join(part.read_bytes() for part in parts))
    code, message, _ = svg_forecast(video, "--roi", "50,50,64,64", "--keep", "mean")
    rows = rows_of(Path("out"))
    (row,) = rows["videos"].to_pylist()
    assert (code, row["status"], row["frames"], rows["frames"].num_rows) == (1, "damaged", 16, 16)
    assert row["reason"] == "--roi does not fit 8 of its pictures, which have no rows"
    assert message.count(str(video)) == 1
    kinds = Counter(rows["events"]["kind"].to_pylist())
    assert (kinds["size_changed"], kinds["roi_outside"]) == (2, 1)
    page = (Path(__file__).parents[3] / "docs" / "offline.md").read_text()
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []
    (kept,) = Path("out").glob("part-*/forecasts-*.parquet")
    assert pq.read_table(kept).num_rows == row["forecasts"] > 0


def test_what_was_forecast_before_the_model_failed_is_kept(svg_forecast, videos, monkeypatch):
    calls, forecast = [], Forecaster.forecast

    def fails_at_the_sixth(self):
        calls.append(None)
        if len(calls) == 6:
            raise ForecastError("values are not finite\n  call reset()")
        return forecast(self)

    monkeypatch.setattr(Forecaster, "forecast", fails_at_the_sixth)
    code, _, _ = svg_forecast(videos / "yard2.mp4")
    rows = rows_of(Path("out"))
    (row,) = rows["videos"].to_pylist()
    assert (code, row["status"], row["reason"]) == (1, "damaged", "values are not finite")
    assert rows["frames"]["frame"].to_pylist() == list(range(row["frames"]))
    assert 0 < row["forecasts"] < row["frames"] < 14


def test_a_damaged_video_is_named_once_and_its_name_stays_on_its_line(svg_forecast, tmp_path):
    whole = write_video(tmp_path / "whole.mkv", frames=40, size=128).read_bytes()
    cut = tmp_path / "a\x1b[31m\nb.mkv"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    _, message, summary = svg_forecast(cut)
    (row,) = rows_of(Path("out"))["videos"].to_pylist()
    assert row["reason"].startswith("the file is truncated")
    assert summary["problems"] == {row["video"]: row["reason"]}
    assert message.count(r"a\x1b[31m\nb.mkv") == 1
    (event,) = rows_of(Path("out"))["events"].to_pylist()
    assert event["message"] == f"{row['video']}: {row['reason']}"


def test_kept_forecasts_are_those_that_were_scored(svg_forecast, videos):
    tables = {}
    for keep in ("mean", "spread", "samples"):
        code, message, _ = svg_forecast(videos / "yard0.mp4", "--keep", keep, out=keep)
        assert code == 0
        assert f"--keep {keep}: about" in message
        (path,) = Path(keep).glob("part-*/forecasts-*.parquet")
        tables[keep] = pq.read_table(path)
    count = tables["mean"].num_rows
    assert [rows_of(Path(keep))["videos"]["forecasts"].to_pylist() for keep in tables] == [[count]] * 3
    arrays = {(keep, name): as_array(table, name) for keep, table in tables.items() for name in table.column_names[2:]}
    samples = arrays["samples", "samples"].astype(np.float32)
    assert samples.shape == (count, 2, 3, 64, 64, 1)
    assert samples.std() > 0.1
    np.testing.assert_array_equal(arrays["mean", "mean"], arrays["spread", "mean"])
    np.testing.assert_allclose(arrays["mean", "mean"], samples.mean(1), atol=2e-3)
    np.testing.assert_allclose(arrays["spread", "spread"], samples.std(1), atol=2e-3)


def as_array(table: pa.Table, name: str) -> np.ndarray:
    """As the documentation says."""
    about = table.schema.field(name).metadata
    shape = [int(side) for side in about[b"shape"].split(b",")]
    return np.stack([np.frombuffer(cell, about[b"dtype"].decode()).reshape(shape) for cell in table[name].to_pylist()])


def test_schema_is_what_is_documented_and_says_what_it_was_made_with(svg_forecast, videos):
    svg_forecast(videos / "yard0.mp4")
    (part,) = Path("out").glob("part-*")
    for name, schema in {"frames": FRAMES, "events": EVENTS, "videos": VIDEOS}.items():
        stored = pq.read_schema(part / f"{name}.parquet")
        assert stored.remove_metadata() == schema
        about = json.loads(stored.metadata[b"svg_edge"])
        assert about["model"] == "digits.svgb"
        assert (about["samples"], about["horizon"], about["seed"]) == (2, 3, 0)
    assert json.loads(Path("out/settings.json").read_text())["schema"] == SCHEMA
    page = (Path(__file__).parents[3] / "docs" / "offline.md").read_text()
    missing = [field.name for schema in (FRAMES, EVENTS, VIDEOS) for field in schema if f"`{field.name}`" not in page]
    assert missing == []
