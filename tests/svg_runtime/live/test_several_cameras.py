"""Several cameras in one process: a real bundle, real engine, and sources of which one blocks, is lost, or ends early."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from svg_common.errors import ExitCode
from svg_runtime.errors import ForecastError, SourceLostError
from svg_runtime.forecast.batch import BatchForecaster
from svg_runtime.live import loop, source_reader, timing
from svg_runtime.live.outputs.fragmented_mp4 import is_complete
from svg_runtime.live.rounds import LiveLoop
from svg_runtime.live.sources import SourceFrame, SourceOptions, camera_help
from svg_runtime.live.sources.pacing import Ticker
from svg_runtime.live.sources.synthetic import SyntheticSource
from svg_runtime.live.stop import StopRequest
from tests.svg_runtime.live.live_helpers import documented_keys, read_times, write_video

DEADLINE_S = 60.0
SMALL = ("--headless", "--json", "stats.json", "--samples", "2", "--horizon", "3")
LOW = ("--alarm", "--alarm-threshold", "0.2", "--alarm-clear", "1e-9", "--alarm-min-duration", "0")
TWO = ("--source", "synthetic://digits", "--source", "synthetic://digits")


class Scripted:
    """A source that does what a test says after some pictures."""

    dropped = 0

    def __init__(self, name: str, pictures: int, then: threading.Event | Exception | None = None) -> None:
        self.name = self.description = name
        self.captured = 0
        self.overtaken = False
        self.closed = threading.Event()
        self._pictures = pictures
        self._then = then

    def frames(self) -> Iterator[SourceFrame]:
        for tick in range(self._pictures):
            self.captured += 1
            yield SourceFrame(np.full((64, 64), 10 * tick, np.uint8), tick=tick)
        if isinstance(self._then, Exception):
            raise self._then
        if self._then is not None:
            self.overtaken = self._then.wait(DEADLINE_S)

    def close(self) -> None:
        self.closed.set()


def use(monkeypatch, *sources: Scripted) -> None:
    """Let the run open these sources, in this order."""
    left = iter(sources)
    monkeypatch.setattr(loop, "open_source", lambda **_: next(left))


def futures(folder: Path) -> list[np.ndarray]:
    return [np.load(path)["futures"] for path in sorted(folder.glob("*.npz"))]


def test_each_camera_gets_what_it_gets_alone(svg_live):
    """Two files of different length, of which one has a cut, and the synthetic camera."""
    Path("b").mkdir()
    write_video(Path("a.mp4"), frames=12, seed=1)
    write_video(Path("b/1.mp4"), frames=6, seed=2)
    write_video(Path("b/2.mp4"), frames=5, seed=3)
    sources = {"a": "a.mp4", "b": "b", "digits": "synthetic://digits"}
    given = [word for source in sources.values() for word in ("--source", source)]
    code, stderr, together = svg_live(*SMALL, *given, "--max-frames", "10", "--save-forecasts", "raw", "--seed", "4")
    assert code == 0, stderr
    assert list(together["cameras"]) == list(sources)
    assert "b: b: a new video begins; the context is reset" in stderr
    for number, (name, source) in enumerate(sources.items()):
        chosen = ("--source", source, "--max-frames", "10", "--save-forecasts", f"alone-{name}", "--seed", str(4 + number))
        code, stderr, alone = svg_live(*SMALL, *chosen)
        assert code == 0, stderr
        one = together["cameras"][name]
        for key in ("source", "interval_s", "stopped_by", "resets", "pauses", "events"):
            assert one[key] == alone[key], (name, key)
        assert {**one["frames"], "captured": 0, "unused": 0} == {**alone["frames"], "captured": 0, "unused": 0}  # read ahead
        assert one["surprise_nats"] == pytest.approx(alone["surprise_nats"], abs=2e-3)
        assert [row["frames"] for row in one["score"]] == [row["frames"] for row in alone["score"]]
        ours, theirs = futures(Path("raw") / name), futures(Path(f"alone-{name}"))
        assert len(ours) == len(theirs) == alone["frames"]["forecast"] > 0
        np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=2e-3)
    assert together["frames"]["seen"] == 30
    assert sum(int(size) * count for size, count in together["batches"].items()) == 30
    assert documented_keys() >= together.keys()
    assert together["frames"]["forecast"] == sum(one["frames"]["forecast"] for one in together["cameras"].values())


def test_a_camera_that_blocks_delays_no_other(svg_live, monkeypatch):
    other_is_done = threading.Event()

    class Counted(Scripted):
        def frames(self):
            yield from super().frames()
            other_is_done.set()

    blocked = Scripted("blocked", 2, then=other_is_done)
    use(monkeypatch, blocked, Counted("other", 9))
    code, stderr, stats = svg_live(*SMALL, *TWO, "--output", "o.mp4")
    assert code == 0, stderr
    assert blocked.overtaken
    seen = {name: camera["frames"]["seen"] for name, camera in stats["cameras"].items()}
    assert seen == {"digits": 2, "digits-2": 9}
    assert len(read_times(Path("o.mp4"))) == 9


def test_no_picture_of_a_file_that_falls_behind_is_missing_from_the_video(svg_live, monkeypatch):
    class Slow(Scripted):
        def frames(self):
            for picture in super().frames():
                yield picture
                assert fast.closed.wait(DEADLINE_S)

    class Closing(Scripted):
        def close(self):
            self.closed.set()

    fast = Closing("fast", 10)
    use(monkeypatch, Slow("slow", 10), fast)
    code, stderr, stats = svg_live(*SMALL, *TWO, "--output", "o.mp4")
    assert code == 0, stderr
    assert {camera["frames"]["not_shown"] for camera in stats["cameras"].values()} == {0}
    assert [camera["latency_ms"]["end_to_end"]["count"] for camera in stats["cameras"].values()] == [10, 10]
    assert len(read_times(Path("o.mp4"))) in (18, 19, 20)  # the first picture may be shared, and the last of the fast one


def test_a_camera_whose_picture_waits_for_a_slow_loop_is_not_away():
    passed, stop = [], StopRequest()

    def camera(arrived: bool) -> SimpleNamespace:
        alarms = SimpleNamespace(pass_time=lambda: passed.append(arrived))
        nothing = lambda *_: None  # noqa: E731
        return SimpleNamespace(
            running=True, page=None, reader=SimpleNamespace(arrived=arrived), stats=SimpleNamespace(alarms=alarms),
            ask=nothing, report_dropped=nothing, end=nothing,
        )  # fmt: skip

    live = LiveLoop(cameras=[camera(True), camera(False)], forecasts=None, stop=stop, interval_s=0.1)
    live._next_round = lambda: stop.request("test")
    live.run(None, None)
    assert passed == [False]


def test_a_lost_camera_ends_alone(svg_live, monkeypatch):
    use(monkeypatch, Scripted("x", 3, then=SourceLostError("the cable is out\n  put it in")), Scripted("y", 6))
    code, stderr, stats = svg_live(*SMALL, *TWO)
    assert code == 0, stderr
    assert "svg-live: digits: the cable is out\n  put it in\n  this camera has ended; the others go on\n" in stderr
    ends = {name: (camera["stopped_by"], camera["frames"]["seen"]) for name, camera in stats["cameras"].items()}
    assert ends == {"digits": ("lost source", 3), "digits-2": ("end of source", 6)}
    assert stats["cameras"]["digits"]["events"]["counts"] == {"ended": 1}
    counts = [Counter(camera["events"]["counts"]) for camera in stats["cameras"].values()]
    assert stats["events"]["counts"] == sum(counts, Counter())


class Noisy(Scripted):
    """Pictures that a low threshold makes an alarm of."""

    def frames(self):
        rng = np.random.default_rng(0)
        for tick in range(self._pictures):
            self.captured += 1
            image = rng.integers(0, 256, (64, 64), np.uint8)
            yield SourceFrame(image, tick=tick, captured_s=time.monotonic())
        if isinstance(self._then, Exception):
            raise self._then


class Watched(Noisy):
    """Then it blocks until the record of its alarm is written."""

    def frames(self):
        yield from super().frames()
        yield from self.rest()
        deadline = time.monotonic() + DEADLINE_S / 3
        while not self.overtaken and time.monotonic() < deadline:
            time.sleep(0.02)
            file = Path("events.jsonl")
            self.overtaken = file.exists() and file.read_text().endswith("\n")

    def rest(self) -> Iterator[SourceFrame]:
        yield from ()


class Shrinking(Watched):
    """Then its pictures are too small for the region; time tells nothing, as in a file."""

    def rest(self) -> Iterator[SourceFrame]:
        for tick in range(self._pictures, self._pictures + 20):
            yield SourceFrame(np.zeros((32, 32), np.uint8), tick=tick)


@pytest.mark.parametrize("kind", [Watched, Shrinking])
@pytest.mark.parametrize("sources", [TWO[:2], TWO], ids=["one", "two"])
def test_an_alarm_ends_while_nothing_can_be_observed(svg_live, monkeypatch, kind, sources):
    monkeypatch.setattr(timing, "_AWAY_S", 0.2)
    camera = kind("x", 60)
    use(monkeypatch, camera, Scripted("y", 3))
    options = (*LOW, "--alarm-hold", "0.5", "--events", "events.jsonl", "--roi", "10,10,54,54")
    code, stderr, _ = svg_live(*SMALL, *sources, *options)
    assert code == 0, stderr
    assert camera.overtaken


def test_outputs_of_a_camera_that_has_ended_are_complete_while_others_run(svg_live, monkeypatch):
    """Its alarm is in the file of events, and its recording is closed, before the other camera ends."""
    found: dict[str, object] = {}

    class Waiting(Scripted):
        def frames(self):
            for picture in super().frames():
                yield picture
                if picture.tick == 3:
                    found["complete"] = self.wait()

        def wait(self) -> bool:
            file, deadline = Path("events.jsonl"), time.monotonic() + DEADLINE_S / 2
            while time.monotonic() < deadline:
                segments = list(Path("own/digits").glob("*.mp4"))
                if file.exists() and file.read_text().endswith("\n") and segments and is_complete(segments[0]):
                    return True
                time.sleep(0.02)
            return False

    use(monkeypatch, Noisy("x", 60, then=SourceLostError("gone")), Waiting("y", 6))
    outputs = (*LOW, "--alarm-hold", "100", "--events", "events.jsonl", "--record", "own", "--record-what", "camera")
    code, stderr, stats = svg_live(*SMALL, *TWO, *outputs)
    assert code == 0, stderr
    assert found["complete"]
    ended = json.loads(Path("events.jsonl").read_text().splitlines()[0])
    assert (ended["camera"], ended["phase"]) == ("digits", "ended")
    assert stats["cameras"]["digits"]["recorded"][0]["pictures"] == 60
    assert stats["cameras"]["digits"]["alarms"]["count"] == 1


def test_the_exit_code_says_when_all_are_lost(svg_live, monkeypatch):
    use(monkeypatch, *(Scripted(name, 3, then=SourceLostError("gone")) for name in "xy"))
    code, stderr, stats = svg_live(*SMALL, *TWO)
    assert (code, "all 2 cameras were lost: digits, digits-2" in stderr) == (ExitCode.SOURCE_LOST, True)
    assert stats["frames"]["seen"] == 6
    use(monkeypatch, Scripted("x", 3, then=SourceLostError("gone")), Scripted("y", 3, then=ForecastError("odd")))
    code, stderr, _ = svg_live(*SMALL, *TWO)
    assert (code, stderr.splitlines()[-1]) == (ExitCode.ERROR, "error: odd")


def test_a_file_that_cannot_be_read_ends_alone_and_is_said_at_the_end(svg_live):
    Path("empty.mp4").touch()
    Path("bad").mkdir()
    Path("bad/1.png").write_text("no picture")
    write_video(Path("a.mp4"), frames=12)
    sources = ("--source", "empty.mp4", "--source", "a.mp4", "--source", "bad")
    code, stderr, stats = svg_live(*SMALL, *sources, "--output", "wall.mp4")
    assert code == ExitCode.ERROR
    assert "empty: cannot read 'empty.mp4' as a video: the file is empty" in stderr
    assert stderr.endswith("error: 2 of 3 sources could not be read: empty, bad\n  what was wrong with each is said above\n")
    cameras = stats["cameras"]
    assert [cameras[name]["stopped_by"] for name in ("empty", "a", "bad")] == ["error", "end of source", "error"]
    assert cameras["a"]["frames"]["seen"] == len(read_times(Path("wall.mp4"))) == 12


def test_files_of_which_none_can_be_read_start_nothing(svg_live):
    for name in ("a.mp4", "b.mp4"):
        Path(name).touch()
    code, stderr, _ = svg_live("--headless", "--source", "a.mp4", "--source", "b.mp4", "--output", "wall.mp4")
    assert code == ExitCode.ERROR
    assert "error: cannot read 'a.mp4' as a video: the file is empty" in stderr
    assert not Path("wall.mp4").exists()


def test_a_camera_that_is_not_there_yet_is_waited_for_while_others_run(svg_live, monkeypatch):
    real, tries = loop.open_source, []

    def open_source(options: SourceOptions, **named):
        if options.is_synthetic:
            return real(options=options, **named)
        tries.append(threading.current_thread().name)
        if len(tries) == 1:
            raise SourceLostError("rtsp://h delivers no frames\n  check it")
        return Scripted("rtsp://h", 4)

    monkeypatch.setattr(loop, "open_source", open_source)
    chosen = ("--source", "rtsp://h/secret", "--source", "synthetic://digits", "--realtime", "--max-frames", "12")
    code, stderr, stats = svg_live(*SMALL, *chosen)
    assert code == 0, stderr
    assert tries == ["source", "source"]
    assert stats["cameras"]["h"]["events"]["counts"] == {"camera_missing": 1, "camera_back": 1}
    assert stats["cameras"]["h"]["frames"]["seen"] == 4
    assert "svg-live: h: rtsp://h delivers no frames; retrying for 10 s" in stderr
    assert "secret" not in stderr + json.dumps(stats)


def test_a_missing_camera_among_several_is_tried_again_without_opening_others(svg_live, monkeypatch):
    """They may be those of the run itself; a camera that is alone is told which work."""
    opened: list[int] = []
    monkeypatch.setattr(camera_help, "_candidates", lambda devices: [1, 2, 97])
    monkeypatch.setattr(camera_help, "_delivers_frames", opened.append)
    monkeypatch.setattr(source_reader, "_BACK_OFF_S", (0.01, 0.01))
    code, stderr, _ = svg_live(*SMALL, "--camera", "97", "--camera", "98", "--reconnect", "0.1")
    assert (code, opened) == (ExitCode.SOURCE_LOST, []), stderr
    assert "97: camera 97: it cannot be opened or delivers no frames; retrying for 0.1 s" in stderr
    assert "to run without a camera" in stderr
    code, _, _ = svg_live(*SMALL, "--camera", "97")
    assert (code, opened) == (ExitCode.SOURCE_LOST, [1, 2])


def test_a_forecast_that_fails_resets_its_camera_alone(svg_live, monkeypatch):
    real, calls = BatchForecaster._remembered, iter(range(10_000))

    def spoiled(self, index, futures):
        if index == 1 and next(calls) == 2:
            raise ForecastError("not finite")
        return real(self, index, futures)

    monkeypatch.setattr(BatchForecaster, "_remembered", spoiled)
    monkeypatch.setattr(BatchForecaster, "warm_up", lambda self, counts=(): None)
    code, stderr, stats = svg_live(*SMALL, *TWO, "--max-frames", "12")
    assert code == 0, stderr
    first, second = stats["cameras"].values()
    assert (first["resets"], first["frames"]["forecast"], first["events"]["counts"]) == (0, 10, {})
    assert (second["resets"], second["frames"]["forecast"]) == (1, 2 + (12 - 5 - 2))
    assert second["events"]["counts"] == {"forecast_failed": 1}


def test_the_source_of_a_camera_that_has_ended_is_closed_while_others_run(svg_live, monkeypatch):
    real = BatchForecaster._remembered

    def spoiled(self, index, futures):
        if index == 0:
            raise ForecastError("not finite")
        return real(self, index, futures)

    monkeypatch.setattr(BatchForecaster, "_remembered", spoiled)
    broken = Scripted("broken", 1000)
    other = Scripted("other", 3, then=broken.closed)
    use(monkeypatch, broken, other)
    code, stderr, stats = svg_live(*SMALL, *TWO)
    assert code == 0, stderr
    assert other.overtaken
    assert stats["cameras"]["digits"]["stopped_by"] == "error"


def test_alarms_have_the_name_of_their_camera_and_share_a_file(svg_live):
    low = ("--alarm", "--alarm-threshold", "0.2", "--alarm-clear", "0.1", "--alarm-min-duration", "0", "--alarm-cooldown", "0")
    where = ("--events", "events.jsonl", "--alarm-dir", "alarms", "--alarm-after", "0.3", "--alarm-hold", "0")
    code, stderr, stats = svg_live(*SMALL, *TWO, *low, *where, "--max-frames", "70")
    assert code == 0, stderr
    records = [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]
    counts = {name: camera["alarms"]["count"] for name, camera in stats["cameras"].items()}
    assert {record["camera"] for record in records} == set(counts) == {"digits", "digits-2"}
    assert sorted(record["sequence"] for record in records) == list(range(1, sum(counts.values()) + 1))
    assert stats["alarms"] == sum(counts.values())
    for record in records:
        clip = Path(record["files"]["clip"])
        assert clip.parent == Path("alarms") / record["camera"]
        assert clip.is_file()
    assert "svg-live: digits-2: alarm " in stderr
    for left in (Path("events.jsonl"), *Path("alarms").glob("*/*")):  # the lock file tells the next run
        left.unlink()
    code, stderr, stats = svg_live(*SMALL, *TWO, *low, *where, "--max-frames", "70")
    assert code == 0, stderr
    more = [json.loads(line)["sequence"] for line in Path("events.jsonl").read_text().splitlines()]
    assert sorted(more) == list(range(len(records) + 1, len(records) + stats["alarms"] + 1))


@pytest.mark.parametrize("sources", [(), TWO], ids=["one", "two"])
@pytest.mark.parametrize("option", ["--json", "--output"])
def test_events_and_another_output_cannot_be_one_file(svg_live, sources, option):
    """Only cameras may share it."""
    code, stderr, _ = svg_live("--headless", *sources, option, "x.mp4", "--alarm", "--events", "x.mp4", "--max-frames", "2")
    assert code == ExitCode.USAGE
    assert f"{option} and --events" in stderr
    assert not Path("x.mp4").exists()


def test_a_run_alone_has_no_name(svg_live):
    _, _, stats = svg_live(*SMALL, "--max-frames", "4")
    assert "cameras" not in stats
    assert "name" not in stats


@pytest.mark.parametrize("others", ["", "[cameras.yard]\n"])
def test_a_camera_with_a_table_is_the_same_alone(svg_live, monkeypatch, others):
    """A broker would have two devices for it, of which one is gone, and the limit of its folder would miss its old alarms."""
    Path("live.toml").write_text(f"source = 'synthetic://digits'\n[cameras.gate]\n{others}")
    given, monitor = [], loop.AlarmMonitor
    monkeypatch.setattr(loop, "AlarmMonitor", lambda **values: given.append(values["options"]) or monitor(**values))
    recorded = ("--record", "display", "--save-forecasts", "raw", "--alarm", "--alarm-dir", "alarms")
    code, stderr, stats = svg_live(*SMALL, "--config", "live.toml", "--only", "gate", *recorded, "--max-frames", "4")
    assert code == 0, stderr
    assert [(options.camera, options.folder) for options in given] == [("gate", Path("alarms/gate"))]
    assert len(futures(Path("raw/gate"))) == stats["frames"]["forecast"] > 0
    assert [path.suffix for path in Path("display").iterdir()] == [".mp4"]  # of all that run
    assert ("cameras" in stats, stats["recorded"][0]["pictures"], stats["samples"]) == (False, 4, 2)


def test_latency_is_that_of_the_display_alone(svg_live):
    code, stderr, stats = svg_live(*SMALL, *TWO, "--max-frames", "4", "--output", "o.mp4", "--save-forecasts", "raw")
    assert code == 0, stderr
    assert [camera["latency_ms"]["end_to_end"]["count"] for camera in stats["cameras"].values()] == [4, 4]


def test_panels_that_were_asked_for_are_not_replaced_where_they_cannot_be_read(svg_live):
    three = (*SMALL, *TWO, "--source", "synthetic://digits", "--max-frames", "1", "--output", "o.mp4")
    code, stderr, _ = svg_live(*three, "--overlay", "panels")
    assert (code, "the overlay 'panels' cannot be read" in stderr) == (ExitCode.USAGE, True)
    assert "a larger one: --display-size" in stderr
    code, stderr, _ = svg_live(*three)
    assert code == 0, stderr


def test_the_display_is_recorded_once_and_cameras_apart(svg_live):
    code, stderr, stats = svg_live(*SMALL, *TWO, "--max-frames", "4", "--record", "display")
    assert code == 0, stderr
    assert [path.suffix for path in Path("display").iterdir()] == [".mp4"]
    assert stats["recorded"][0]["pictures"] == 4
    code, stderr, stats = svg_live(*SMALL, *TWO, "--max-frames", "4", "--record", "own", "--record-what", "camera")
    assert code == 0, stderr
    assert sorted(path.name for path in Path("own").iterdir()) == ["digits", "digits-2"]
    assert stats["recorded"] == []
    assert [camera["recorded"][0]["pictures"] for camera in stats["cameras"].values()] == [4, 4]


def test_sources_in_real_time_are_due_together():
    """Whenever they start."""
    now = [100.03]
    tickers = []
    for start in (100.03, 100.38):
        now[0] = start
        ticker = Ticker(0.1, StopRequest(), now=lambda: now[0], origin_s=99.95)
        ticker._stop.sleep = lambda seconds: now.__setitem__(0, now[0] + max(0.0, seconds))
        ticker.wait_for(0)
        tickers.append((ticker, now[0]))
    assert [start for _, start in tickers] == [pytest.approx(100.05), pytest.approx(100.45)]


def test_the_synthetic_cameras_of_a_run_differ(svg_live):
    _, _, stats = svg_live(*SMALL, *TWO, "--max-frames", "3")
    assert [camera["source"] for camera in stats["cameras"].values()] == [
        SyntheticSource(seed, 64).description for seed in (0, 1)
    ]
