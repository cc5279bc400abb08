"""`svg-live` from command line to files, in this process: a real bundle, real engine, real sources, real video."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rich.console import Console

from svg_common.errors import ExitCode
from svg_runtime.bundle.reader import KNOWS_DIGITS_ONLY, Bundle
from svg_runtime.errors import SourceLostError
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.forecast.scores import ForecastScore
from svg_runtime.forecast.separate_rollout import SeparateRollout
from svg_runtime.live import stats as stats_module
from svg_runtime.live.loop import LiveOptions, run_cameras
from svg_runtime.live.sources import SourceOptions
from svg_runtime.live.sources.capture import NoPictureError
from svg_runtime.live.sources.pacing import Ticker
from svg_runtime.live.stats import ScoreTable
from svg_runtime.live.timing import RecentValues, StageTimer
from svg_runtime.machine.memory import peak_rss_mib
from tests.svg_runtime.live.live_helpers import documented_keys, read_times, write_video
from tests.svg_runtime.live.page.page_helpers import make_stats


def test_thousands_of_threads_are_refused(svg_live):
    """An engine would start them all, and the machine stand still."""
    code, stderr, _ = svg_live("--headless", "--max-frames", "3", "--threads", "100000")
    assert code == 2
    assert "Invalid value for '--threads'" in stderr


def test_synthetic_camera_to_video_and_statistics(svg_live):
    code, stderr, stats = svg_live(
        "--headless", "--output", "out.mp4", "--json", "stats.json", "--max-frames", "12", "--samples", "3", "--horizon", "4"
    )
    assert code == 0, stderr
    assert "synthetic camera" in stderr
    assert read_times(Path("out.mp4")) == pytest.approx([0.1 * n for n in range(12)])
    counted = {"captured": 12, "seen": 12, "forecast": 10, "dropped": 0, "not_shown": 0, "unused": 0}
    assert stats["frames"] == {**counted, "held": 0, "blank": 0, "frozen": 0}
    stages = ["capture", "preprocess", "observe", "forecast", "queue", "overlay", "output", "end_to_end"]
    assert list(stats["latency_ms"]) == stages
    assert all(0 <= row["p50"] <= row["p95"] <= row["p99"] <= row["max"] for row in stats["latency_ms"].values())
    assert stats["latency_ms"]["forecast"]["count"] == 10
    assert stats["surprise_nats"]["count"] == 11
    assert [row["lead"] for row in stats["score"]] == [1, 2, 3, 4]
    assert [row["frames"] for row in stats["score"]] == [9, 8, 7, 6]
    assert (stats["samples"], stats["horizon"], stats["stopped_by"]) == (3, 4, "--max-frames")
    assert stats["events"]["counts"] == {}
    assert stats["peak_rss_mib"] > 20
    assert documented_keys() >= {*stats, *stats["score"][0], *stats["fit"], *stats["alarms"], *stats["frames"]}
    assert "12 seen" in stderr
    assert "out.mp4" in stderr


def test_more_steps_than_in_training_are_said_once(svg_live, tmp_path):
    """Nobody has measured them. How to do so: of real video, on clips of it."""
    write_video(tmp_path / "a.mp4", frames=7)
    chosen = ("--headless", "--json", "stats.json", "--max-frames", "5", "--samples", "2", "--horizon", "11")
    for source, clips in (((), ""), (("--source", "a.mp4"), " --data video --data-root CLIPS --test-fraction 1")):
        _, stderr, stats = svg_live(*chosen, *source)
        assert stderr.count("--horizon is 11, but the model was trained on 10 steps") == 1
        assert f"  give --horizon 10, or measure it with: svg-eval MODEL --horizon 11{clips}\n" in stderr
        assert stats["events"]["counts"] == {"long_horizon": 1}


def test_a_video_slower_than_the_model_makes_longer_steps(svg_live, tmp_path):
    """4 pictures a second, shown to a model of 10: what it forecasts lies 0.25 s apart, and the lead times say so."""
    write_video(tmp_path / "slow.mp4", frames=9, fps=4)
    code, stderr, stats = svg_live("--source", "slow.mp4", "--headless", "--json", "stats.json", "--horizon", "2")
    assert code == 0, stderr
    assert "one forecast step is 0.25 s here" in stderr
    assert stats["interval_s"] == pytest.approx(0.25)
    assert [row["seconds"] for row in stats["score"]] == [0.25, 0.5]


def test_a_run_on_a_file_ends_by_itself_and_needs_no_output(svg_live, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=6, fps=10)
    code, stderr, _ = svg_live("--source", "clip.mp4", "--headless")
    assert code == 0, stderr
    assert "6 seen" in stderr
    for endless in ([], ["--source", "synthetic://digits"]):
        code, stderr, _ = svg_live("--headless", *endless)
        assert (code, "would run forever" in stderr) == (ExitCode.USAGE, True)


def test_results_may_be_written_into_the_folder_that_is_read(svg_live, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=6, fps=10)
    for _ in range(2):
        code, stderr, _ = svg_live("--source", ".", "--headless", "--json", "stats.json", "--output", "out/o.mp4")
        assert code == 0, stderr
    code, stderr, _ = svg_live("--source", ".", "--headless", "--output", "clip.mp4")
    assert (code, "would overwrite 'clip.mp4'" in stderr) == (ExitCode.USAGE, True)


def test_videos_of_several_rates_keep_the_models_step(svg_live, tmp_path):
    write_video(tmp_path / "a.mp4", frames=6, fps=4)
    write_video(tmp_path / "b.mp4", frames=6, fps=30)
    _, _, stats = svg_live("--source", ".", "--headless", "--json", "stats.json")
    assert stats["interval_s"] == pytest.approx(0.1)


@pytest.fixture
def due(monkeypatch) -> list[tuple[float, int]]:
    """The step and the number of each tick that a source waits for; none is waited for in fact."""
    waits: list[tuple[float, int]] = []
    monkeypatch.setattr(Ticker, "wait_for", lambda self, tick: waits.append((self.interval_s, tick)))
    return waits


def test_a_pause_in_a_recording_resets_the_context_and_is_not_waited_for(svg_live, tmp_path, due):
    times_s = [0.1 * n + 25 * (n // 6) for n in range(18)]
    write_video(tmp_path / "events.mp4", frames=18, times_s=times_s)
    code, stderr, stats = svg_live(
        "--source", "events.mp4", "--headless", "--realtime", "--json", "stats.json", "--horizon", "2"
    )
    assert code == 0, stderr
    assert due == [(pytest.approx(0.1), tick) for tick in range(18)]
    assert stats["events"]["counts"] == {"pause": 2}
    assert "events.mp4: no picture for 25 s; the context is reset" in stderr
    assert stats["resets"] == 2
    assert stats["frames"]["forecast"] == 3 * (6 - 2)
    assert stats["interval_s"] == pytest.approx(0.1)
    assert [row["seconds"] for row in stats["score"]] == [0.1, 0.2]


def test_a_rate_is_for_files_without_time_stamps(svg_live):
    for options in (["--camera", "0"], [], ["--source", "rtsp://host/path"]):
        code, stderr, _ = svg_live("--headless", "--max-frames", "2", "--source-fps", "25", *options)
        assert (code, "--source-fps applies to files" in stderr) == (ExitCode.USAGE, True)
    code, stderr, _ = svg_live("--headless", "--source", "a.h264", "--source-fps", "0")
    assert (code, "is not a rate" in stderr) == (ExitCode.USAGE, True)


@pytest.mark.parametrize("flag", ["--output", "--json"])
def test_the_video_that_is_read_is_not_overwritten(svg_live, tmp_path, flag):
    write_video(tmp_path / "clip.mp4", frames=6, fps=10)
    before = (tmp_path / "clip.mp4").read_bytes()
    code, stderr, _ = svg_live("--source", "clip.mp4", "--headless", flag, "./clip.mp4")
    assert code == ExitCode.USAGE
    assert f"{flag} would overwrite 'clip.mp4'" in stderr
    assert (tmp_path / "clip.mp4").read_bytes() == before


def test_a_deterministic_model_shows_its_one_future_once(svg_live, unlearned_bundle):
    chosen = "--headless", "--output", "out.mp4", "--json", "stats.json", "--max-frames", "5", "--samples", "3"
    code, stderr, stats = svg_live("--model", str(unlearned_bundle), *chosen, model=False)
    assert code == 0, stderr
    deterministic = Bundle.open(unlearned_bundle).manifest.model.z_dim == 0
    assert stats["samples"] == (1 if deterministic else 3)
    assert ("best of 1" in stderr) == deterministic
    if deterministic:
        by_surprise = "--headless", "--max-frames", "1", "--alarm", "--alarm-signal", "surprise"
        code, stderr, _ = svg_live("--model", str(unlearned_bundle), *by_surprise, model=False)
        assert code == ExitCode.USAGE
        assert "--alarm-signal is surprise, which this model does not have\n  expected one of: combined, error," in stderr


def test_the_chosen_model_is_reported(svg_live):
    _, stderr, stats = svg_live("--headless", "--json", "stats.json", "--max-frames", "2", model=False)
    assert "no --model: using digits.svgb (embedded)" in stderr
    assert f"svg-live: {stats['backend']}\n" in stderr


def test_a_video_takes_the_embedded_camera_model_and_the_synthetic_camera_the_digits(
    svg_live, tiny_bundle, tmp_path, monkeypatch
):
    package = tmp_path / "package"
    for name in ("digits", "camera"):
        shutil.copytree(tiny_bundle, package / f"{name}.svgb")
    monkeypatch.setattr("svg_runtime.bundle.reader.EMBEDDED_FOLDER", package)
    for module in ("svg_runtime.bundle.reader", "svg_runtime.live.loop"):
        monkeypatch.setattr(f"{module}.EMBEDDED_MODEL", package / "digits.svgb")
    write_video(tmp_path / "a.mp4", frames=7)
    small = ("--headless", "--max-frames", "2", "--samples", "2", "--horizon", "2")
    for source, chosen in ((("--source", "a.mp4"), "camera"), ((), "digits"), (("--source", "synthetic://digits"), "digits")):
        code, stderr, _ = svg_live(*small, *source, model=False)
        assert code == 0, stderr
        assert f"no --model: using {chosen}.svgb (embedded)" in stderr
        assert KNOWS_DIGITS_ONLY not in stderr


def test_the_embedded_digits_say_once_that_they_know_digits_only(svg_live, tmp_path):
    write_video(tmp_path / "a.mp4", frames=7)
    write_video(tmp_path / "b.mp4", frames=7, brightness_code=True)
    chosen = ("--model", "digits", "--headless", "--json", "stats.json", "--samples", "2", "--horizon", "2")
    _, stderr, stats = svg_live(*chosen, "--source", ".", model=False)
    message = "the embedded digits know only moving digits, and their forecasts of anything else mean nothing"
    advice = "take the model camera, or train your own: svg-train --config video --data-root YOUR_VIDEOS/"
    assert stderr.count(f"svg-live: {message}; {advice}\n") == 1
    assert stats["events"]["counts"]["digits_only"] == 1


def test_digits_and_other_models_are_not_warned_about(svg_live, tmp_path):
    write_video(tmp_path / "a.mp4", frames=7)
    small = ("--headless", "--json", "stats.json", "--max-frames", "2", "--samples", "2", "--horizon", "2")
    for arguments, model in (((), False), (("--source", "synthetic://digits"), False), (("--source", "a.mp4"), True)):
        code, stderr, stats = svg_live(*small, *arguments, model=model)
        assert code == 0, stderr
        assert "digits_only" not in stats["events"]["counts"]


@pytest.mark.parametrize(
    ("source", "extra", "corrected"),
    [("digits", [], True), ("digits", ["--no-post-process"], False), ("synthetic://digits", [], False)],
)
def test_scores_are_those_of_the_forecaster(svg_live, tiny_bundle, source, extra, corrected):
    """The statistics equal a run of the Forecaster by hand over the same pictures, from files or from the synthetic camera."""
    from svg_common.digits import digit_stream

    draw, errors, surprises = digit_stream(5, 1, 64), [], []
    Path("digits").mkdir()
    for number in range(9):
        cv2.imwrite(f"digits/{number}.png", (draw() * 255 + 0.5).astype(np.uint8))
    code, stderr, stats = svg_live("--source", source, "--headless", "--json", "stats.json", "--max-frames", "9",
                                   "--samples", "2", "--horizon", "3", "--seed", "5", *extra)  # fmt: skip
    assert code == 0, stderr
    assert stats["post_process"] is corrected
    draw = digit_stream(5, 1, 64)
    with Forecaster.open(tiny_bundle, samples=2, horizon=3, seed=5, post_process=corrected) as forecaster:
        futures: list[np.ndarray] = []
        for _ in range(9):
            frame = (draw() * 255 + 0.5).astype(np.uint8)[..., None].astype(np.float32) / 255
            if len(futures) >= 1:
                errors.append(min(float(((sample[0] - frame) ** 2).mean()) for sample in futures[-1]))
            observation = forecaster.observe(frame)
            if observation.surprise is not None:
                surprises.append(observation.surprise)
            if forecaster.ready:
                futures.append(forecaster.forecast())
    assert stats["score"][0]["psnr_best"] == pytest.approx(-10 * np.log10(np.mean(errors)), abs=0.01)
    assert stats["surprise_nats"]["max"] == pytest.approx(max(surprises), rel=1e-4)


def test_seed_and_context_and_precision_change_the_run(svg_live):
    def score(*extra: str) -> tuple[float, str, float]:
        code, stderr, stats = svg_live("--headless", "--json", "stats.json", "--max-frames", "8", "--samples", "2", *extra)
        assert code == 0, stderr
        return stats["score"][0]["psnr_best"], stats["backend"], stats["surprise_nats"]["mean"]

    usual = score()
    assert score() == usual
    assert score("--seed", "1")[0] != usual[0]
    assert score("--context", "stream")[2] != usual[2]
    assert "fp16" in score("--half")[1]
    code, stderr, _ = svg_live("--headless", "--max-frames", "8", "--bf16")
    assert (code, "bf16" in stderr) == (4, True), stderr  # the bundle has no bf16 variant, or openvino is not installed
    assert "fp16" not in usual[1]


def test_a_video_file_is_sampled_at_the_models_interval(svg_live):
    write_video(Path("in.mp4"), frames=60, fps=30)
    code, stderr, stats = svg_live("--headless", "--source", "in.mp4", "--output", "out.mp4", "--json", "stats.json")
    assert code == 0, stderr
    assert stats["frames"]["captured"] == 60
    assert stats["frames"]["seen"] == len(read_times(Path("out.mp4"))) == 20
    assert stats["stopped_by"] == "end of source"


def test_new_file_and_changed_size_reset_the_context(svg_live):
    Path("clips").mkdir()
    write_video(Path("clips/a.mp4"), frames=5)
    write_video(Path("clips/b.mp4"), frames=5, size=128)
    for number in range(4):
        cv2.imwrite(f"clips/c{number}.png", np.full((64 + 16 * (number // 2), 64, 3), 90, np.uint8))
    code, stderr, stats = svg_live("--headless", "--source", "clips", "--json", "stats.json", "--horizon", "2")
    assert code == 0, stderr
    assert stats["events"]["counts"] == {"new_clip": 2, "size_changed": 3}
    assert stats["resets"] == 3  # a new file of another size is one cut, not two
    assert stats["frames"]["forecast"] == 3 + 3  # n_past is 3: the images never gave a context
    assert "128x128" in stderr


def test_damaged_video_is_reported_and_the_rest_is_used(svg_live):
    whole = write_video(Path("whole.avi"), frames=300, size=128)
    Path("cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    code, stderr, stats = svg_live(
        "--headless", "--source", "cut.avi", "--json", "stats.json", "--samples", "1", "--horizon", "1"
    )
    assert code == 0, stderr
    assert stats["events"]["counts"]["damaged_file"] == 1
    assert 5 < stats["frames"]["seen"] < 300


def test_a_source_that_is_too_short_reports_that_nothing_was_forecast(svg_live):
    write_video(Path("short.mp4"), frames=2)
    code, stderr, stats = svg_live("--headless", "--source", "short.mp4", "--json", "stats.json")
    assert code == 0
    assert "no forecast was made: the run ended before the model had seen enough frames" in stderr
    assert stats["frames"]["forecast"] == 0
    assert stats["score"] == []


def test_video_in_pieces_that_are_too_short_reports_that_they_are(svg_live):
    Path("pieces").mkdir()
    for number in range(3):
        write_video(Path("pieces") / f"{number}.mp4", frames=2)
    code, stderr, stats = svg_live("--headless", "--source", "pieces", "--json", "stats.json")
    assert (code, stats["frames"]["seen"]) == (0, 6)
    assert "no forecast was made: the model needs 3 frames in a row before the first one, and had 2 at most\n" in stderr


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--headless"], ExitCode.USAGE, "--record DIR"),
        (["--headless", "--max-frames", "0"], ExitCode.USAGE, "max-frames"),
        (["--camera", "0", "--source", "x.mp4", "--headless", "--max-frames", "1"], ExitCode.USAGE, "--source v4l2://0"),
        (["--source", "missing.mp4", "--headless", "--max-frames", "1"], ExitCode.USAGE, "missing.mp4"),
        (["--lead", "11", "--headless", "--max-frames", "1"], ExitCode.USAGE, "--lead 11"),
        (["--headless", "--output", "a.avi"], ExitCode.USAGE, ".mp4"),
        (["--headless", "--output", "/proc/none/a.mp4"], ExitCode.ERROR, "/proc/none/a.mp4"),
        (["--headless", "--json", "/proc/none/a.json"], ExitCode.ERROR, "/proc/none/a.json"),
        (["--headless", "--max-frames", "1", "--backend", "abacus"], None, "abacus"),
        (["--headless", "--max-frames", "1", "--device", "cuda:7", "--backend", "cpu"], ExitCode.BACKEND_MISSING, "cuda:7"),
        (["--headless", "--max-frames", "1", "--camera", "97"], ExitCode.SOURCE_LOST, "synthetic://digits"),
    ],
)
def test_a_users_mistake_is_one_message(svg_live, arguments, code, expected):
    given, stderr, _ = svg_live(*arguments)
    assert given == code or (code is None and given in (ExitCode.USAGE, ExitCode.BACKEND_MISSING))
    assert expected in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in Path().iterdir()] == []


def test_lost_camera_exits_5_and_keeps_video_and_statistics(tiny_bundle, tmp_path, monkeypatch):
    class Cable:  # the one thing that cannot be had for real: a plug that is pulled
        reads = 0

        def __init__(self, *_: object) -> None:
            if Cable.reads >= 40:
                raise NoPictureError("unplugged")

        def read(self):
            time.sleep(0.01)
            Cable.reads += 1
            return (True, np.full((48, 64, 3), 90, np.uint8)) if Cable.reads < 40 else (False, None)

        def release(self) -> None:
            pass

    monkeypatch.setattr("svg_runtime.live.sources.capture.open_capture", Cable)
    monkeypatch.setattr("svg_runtime.live.loop.model_interval_s", lambda *_: 0.02)
    options = LiveOptions(
        SourceOptions(camera=0, reconnect_s=0.2), model=str(tiny_bundle), samples=1, horizon=1,
        window=False, output=tmp_path / "out.mp4", json=tmp_path / "stats.json",
    )  # fmt: skip
    with pytest.raises(SourceLostError, match="did not come back within"):
        run_cameras([options], Console(stderr=True))
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["stopped_by"] == "lost source"
    assert stats["events"]["counts"]["camera_lost"] == 1
    assert len(read_times(tmp_path / "out.mp4")) == stats["frames"]["seen"] - stats["frames"]["not_shown"] > 2


def _spoil(monkeypatch, spoiled: set[int]) -> None:
    """Make the n-th forecasts non-finite: a fault of a device that a healthy machine does not have."""
    real, calls = SeparateRollout.forecast, iter(range(10_000))

    def forecast(self, *arguments, **named):
        futures = real(self, *arguments, **named)
        return futures * np.float32(np.nan) if next(calls) in spoiled else futures

    monkeypatch.setattr(SeparateRollout, "forecast", forecast)
    monkeypatch.setattr(Forecaster, "warm_up", lambda self, counts=(): None)  # counted from the first picture on


def test_non_finite_forecast_is_counted_and_not_shown(svg_live, monkeypatch):
    _spoil(monkeypatch, {2})
    code, stderr, stats = svg_live("--headless", "--output", "o.mp4", "--json", "stats.json", "--max-frames", "12")
    assert code == 0
    assert stats["events"]["counts"] == {"forecast_failed": 1}
    assert stats["resets"] == 1
    assert stats["frames"]["forecast"] == 2 + (12 - 5 - 2)  # two good ones, one spoiled, two frames of new context
    assert "not finite" in stderr


def test_forecasting_that_always_fails_ends_and_keeps_the_video(svg_live, monkeypatch):
    _spoil(monkeypatch, set(range(1000)))
    code, stderr, _ = svg_live("--headless", "--output", "o.mp4", "--max-frames", "100")
    assert code == ExitCode.ERROR
    assert "5 times in a row, last with: the forecast contains values that are not finite\n  try --backend cpu" in stderr
    assert "no forecast was made: what was wrong is said above" in stderr
    assert len(read_times(Path("o.mp4"))) == 14  # the fifth failure comes at frame 15


def test_realtime_keeps_the_models_rate(svg_live, due):
    code, _, stats = svg_live("--headless", "--realtime", "--max-frames", "8", "--json", "stats.json", "--samples", "1")
    assert code == 0
    assert due[:8] == [(pytest.approx(0.1), tick) for tick in range(8)]
    assert stats["frames"]["seen"] == 8


def test_score_table_averages_errors_and_not_decibels():
    table = ScoreTable(horizon=2)
    table.add([ForecastScore(lead=1, mse_best=0.1, mse_mean=0.01, mse_model=0.01, mse_repeat=0.001)])
    table.add([ForecastScore(lead=1, mse_best=0.01, mse_mean=0.01, mse_model=0.01, mse_repeat=0.1)])
    best, mean, repeat = table.psnr(1)
    assert best == pytest.approx(-10 * np.log10((0.1 + 0.01) / 2), abs=1e-3)
    assert mean == pytest.approx(20.0)
    assert repeat == pytest.approx(-10 * np.log10((0.001 + 0.1) / 2), abs=1e-3)
    assert table.psnr(2) is None
    assert [row["lead"] for row in table.summary(0.5)] == [1]


def test_score_table_caps_the_mean_and_not_each_error():
    table = ScoreTable(horizon=1)
    table.add([ForecastScore(lead=1, mse_best=0.0, mse_mean=0.5e-12, mse_model=0.5e-12, mse_repeat=3e-12)])
    table.add([ForecastScore(lead=1, mse_best=0.0, mse_mean=1.5e-12, mse_model=1.5e-12, mse_repeat=0.0)])
    assert table.psnr(1) == (120.0, 120.0, pytest.approx(-10 * np.log10(1.5e-12), abs=1e-3))


def test_rates_and_durations_end_with_the_source(monkeypatch):
    """A rate is no rate any more when nothing comes, and what the rest of a run takes is not the camera's."""
    clock = [100.0]
    monkeypatch.setattr(stats_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    away, ended = make_stats(), make_stats()
    for _ in range(40):
        clock[0] += 0.1
        for stats in (away, ended):
            stats.taken += 1
            stats.frame_done()
    assert [away.fps, ended.fps] == pytest.approx([10, 10])
    ended.end("lost source")
    ended_at = ended.ended_at
    assert ended.fps == 0
    before = ended.summary()
    clock[0] += 4.0
    assert away.fps > 0  # a short gap is none
    clock[0] += 20.0
    assert away.fps == 0
    ended.end("signal SIGTERM")
    after = ended.summary()
    assert [after[key] for key in ("duration_s", "fps", "stopped_by")] == [before["duration_s"], before["fps"], "lost source"]
    assert ended.ended_at is ended_at is not None
    assert away.ended_at is None


def test_percentiles_are_of_the_recent_values_and_the_maximum_of_all():
    values = RecentValues(size=100)
    for value in (1000.0, *range(100)):
        values.add(value)
    summary = values.summary()
    assert summary["p50"] == pytest.approx(49.5)
    assert (summary["max"], summary["count"]) == (1000.0, 101)
    assert RecentValues().summary() == {}


def test_a_stage_that_raises_is_not_timed():
    timer = StageTimer(("a",))
    with pytest.raises(ValueError, match="x"), timer.stage("a"):
        raise ValueError("x")
    assert timer.summary() == {}


def test_memory_peak_is_of_this_process():
    assert peak_rss_mib() > 10
