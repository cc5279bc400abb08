"""Runs of svg-forecast: resumed, sharded, killed, stopped, and refused; in the end the rows are always the same."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from svg_common.errors import UsageError
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, Bundle
from svg_runtime.offline import forecast_run
from svg_runtime.offline.dataset import DatasetInUseError, open_dataset
from svg_runtime.offline.forecast_run import _say_size
from svg_runtime.offline.options import ForecastOptions
from svg_runtime.offline.shard import Shard, parse_shard
from svg_runtime.offline.worker import Worker
from tests.command_runner import Run, flush_slowly, start, wait_until
from tests.sample import sampled
from tests.svg_runtime.live.live_helpers import write_video
from tests.svg_runtime.offline.conftest import OPTIONS, counts, rows_of

AT_ONCE = ("--save-every", "0.001s")  # a part per video


@pytest.fixture(scope="session")
def longer_videos(tmp_path_factory) -> Path:
    """Ten videos, so that a process can be killed in the middle. Read only."""
    folder = tmp_path_factory.mktemp("longer")
    for number in range(10):
        write_video(folder / f"v{number:02d}.mp4", frames=30, seed=number)
    return folder


@pytest.fixture(scope="session")
def longer_rows(longer_videos, tmp_path_factory) -> dict[str, pa.Table]:
    """All rows of `longer_videos`, of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("longer-rows")
    assert start(command(longer_videos, folder / "whole"), folder).wait() == 0
    return rows_of(folder / "whole")


def command(source: Path, out: Path, *arguments: str) -> list[str]:
    return ["svg-forecast", str(source), "--out", str(out), *OPTIONS, *arguments]


def published(out: Path) -> int:
    return len(list(out.glob("part-*")))


def first_split(ids: list[str], video_id: str) -> str:
    """The shard of a video, in the first number of shards that splits them: ids come from addresses, which differ by run."""
    count = next(count for count in range(2, 100) if len({int(each, 16) % count for each in ids}) > 1)
    return f"{int(video_id, 16) % count + 1}/{count}"


def a_part_more_or_the_end(out: Path, before: int, runs: list[Run]) -> bool:
    return published(out) > before or all(run.process.exitcode is not None for run in runs)


def test_of_a_single_video_progress_tells_the_time_alone(svg_forecast, videos, monkeypatch):
    """The share is one of videos, and would be 0 % up to its end."""
    seen: dict[str, list[float | None]] = {"forecasting": []}

    def note(display: object, task: str, share: float | None, detail: str = "") -> None:
        seen.setdefault(task, []).append(share)

    monkeypatch.setattr("svg_common.progress.ProgressDisplay.progress", note)
    assert svg_forecast(videos / "yard0.mp4")[0] == 0
    assert set(seen["forecasting"]) == {None}
    seen["forecasting"].clear()
    assert svg_forecast(videos / "yard1.mp4", videos / "yard2.mp4", out="two")[0] == 0
    shares = sorted(set(seen["forecasting"]))
    assert shares[0] == 0
    assert 0 < shares[1] < 1


def test_a_row_group_per_video_and_nothing_is_done_twice(svg_forecast, videos):
    code, message, summary = svg_forecast(videos)
    assert code == 0
    assert "5 videos, 0 done before, 5 to do" in message
    assert summary["videos"] == counts(listed=5, done_before=0, ok=5)
    (part,) = Path("out").glob("part-*")
    file = pq.ParquetFile(part / "frames.parquet")
    groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    assert len(groups) == 5
    assert all(len(set(group["video_id"].to_pylist())) == 1 for group in groups)
    assert summary["frames"] == sum(group.num_rows for group in groups) == 10 + 12 + 14 + 15 + 18
    rows = rows_of(Path("out"))
    code, message, summary = svg_forecast(videos, videos / "gate")
    assert (code, summary["frames"]) == (0, 0)
    assert "5 done before, 0 to do" in message
    assert rows_of(Path("out")) == rows
    assert published(Path("out")) == 1


def test_order_shards_and_another_number_of_shards_give_the_same_rows(svg_forecast, videos, tmp_path):
    svg_forecast(videos, out="whole")
    reversed_order = tmp_path / "list.txt"
    reversed_order.write_text("\n".join(map(str, sorted(videos.rglob("*.m*"), reverse=True))))
    svg_forecast(reversed_order, *AT_ONCE, out="reversed")
    assert published(Path("reversed")) == 5
    assert rows_of(Path("reversed")) == rows_of(Path("whole"))
    ids = rows_of(Path("whole"))["videos"]["video_id"].to_pylist()
    shard_of = partial(first_split, ids)
    for number in {shard_of(each) for each in ids} - {shard_of(ids[0])}:
        svg_forecast(videos, "--shard", number, out="shards")
    assert rows_of(Path("shards"))["videos"]["video_id"].to_pylist() == [
        each for each in ids if shard_of(each) != shard_of(ids[0])
    ]
    for shard in ("2/2", "1/2"):
        assert svg_forecast(videos, "--shard", shard, out="shards")[0] == 0
    assert rows_of(Path("shards")) == rows_of(Path("whole"))


@pytest.mark.parametrize("seed", sampled([0, 1], [0]))
def test_killed_at_random_moments_it_loses_and_doubles_no_row(longer_videos, longer_rows, tmp_path, seed):
    """kill -9 in processes of two shards at once; then with another number of shards."""
    rng, out, kills = random.Random(seed), tmp_path / "out", 0
    for shards in (("1/2", "2/2"), ("1/1",)):
        runs = [
            start(command(longer_videos, out, *AT_ONCE, "--shard", shard), tmp_path, before=flush_slowly) for shard in shards
        ]
        wait_until(partial(a_part_more_or_the_end, out, published(out), runs))
        kills += sum(run.kill_after(rng.uniform(0, 0.15)) for run in runs)
    assert kills >= 2
    assert start(command(longer_videos, out), tmp_path).wait() == 0
    assert rows_of(out) == longer_rows
    assert [path.name for path in out.glob(".part-*")] == []


def test_what_a_kill_leaves_is_removed(svg_forecast, videos):
    svg_forecast(videos / "yard0.mp4", out="whole")
    for name in (".part-1-of-1-000001.abc", ".part-2-of-3-000001.def", ".part-1-of-1-downloads"):
        folder = Path("out") / name
        folder.mkdir(parents=True)
        (folder / "frames.parquet").write_bytes(b"PAR1 half a file")
    assert svg_forecast(videos / "yard0.mp4")[0] == 0
    assert list(Path("out").glob(".part-*")) == []
    assert rows_of(Path("out")) == rows_of(Path("whole"))


def wait_in_the_fourth_video() -> None:
    """For the signal."""
    forecast, begun = Worker._forecast, itertools.count(1)

    def wait(self: Worker, *arguments: object) -> object:
        while next(begun) >= 4 and not self._stop:
            time.sleep(0.01)
        return forecast(self, *arguments)

    Worker._forecast = wait


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_publishes_what_is_finished(longer_videos, tmp_path, number):
    out = tmp_path / "out"
    run = start(command(longer_videos, out, "--keep", "mean"), tmp_path, before=wait_in_the_fourth_video)
    wait_until(lambda: len(list(out.glob(".part-*/forecasts-*"))) == 4)
    os.kill(run.process.pid, number)
    run.assert_one_message(130)
    rows = rows_of(out)
    done = rows["videos"]["video_id"].to_pylist()
    assert len(done) == 3
    assert rows["frames"].num_rows == 30 * len(done)
    assert sorted(path.stem for path in out.glob("part-*/forecasts-*")) == sorted(f"forecasts-{name}" for name in done)


def test_who_may_write_at_the_same_time(tmp_path):
    with open_dataset(tmp_path, {}, Shard(1, 2)):
        with open_dataset(tmp_path, {}, Shard(2, 2)):
            pass
        with pytest.raises(DatasetInUseError, match="shard 1/2"), open_dataset(tmp_path, {}, Shard(1, 2)):
            pass
        with (
            pytest.raises(DatasetInUseError, match=r"shard 1/2 .*this is shard 1/3\n.*--shard 1/2 to --shard 2/2"),
            open_dataset(tmp_path, {}, Shard(1, 3)),
        ):
            pass
    with open_dataset(tmp_path, {}, Shard(1, 3)):
        pass


def test_the_same_shard_at_once_is_refused_by_the_command(svg_forecast, videos, tmp_path):
    code, message, _ = svg_forecast(videos / "yard0.mp4")
    with (tmp_path / "out" / ".shard-1-of-1.lock").open() as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        code, message, _ = svg_forecast(videos)
    assert code == 1
    assert "is being written by another process" in message


def test_results_from_before_post_processing_go_on_without_it(svg_forecast, videos):
    svg_forecast(videos / "yard0.mp4", "--no-post-process")
    settings = json.loads(Path("out/settings.json").read_text())
    assert settings.pop("post_process") is False
    Path("out/settings.json").write_text(json.dumps(settings))
    code, message, _ = svg_forecast(videos)
    assert code == 2
    assert "post_process: False there, True now" in message
    assert svg_forecast(videos, "--no-post-process")[0] == 0


def test_results_of_other_settings_are_not_mixed(svg_forecast, videos):
    svg_forecast(videos / "yard0.mp4")
    code, message, _ = svg_forecast(videos, "--seed", "3", "--alarm-threshold", "2")
    assert code == 2
    assert "seed: 0 there, 3 now" in message
    assert "'threshold': 4.5" in message
    Path("out/settings.json").write_text("{")
    assert svg_forecast(videos)[0] == 2
    Path("out/settings.json").unlink()
    assert "has parts but no settings.json" in svg_forecast(videos)[1]


def test_results_of_another_version_are_named(svg_forecast, videos):
    svg_forecast(videos / "yard0.mp4")
    settings = json.loads(Path("out/settings.json").read_text())
    Path("out/settings.json").write_text(json.dumps({**settings, "schema": "svg-edge/forecasts/1"}))
    code, message, _ = svg_forecast(videos)
    assert code == 2
    assert "has results of another version of svg-edge: svg-edge/forecasts/1 there" in message
    assert message.rstrip().endswith("choose another --out")


def test_a_full_disk_is_said_and_survived(svg_forecast, videos, tmp_path):
    svg_forecast(videos / "yard0.mp4", out="out")
    shutil.copytree("out", "before")
    run = start(command(videos, tmp_path / "out", "--json", "full.json"), tmp_path, limits={resource.RLIMIT_FSIZE: 3000})
    run.assert_one_message(1)
    assert json.loads(Path("full.json").read_text())["videos"] == counts(listed=5, done_before=1, ok=1)  # what is there
    assert "cannot write" in run.output
    assert "run the same command again" in run.output
    assert rows_of(Path("out")) == rows_of(Path("before"))
    assert svg_forecast(videos)[0] == 0
    svg_forecast(videos, out="whole")
    assert rows_of(Path("out")) == rows_of(Path("whole"))


@pytest.mark.parametrize("lock", [".start.lock", ".shard-1-of-1.lock"])
def test_a_lock_that_may_not_be_written_is_named(svg_forecast, videos, lock):
    """As in the folder of another user; a process of root may write everything but a folder."""
    Path("out", lock).mkdir(parents=True)
    code, message, _ = svg_forecast(videos)
    assert code == 1
    assert f"cannot write '{Path('out', lock).absolute()}': Is a directory" in message
    assert "see that you may write it" in message


def test_a_damaged_part_is_said(svg_forecast, videos):
    svg_forecast(videos / "yard0.mp4")
    (part,) = Path("out").glob("part-*/videos.parquet")
    part.write_bytes(b"PAR1")
    code, message, _ = svg_forecast(videos)
    assert code == 1
    assert f"cannot read '{part}'" in message
    shutil.rmtree(part.parent)
    assert svg_forecast(videos / "yard0.mp4")[0] == 0


def test_a_part_that_lost_a_table_is_not_taken_for_complete(svg_forecast, videos):
    """Its videos would count as done, and their rows never be made again."""
    for number in (0, 1):
        assert svg_forecast(videos / f"yard{number}.mp4", "--keep", "mean")[0] == 0
    part, other = sorted(Path("out").glob("part-*"))
    (forecasts,) = part.glob("forecasts-*")
    (of_other,) = other.glob("forecasts-*")
    foreign = {"frames.parquet": other / "frames.parquet", forecasts.name: of_other}  # can be read, with other rows
    for name in ("videos.parquet", "frames.parquet", "events.parquet", forecasts.name):
        whole = (part / name).read_bytes()
        for content in (None, whole[:-9], *([foreign[name].read_bytes()] if name in foreign else [])):
            (part / name).unlink()
            if content is not None:
                (part / name).write_bytes(content)
            code, message, _ = svg_forecast(videos / "yard0.mp4", "--keep", "mean")
            assert (code, f"cannot read '{part / name}': " in message) == (1, True), message
            assert "remove the folder of this part; its videos are then forecast again" in message
            (part / name).write_bytes(whole)
    (part / "frames.parquet").unlink()
    assert "it does not exist" in svg_forecast(videos / "yard0.mp4", "--keep", "mean")[1]
    shutil.rmtree(part)
    code, message, _ = svg_forecast(videos / "yard0.mp4", videos / "yard1.mp4", "--keep", "mean")
    assert (code, "2 videos, 1 done before, 1 to do\n" in message) == (0, True), message


class AwayError(Exception):
    """An error of a driver, as of no other library."""


@pytest.fixture
def bucket(videos, monkeypatch):
    """The videos in memory, as in a bucket; `bucket.away` has the names that cannot be read."""
    store = fsspec.filesystem("memory")
    for path in videos.rglob("*.m*"):
        store.pipe_file(f"/cameras/{path.relative_to(videos)}", path.read_bytes())
    store.away = set()
    store.asked = []  # names
    get_file = store.get_file

    def may_fail(place, target, **options):
        store.asked.append(Path(place).name)
        if Path(place).name in store.away:
            raise AwayError("timed out\nafter 10 s")
        return get_file(place, target, **options)

    monkeypatch.setattr(store, "get_file", may_fail)
    yield store
    store.rm("/cameras", recursive=True)


def test_a_bucket_that_goes_away_is_left_alone_the_others_are_forecast_and_it_is_resumed(svg_forecast, bucket, videos):
    sources = ("memory://cameras", videos / "yard0.mp4")
    svg_forecast(*sources, out="whole")
    bucket.away, bucket.asked = {"a.mkv", "pause.mp4", "yard0.mp4"}, []
    code, message, summary = svg_forecast(*sources)
    assert (code, bucket.asked) == (1, ["a.mkv", "pause.mp4", "yard0.mp4"])
    assert summary["videos"] == counts(listed=6, done_before=0, ok=1, unreachable=5)
    assert "yard2.mp4: not tried: 3 videos in a row could not be reached in 'memory://'; when it is back" in message
    assert "error: 5 of 6 videos are not forecast completely" in message
    bucket.away = {"yard1.mp4"}
    code, message, summary = svg_forecast(*sources)
    assert code == 1
    assert summary["videos"] == counts(listed=6, done_before=1, ok=5, unreachable=1)
    assert "cannot download 'memory:///cameras/yard1.mp4': timed out" in message
    bucket.away = set()
    assert svg_forecast(*sources)[0] == 0
    assert rows_of(Path("out")) == rows_of(Path("whole"))


def listed_before(monkeypatch, change) -> None:
    """Let `change` happen to the videos of a run after it has listed them."""
    find = forecast_run.list_videos

    def listed(sources):
        found = find(sources)
        change(found.videos)
        return found

    monkeypatch.setattr(forecast_run, "list_videos", listed)


@pytest.mark.parametrize("content", [b"changed", None])
def test_objects_that_change_or_go_meanwhile_do_not_keep_a_run_from_the_others(svg_forecast, bucket, monkeypatch, content):
    def change(found):
        for name in [video.address.removeprefix("memory://") for video in found[:3]]:
            if content is None:
                bucket.rm(name)
            else:
                bucket.pipe_file(name, content)

    listed_before(monkeypatch, change)
    code, _, summary = svg_forecast("memory://cameras")
    assert (code, summary["videos"]) == (1, counts(listed=5, done_before=0, ok=2, unreachable=3))


def test_three_folders_that_go_do_not_keep_a_run_from_the_others(svg_forecast, videos, tmp_path, monkeypatch):
    for name in "abcd":
        (tmp_path / name).mkdir()
        shutil.copy(videos / "yard0.mp4", tmp_path / name)
    listed_before(monkeypatch, lambda found: [shutil.rmtree(Path(video.address).parent) for video in found[:3]])
    code, _, summary = svg_forecast("a", "b", "c", "d")
    assert (code, summary["videos"]) == (1, counts(listed=4, done_before=0, ok=1, unreachable=3))


def test_the_rest_of_a_folder_that_is_gone_is_not_tried(svg_forecast, videos, tmp_path, monkeypatch):
    shutil.copytree(videos, tmp_path / "recorded")
    (tmp_path / "recorded" / "yard9.mp4").write_bytes((videos / "yard0.mp4").read_bytes())
    listed_before(monkeypatch, lambda found: shutil.rmtree(tmp_path / "recorded"))
    code, message, summary = svg_forecast(tmp_path / "recorded", videos / "yard1.mp4")
    assert (code, summary["videos"]) == (1, counts(listed=7, done_before=0, ok=1, unreachable=6))
    assert f"yard9.mp4: not tried: 3 videos in a row could not be reached in '{tmp_path}/recorded'" in message


def test_files_that_are_removed_meanwhile_do_not_end_the_run(svg_forecast, videos, tmp_path, monkeypatch):
    """As `svg-live --record-limit` removes the oldest, which come first."""
    shutil.copytree(videos, tmp_path / "recorded")
    listed_before(monkeypatch, lambda found: [Path(video.address).unlink() for video in found[:3]])
    code, _, summary = svg_forecast(tmp_path / "recorded")
    assert code == 1
    assert summary["videos"] == counts(listed=5, done_before=0, ok=2, unreachable=3)


def test_progress_counts_what_cannot_be_reached(svg_forecast, bucket, monkeypatch):
    shown = {}  # the share that is done when a video begins
    display = "svg_runtime.offline.forecast_run.ProgressDisplay.progress"
    monkeypatch.setattr(display, lambda self, task, share, detail="": shown.setdefault(detail.split(" at ")[0], share))
    bucket.away = {"yard0.mp4", "yard2.mp4"}
    assert svg_forecast("memory://cameras")[2]["videos"]["unreachable"] == 2
    names = [name for name in shown if name.startswith("memory:")]
    sizes = [bucket.size(name.removeprefix("memory://")) for name in names]
    assert len(sizes) == 5
    assert [shown[name] for name in names] == pytest.approx([sum(sizes[:i]) / sum(sizes) for i in range(5)])


def test_rows_do_not_depend_on_where_a_video_is(svg_forecast, bucket, videos):
    svg_forecast("memory://cameras/yard0.mp4", out="memory")
    svg_forecast(f"file://{videos}/yard0.mp4", out="disk")
    names = ["video_id", "video", "version"]
    for name, table in rows_of(Path("memory")).items():
        other = rows_of(Path("disk"))[name]
        kept = [column for column in table.column_names if column not in names]
        assert table.select(kept) == other.select(kept)


def test_missing_entries_make_the_first_shard_fail_alone(svg_forecast, videos):
    Path("list.txt").write_text(f"{videos}/yard0.mp4\ngone.mp4\n")
    (code, message, _), (other, _, _) = (svg_forecast("list.txt", "--shard", f"{number}/2") for number in (1, 2))
    assert (code, other) == (1, 0)
    assert "table of videos" not in message  # it has no row of what is missing


def test_a_shard_counts_its_own_videos_and_all_shards_together_every_one(svg_forecast, videos):
    lines = [*sorted(map(str, videos.rglob("*.m*"))), "gone.mp4"]
    Path("list.txt").write_text("\n".join(lines))
    counted = []
    for number in (1, 2):
        code, message, summary = svg_forecast("list.txt", "--shard", f"{number}/2")
        listed, before, *status = summary["videos"].values()
        assert listed == sum(status)
        assert before == 0
        assert (code == 0) == (listed == summary["videos"].get("ok", 0))
        assert f"6 videos, {listed} of them in shard {number}/2, 0 done before, " in message
        counted.append(listed)
    assert sum(counted) == len(lines)


def test_what_cannot_be_reached_is_listed_in_every_count(svg_forecast, videos):
    """A monitor that compares ok with listed must not see success."""
    Path("list.txt").write_text(f"{videos}/yard0.mp4\ngone.mp4\n")
    code, message, summary = svg_forecast("list.txt")
    assert (code, summary["videos"]) == (1, counts(listed=2, done_before=0, ok=1, unreachable=1))
    assert "2 videos, 0 done before, 1 to do, 1 cannot be reached\n" in message
    assert "error: 1 of 2 videos is not forecast completely\n" in message


def test_counts_are_english(svg_forecast, videos):
    Path("recordings").mkdir()
    shutil.copy(videos / "yard0.mp4", "recordings/a.mp4")
    assert "svg-forecast: 1 video, 0 done before, 1 to do\n" in svg_forecast("recordings")[1]
    Path("recordings/a.mp4").write_bytes(b"no video")
    code, message, _ = svg_forecast("recordings")
    assert "1 failed; 0 frames and 0 alarms in this run" in message
    assert (code, "error: 1 of 1 video is not forecast completely\n" in message) == (1, True), message


def test_an_engine_that_fails_ends_the_run_and_keeps_what_is_done(svg_forecast, videos, monkeypatch):
    from svg_runtime.errors import BackendError

    forecast = Worker._forecast
    calls = []

    def failing(self, kept, video, path):
        calls.append(video)
        if len(calls) == 3:
            raise BackendError("out of memory")
        return forecast(self, kept, video, path)

    monkeypatch.setattr(Worker, "_forecast", failing)
    code, message, summary = svg_forecast(videos)
    assert code == 1
    assert "error: out of memory" in message
    assert rows_of(Path("out"))["videos"].num_rows == 2
    assert summary["videos"]["ok"] == 2


def test_nothing_is_kept_of_a_video_that_changes_meanwhile(svg_forecast, videos, tmp_path, monkeypatch):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in ("yard0.mp4", "yard1.mp4"):
        shutil.copy(videos / name, folder)
    forecast = Worker._forecast

    def changing(self, kept, video, path):
        rows = forecast(self, kept, video, path)
        if path.name == "yard0.mp4":
            os.utime(path, ns=(1, 1))
        return rows

    monkeypatch.setattr(Worker, "_forecast", changing)
    code, message, summary = svg_forecast(folder, "--keep", "mean")
    assert (code, summary["videos"]["unreachable"]) == (1, 1)
    assert "has changed since it was listed" in message
    (done,) = rows_of(Path("out"))["videos"]["video_id"].to_pylist()
    assert [path.stem for path in Path("out").glob("part-*/forecasts-*")] == [f"forecasts-{done}"]


def test_the_size_of_kept_forecasts_counts_one_future_of_a_model_without_latents():
    manifest = Bundle.open(EMBEDDED_FOLDER / "digits.svgb").manifest
    one_future = manifest.model_copy(update={"model": manifest.model.model_copy(update={"z_dim": 0})})
    options = ForecastOptions(sources=(), out=Path("out"), samples=8, keep="samples")
    said: list[str] = []
    _say_size(options, one_future, said.append)
    _say_size(replace(options, samples=1), manifest, said.append)
    _say_size(options, manifest, said.append)
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", "１/2"])
def test_shards_that_are_none(text):
    with pytest.raises(UsageError, match="expected I/N"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--ray-gpus", "1"], 2, "without --ray"),
        *((["--ray", "1", "--ray-gpus", share], 2, "neither a share of a GPU") for share in ("inf", "1.5", "0.00001")),
        (["--ray", "1", "--ray-gpus", "nan"], 2, "--ray-gpus"),
        (["--save-every", "10"], 2, "not a duration"),
        (["--source-fps", "0"], 2, "not a rate"),
        (["--alarm-clear", "9"], 2, "above the threshold"),
        (["--shard", "2/1"], 2, "is not a shard"),
        (["--model", "gone.svgb"], 1, "no such bundle"),
    ],
)
def test_options_that_make_no_sense(svg_forecast, videos, arguments, code, text):
    ended, message, _ = svg_forecast(videos, *arguments)
    assert (ended, text in message) == (code, True), message
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [("pyarrow", [], "forecast"), ("filelock", [], "forecast"), ("ray", ["--ray", "2"], "ray")],
)
def test_missing_packages_are_named(svg_forecast, videos, monkeypatch, missing, arguments, extra):
    from svg_common import command as commands

    monkeypatch.setattr(commands, "is_installed", lambda module: module != missing)
    code, message, _ = svg_forecast(videos, *arguments)
    assert code == 4
    assert f"pip install 'svg-edge[{extra}]'" in message


def test_the_summary_overwrites_no_input(svg_forecast, videos, tmp_path):
    video = shutil.copy(videos / "yard0.mp4", tmp_path)
    code, message, _ = svg_forecast(video, "--json", video)
    assert (code, "would overwrite" in message) == (2, True)
    assert Path(video).read_bytes() == (videos / "yard0.mp4").read_bytes()


@pytest.fixture
def sources(videos, tmp_path) -> Path:
    """A folder with two videos, a list, and a list of this list."""
    folder = tmp_path / "src"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(videos / "yard0.mp4", folder / name)
    (folder / "list.txt").write_text("b.mp4\n")
    (folder / "lists.txt").write_text("list.txt\n")
    return folder


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("src", "src/a.mp4"),
        ("src/*.mp4", "src/a.mp4"),
        ("src/list.txt", "src/b.mp4"),
        ("src/list.txt", "src/list.txt"),
        ("src/lists.txt", "src/b.mp4"),
        ("src/lists.txt", "src/list.txt"),
        ("src/lists.txt", "src/lists.txt"),
    ],
)
def test_the_summary_replaces_nothing_that_was_listed(svg_forecast, sources, source, output):
    before = Path(output).read_bytes()
    code, message, _ = svg_forecast(source, "--json", output)
    assert (code, f"--json would overwrite '{output}', which this command uses" in message) == (2, True), message
    assert Path(output).read_bytes() == before
    assert not Path("out").exists()


@pytest.mark.parametrize(("source", "output"), [("src/a.mp4", "src/b.mp4"), ("src/a.mp4", "src/list.txt")])
def test_the_summary_replaces_no_video_or_list_beside_those_that_were_listed(svg_forecast, sources, source, output):
    before = Path(output).read_bytes()
    code, message, _ = svg_forecast(source, "--json", output)
    assert (code, f"--json would overwrite '{output}', which is not JSON" in message) == (2, True), message
    assert Path(output).read_bytes() == before
    assert not Path("out").exists()


@pytest.mark.parametrize("source", ["src", "src/*.mp4", "src/lists.txt"])
def test_results_are_not_written_among_the_videos(svg_forecast, sources, source):
    code, message, _ = svg_forecast(source, out="src")
    assert (code, "--out 'src' holds some of the videos\n  expected a folder of its own" in message) == (2, True), message
    assert sorted(path.name for path in sources.iterdir()) == ["a.mp4", "b.mp4", "list.txt", "lists.txt"]


def test_results_that_were_begun_among_the_videos_are_continued_and_other_files_do_not_matter(svg_forecast, sources):
    (sources / "deep").mkdir()
    (sources / "deep" / "plot.png").touch()
    for _ in range(2):  # the same command again
        assert svg_forecast("src/a.mp4", "--json", "src/summary.txt", out="src/deep")[0] == 0
    for part in Path("src/deep").iterdir():
        shutil.move(part, sources)
    assert svg_forecast("src/a.mp4", out="src")[0] == 0


def test_the_summary_replaces_no_results(svg_forecast, sources):
    assert svg_forecast("src/a.mp4", "--json", "out/summary.json")[0] == 0  # a new file may lie there, and be replaced again
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    for name in ("settings.json", "part-1-of-1-000001/videos.parquet", "part-1-of-1-000001/new.json"):
        code, message, _ = svg_forecast("src/a.mp4", "--json", f"out/{name}")
        assert (code, f"--json would overwrite 'out/{name}'" in message) == (2, True), message
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
    assert svg_forecast("src/a.mp4", "--json", "out/summary.json")[0] == 0
    assert svg_forecast("src/a.mp4", "--json", "new/settings.json", out="new")[0] == 2
    assert not Path("new").exists()
