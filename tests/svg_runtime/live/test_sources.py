"""Sources give the right pictures at the right interval, and say what went wrong."""

from __future__ import annotations

import itertools
import os
import threading
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from svg_common.errors import ExitCode, UsageError
from svg_common.video.reader import VideoError
from svg_runtime.errors import SourceLostError
from svg_runtime.live.events import EventLog
from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.live.sources import SourceOptions, model_interval_s, open_source, step_interval_s
from svg_runtime.live.sources.camera import CameraSource
from svg_runtime.live.sources.camera_help import explain_missing_camera
from svg_runtime.live.sources.capture import CaptureThread, NoPictureError, open_capture
from svg_runtime.live.sources.files import FileSource, require_clips
from svg_runtime.live.sources.local_cameras import LocalCamera
from svg_runtime.live.sources.pacing import Ticker
from svg_runtime.live.stop import StopRequest
from tests.command_runner import wait_until
from tests.svg_runtime.live.live_helpers import Delivering, frame_numbers, write_video

PNG = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8))[1].tobytes()


class FakeClock:
    """Time that passes only during sleep or work."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.stop = StopRequest()
        self.stop.sleep = self.sleep  # type: ignore[method-assign]

    def sleep(self, seconds: float) -> None:
        self.now_s += max(0.0, seconds)

    def ticker(self, interval_s: float) -> Ticker:
        return Ticker(interval_s, self.stop, now=lambda: self.now_s)


class TestPacing:
    def test_ticks_do_not_drift(self):
        clock = FakeClock()
        ticker = clock.ticker(0.1)
        due = []
        for tick in range(1000):
            ticker.wait_for(tick)
            due.append(clock.now_s)
            clock.now_s += 0.03  # work
        assert np.allclose(due, 100 + 0.1 * np.arange(1000), atol=1e-6)

    def test_current_tick_tells_how_many_were_missed(self):
        clock = FakeClock()
        ticker = clock.ticker(0.1)
        ticker.wait_for(0)
        clock.now_s += 0.35
        ticker.wait_for(1)
        assert ticker.current() == 3


class TestFiles:
    def test_a_video_yields_every_picture_at_its_rate_and_every_third_at_a_third(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", frames=21, fps=30, brightness_code=True)
        all_of_them = list(FileSource(path, 1 / 30, StopRequest(), EventLog()).frames())
        assert frame_numbers([frame.image for frame in all_of_them]) == list(range(21))
        thirds = list(FileSource(path, 0.1, StopRequest(), EventLog()).frames())
        assert frame_numbers([frame.image for frame in thirds]) == [0, 3, 6, 9, 12, 15, 18]
        assert [frame.tick for frame in thirds] == list(range(7))

    def test_slow_video_is_reported_once(self, tmp_path):
        for name in "ab":
            write_video(tmp_path / f"{name}.mp4", frames=5, fps=4)
        events = EventLog()
        frames = list(FileSource(tmp_path, 0.1, StopRequest(), events).frames())
        assert len(frames) == 10
        assert events.counts == {"slow_source": 1}

    def test_one_picture_alone_has_no_step_to_report(self, tmp_path):
        events = EventLog()
        source = FileSource(write_video(tmp_path / "a.mp4", frames=1, fps=4), 0.1, StopRequest(), events)
        assert len(list(source.frames())) == 1
        assert events.counts == {}

    def test_folder_in_name_order_with_a_new_clip_per_video(self, tmp_path):
        for number, name in enumerate(("clip10.mp4", "clip9.mp4")):
            write_video(tmp_path / name, frames=3 + number)
        for number in (2, 10):
            cv2.imwrite(str(tmp_path / f"still{number}.png"), np.full((48, 64, 3), number * 10, np.uint8))
        (tmp_path / "notes.txt").write_text("not a picture")
        source = FileSource(tmp_path, 0.1, StopRequest(), EventLog())
        frames = list(source.frames())
        assert [frame.clip for frame in frames] == [0] * 4 + [1] * 3 + [2] * 2
        assert [frame.tick for frame in frames] == list(range(9))
        assert [int(frame.image.mean()) for frame in frames[-2:]] == [20, 100]
        assert source.captured == 9

    def test_image_colors_are_rgb(self, tmp_path):
        cv2.imwrite(str(tmp_path / "red.png"), np.full((8, 8, 3), (0, 0, 255), np.uint8))
        (frame,) = FileSource(tmp_path / "red.png", 0.1, StopRequest(), EventLog()).frames()
        assert frame.image[0, 0].tolist() == [255, 0, 0]

    def test_unreadable_files_of_a_folder_are_counted_and_skipped(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"this is no video" * 100)
        (tmp_path / "b.png").write_bytes(b"")
        write_video(tmp_path / "c.mp4", frames=4)
        events = EventLog()
        assert len(list(FileSource(tmp_path, 0.1, StopRequest(), events).frames())) == 4
        assert events.counts == {"unreadable_file": 2}
        assert "a.mp4" in events.messages[0]

    def test_an_unreadable_single_file_is_an_error_at_once(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"this is no video" * 100)
        with pytest.raises(VideoError, match=r"a\.mp4"):
            FileSource(tmp_path / "a.mp4", 0.1, StopRequest(), EventLog())

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"", "not a readable image: the file is empty"), (b"no image", "not a readable image"), (PNG[:60], "not a readable")],
    )
    def test_an_unreadable_single_picture_is_an_error_at_once(self, content, reason, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(content)
        with pytest.raises(VideoError) as caught:
            FileSource(path, 0.1, StopRequest(), EventLog())
        message = f"cannot read '{path}' as a picture: {reason}"
        assert str(caught.value).startswith(message)
        assert "expected a PNG, JPEG" in str(caught.value)

    def test_a_device_that_is_no_camera_has_no_number_of_one(self):
        with pytest.raises(UsageError, match=r"'/dev/null' is a device, not a file\n  expected, for a camera, --camera 0"):
            require_clips(Path("/dev/null"))

    def test_a_folder_of_which_nothing_can_be_read_says_why(self, tmp_path):
        for number in range(12):
            (tmp_path / f"{number:02d}.png").write_bytes(b"no image")
        with pytest.raises(VideoError) as caught:
            list(FileSource(tmp_path, 0.1, StopRequest(), EventLog()).frames())
        first, *reasons = str(caught.value).splitlines()
        assert first == f"no frame of '{tmp_path}' can be read:"
        assert reasons[0] == f"  '{tmp_path / '00.png'}': not a readable image"
        assert (len(reasons), reasons[-1]) == (11, "  and 2 more")

    def test_a_folder_without_readable_files_is_an_error(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no image")
        with pytest.raises(VideoError, match=r"a\.png"):
            list(FileSource(tmp_path, 0.1, StopRequest(), EventLog()).frames())

    def test_12_bit_images_are_visible_and_it_is_said_once(self, tmp_path):
        for number in range(3):
            cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8), 1000 * number + 2000, np.uint16))
        events = EventLog()
        frames = list(FileSource(tmp_path, 0.1, StopRequest(), events).frames())
        assert [frame.image[0, 0, 0] for frame in frames] == [round(255 * value / 4095) for value in (2000, 3000, 4000)]
        assert events.counts["sample_depth"] == 1
        assert "12 bits: 4095 is shown as white" in events.messages[0]

    def test_a_truncated_video_gives_its_pictures_and_an_event(self, tmp_path):
        whole = write_video(tmp_path / "whole.avi", frames=300, size=128)
        cut = tmp_path / "cut.avi"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        events = EventLog()
        frames = list(FileSource(cut, 0.1, StopRequest(), events).frames())
        assert 5 < len(frames) < 300
        assert events.counts["damaged_file"] == 1

    def test_a_name_with_control_characters_stays_on_its_line_and_colours_nothing(self, tmp_path):
        folder = tmp_path / "a\x1b[31m\nb"
        folder.mkdir()
        whole = write_video(tmp_path / "whole.mkv", frames=40, size=128).read_bytes()
        (folder / "\x1b\n1.mkv").write_bytes(whole[: len(whole) * 2 // 3])
        (folder / "\x1b\n2.avi").write_bytes(b"no video")
        (folder / "\x1b\n3.png").write_bytes(b"no image")
        write_video(tmp_path / "4.avi", frames=5, fps=1).rename(folder / "\x1b\n4.avi")
        events = EventLog()
        source = FileSource(folder, 0.1, StopRequest(), events, source_fps=10)
        list(source.frames())
        kinds = ("damaged_file", "unreadable_file", "source_fps_unused", "slow_source", "several_steps")
        assert set(events.counts) == set(kinds)
        expected = f"{tmp_path}/a\\x1b[31m\\nb"
        assert source.description == expected
        for message in events.messages:
            assert expected in message
            assert message.replace("\n  expected", "").isprintable()

    @pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
    def test_missing_or_empty_is_a_usage_error(self, tmp_path, make):
        make(tmp_path / "x")
        with pytest.raises(UsageError, match="expected"):
            require_clips(tmp_path / "x")

    def test_a_slow_video_yields_each_picture_once_at_its_own_pace(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", frames=20, fps=4, brightness_code=True)
        frames = list(FileSource(path, 0.1, StopRequest(), EventLog()).frames())
        assert frame_numbers([frame.image for frame in frames]) == list(range(20))
        ticks = [frame.tick for frame in frames]
        assert ticks == sorted(set(ticks))
        assert ticks[4] == 10

    def test_a_short_pause_holds_a_picture_and_a_long_one_is_a_new_clip(self, tmp_path):
        times_s = [0, 0.1, 0.2, 0.7, 0.8, 36000.8, 36000.9]
        path = write_video(tmp_path / "a.mp4", frames=7, brightness_code=True, times_s=times_s)
        frames = list(FileSource(path, 0.1, StopRequest(), EventLog()).frames())
        assert frame_numbers([frame.image for frame in frames]) == [0, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6]
        assert [frame.tick for frame in frames] == list(range(11))
        assert [frame.clip for frame in frames] == [0] * 9 + [1] * 2
        assert [frame.pause_s for frame in frames] == pytest.approx([0] * 9 + [36000, 0], abs=1e-3)

    def test_the_time_of_the_source_goes_on_over_pauses_files_and_loops(self, tmp_path):
        write_video(tmp_path / "a.mp4", frames=4, times_s=[0, 0.1, 45, 45.1])
        write_video(tmp_path / "b.mp4", frames=2, fps=4)
        stop = StopRequest()
        frames = list(islice(FileSource(tmp_path, 0.1, stop, EventLog(), loop=True).frames(), 8))
        round_s = 45.2 + 2 * 0.25
        expected = [0, 0.1, 45, 45.1, 45.2, 45.45, round_s, round_s + 0.1]
        assert [frame.source_s for frame in frames] == pytest.approx(expected, abs=1e-3)

    def test_a_pause_takes_no_time(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", frames=6, times_s=[0, 0.1, 0.2, 36000, 36000.1, 36000.2])
        clock = FakeClock()
        frames = FileSource(path, 0.1, clock.stop, EventLog(), ticker=clock.ticker(0.1)).frames()
        assert len(list(frames)) == 6
        assert clock.now_s == pytest.approx(100.5)

    def test_lost_and_unreadable_images_keep_their_time(self, tmp_path):
        for number in (1, 2, 3, 6, 7, 8, 40, 41):
            cv2.imwrite(str(tmp_path / f"f{number}.png"), np.full((48, 64, 3), number, np.uint8))
        (tmp_path / "f2.png").write_bytes(b"no image")
        events = EventLog()
        frames = list(FileSource(tmp_path, 0.1, StopRequest(), events).frames())
        assert [int(frame.image.mean()) for frame in frames] == [1, 3, 3, 3, 6, 6, 7, 8, 40, 41]
        assert [frame.clip for frame in frames] == [0] * 8 + [1] * 2
        assert events.counts == {"unreadable_file": 1}

    def test_a_folder_of_folders_is_read_folder_by_folder(self, tmp_path):
        for folder in ("walk10", "walk9"):
            (tmp_path / folder).mkdir()
            for number in range(3):
                cv2.imwrite(str(tmp_path / folder / f"image-{number:03d}_64x64.png"), np.full((48, 64, 3), 9, np.uint8))
        source = FileSource(tmp_path, 0.1, StopRequest(), EventLog())
        assert [frame.clip for frame in source.frames()] == [0] * 3 + [1] * 3

    def test_the_rate_of_images_can_be_given(self, tmp_path):
        for number in range(12):
            cv2.imwrite(str(tmp_path / f"f{number}.png"), np.full((48, 64, 3), number, np.uint8))
        frames = list(FileSource(tmp_path, 0.1, StopRequest(), EventLog(), source_fps=30).frames())
        assert [int(frame.image.mean()) for frame in frames] == [0, 3, 6, 9]

    @pytest.mark.parametrize(
        ("source_fps", "count", "events"), [(None, 12, {"assumed_rate": 1}), (20, 6, {}), (5, 12, {"slow_source": 1})]
    )
    def test_a_raw_stream_is_at_the_rate_of_the_codec_or_of_the_user(self, tmp_path, source_fps, count, events):
        path = write_video(tmp_path / "a.h264", frames=12, fps=10)
        log = EventLog()
        options = SourceOptions(source=str(path), source_fps=source_fps)
        assert model_interval_s(options, None) == pytest.approx(1 / (source_fps or 10))
        assert len(list(open_source(options, 0.1, 64, StopRequest(), log).frames())) == count
        assert log.counts == events
        if source_fps is None:
            assert "assumed 10 frames per second; give the true rate with --source-fps" in log.messages[0]

    def test_a_rate_for_a_video_with_time_stamps_is_reported(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", frames=6)
        events = EventLog()
        assert len(list(FileSource(path, 0.1, StopRequest(), events, source_fps=20).frames())) == 6
        assert events.counts == {"source_fps_unused": 1}

    def test_a_pipe_is_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(UsageError, match=r"pipe.*only once(.|\n)*udp://"):
            require_clips(tmp_path / "pipe.mp4")

    def test_a_device_as_file_is_a_usage_error(self):
        with pytest.raises(UsageError, match="--camera"):
            require_clips(Path("/dev/null"))


class TestFactory:
    def test_synthetic_camera_repeats_from_its_seed(self):
        def first(seed: int) -> np.ndarray:
            source = open_source(SourceOptions(seed=seed), 0.1, 64, StopRequest(), EventLog())
            return np.stack([frame.image for frame in islice(source.frames(), 20)])

        assert np.array_equal(first(1), first(1))
        assert not np.array_equal(first(1), first(2))

    def test_unknown_url_is_a_usage_error(self):
        with pytest.raises(UsageError, match="synthetic://digits"):
            open_source(SourceOptions(source="synthetic://cats"), 0.1, 64, StopRequest(), EventLog())

    @pytest.mark.parametrize(
        ("rates", "step_s", "events"),
        [
            ((1, 1), 1, {"slow_source": 1}),
            ((10, 10), 0.1, {}),
            ((25, 10), 0.1, {}),
            ((4, 1), 0.1, {"slow_source": 1, "several_steps": 1}),
            ((1, 10), 0.1, {"slow_source": 1, "several_steps": 1}),
            ((10, 1), 0.1, {"slow_source": 1, "several_steps": 1}),
        ],
    )
    def test_a_step_is_that_of_all_clips_or_said_to_be_nominal(self, tmp_path, rates, step_s, events):
        for number, fps in enumerate(rates):
            write_video(tmp_path / f"{number}.mp4", frames=4, fps=fps)
        options, log = SourceOptions(source=str(tmp_path)), EventLog()
        assert step_interval_s(options, 0.1) == pytest.approx(step_s)
        list(open_source(options, 0.1, 64, StopRequest(), log).frames())
        assert log.counts == events
        assert any("nominal, of steps of 0.1 s" in message for message in log.messages) == ("several_steps" in events)

    def test_interval_is_the_models_else_the_videos(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", frames=5, fps=25)
        assert model_interval_s(SourceOptions(source=str(path)), 0.2) == 0.2
        assert model_interval_s(SourceOptions(source=str(path)), None) == pytest.approx(0.04)


def camera_on(path: Path, events: EventLog, stop: StopRequest, **options) -> CameraSource:
    """The real capture code on a real file: OpenCV opens a file as it opens a camera."""
    options.setdefault("open_device", lambda: open_capture(str(path)))
    return CameraSource(str(path), ticker=Ticker(0.02, stop), stop=stop, events=events, **options)


class TestCamera:
    def test_a_camera_yields_the_newest_picture_and_each_only_once(self, tmp_path):
        path = write_video(tmp_path / "camera.mp4", frames=24, brightness_code=True)
        events, stop = EventLog(), StopRequest()

        class Slow:  # a file gives pictures faster than any camera; the first read is the proof of life
            def __init__(self) -> None:
                self._capture = open_capture(str(path))

            def read(self):
                time.sleep(0.002)
                return self._capture.read()

            def release(self) -> None:
                self._capture.release()

        camera = camera_on(path, events, stop, open_device=Slow)
        frames = list(islice((frame for frame in camera.frames() if not frame.held), 8))
        camera.close()
        for clip in {frame.clip for frame in frames}:  # the file may end and begin again, as a camera that was unplugged
            numbers = frame_numbers([frame.image for frame in frames if frame.clip == clip])
            assert numbers == sorted(set(numbers))
        ticks = [frame.tick for frame in frames]
        assert ticks == sorted(set(ticks))
        assert all(frame.captured_s is not None for frame in frames)
        assert camera.captured >= 2 * len(frames)  # what came between two ticks was left unused

    def test_a_source_that_ends_and_comes_back_is_a_new_clip(self, tmp_path):
        path = write_video(tmp_path / "camera.mp4", frames=4)
        events, stop = EventLog(), StopRequest()
        camera = camera_on(path, events, stop, retry_s=5)
        clips = []
        for frame in camera.frames():
            clips.append(frame.clip)
            if frame.clip >= 1:
                break
        camera.close()
        assert clips[-1] == 1
        assert events.counts["camera_lost"] >= 1
        assert events.counts["camera_back"] >= 1

    def test_unplugged_cable_is_retried_and_then_source_lost(self):
        class Cable:
            plugged = True

            def __init__(self) -> None:
                if not Cable.plugged:
                    raise NoPictureError("unplugged")

            def read(self):
                time.sleep(0.002)
                return (True, np.zeros((48, 64, 3), np.uint8)) if Cable.plugged else (False, None)

            def release(self) -> None:
                pass

        events, stop = EventLog(), StopRequest()
        camera = CameraSource("camera 3", Cable, Ticker(0.005, stop), stop, events, retry_s=0.3)
        frames = camera.frames()
        next(frames)
        Cable.plugged = False
        with pytest.raises(SourceLostError, match="camera 3 stopped delivering frames") as lost:
            list(frames)
        camera.close()
        assert lost.value.exit_code == ExitCode.SOURCE_LOST
        assert events.counts == {"camera_lost": 1}

    def test_a_camera_that_opens_and_delivers_nothing_is_not_back(self):
        devices = iter([Delivering(100.0)])
        events, stop = EventLog(), StopRequest()
        camera = CameraSource(
            "camera 3", lambda: next(devices, Delivering()), Ticker(0.005, stop), stop, events, retry_s=0.3
        )  # fmt: skip
        camera._thread.join(5)
        with pytest.raises(SourceLostError, match=r"within 0\.3 s: it can be opened, but delivers no frames"):
            camera._thread.latest(newer_than=1, max_age_s=1, timeout_s=0, stop=stop)
        assert events.counts == {"camera_lost": 1}

    def test_a_camera_that_stalls_is_opened_anew_after_the_first_read_that_its_driver_has_given_up(self, monkeypatch):
        """V4L2 gives up after ten seconds. A read that fails at once may be of a damaged picture."""
        clock = FakeClock()
        monkeypatch.setattr("svg_runtime.live.sources.capture.time", SimpleNamespace(monotonic=lambda: clock.now_s))

        class Stalling(Delivering):
            def read(self):
                success, image = super().read()
                clock.sleep(0.0 if success else 10.0)
                return success, image

        devices = iter([Stalling(100.0, 100.1, 100.2), Stalling(110.0, 110.1, 110.2)])

        def open_device() -> Delivering:
            device = next(devices, None)
            if device is None:
                thread._closing.set()
            return device or Delivering()

        events = EventLog()
        thread = CaptureThread("camera 3", open_device(), open_device, events, retry_s=10)
        thread.run()
        assert events.counts == {"camera_lost": 2, "camera_back": 1}
        assert clock.now_s == 120.0

    def test_a_camera_that_is_slow_itself_is_not_opened_anew_while_its_driver_waits(self, monkeypatch):
        """A picture every 15 seconds: V4L2 gives up a read after ten of them, and the next one after five has it."""
        clock = FakeClock()
        monkeypatch.setattr("svg_runtime.live.sources.capture.time", SimpleNamespace(monotonic=lambda: clock.now_s))

        class Slow:
            reads = 0

            def read(self):
                self.reads += 1
                clock.sleep(10.0 if self.reads % 2 else 5.0)
                if self.reads == 12:
                    thread._closing.set()
                return self.reads % 2 == 0, np.zeros((4, 4, 3), np.uint8)

            def release(self) -> None:
                pass

        events = EventLog()
        thread = CaptureThread("camera 3", Slow(), Slow, events, retry_s=10)
        thread.run()
        assert not events.counts
        assert thread.captured == 6

    def test_a_camera_that_takes_long_to_say_no_is_retried_for_as_long_as_it_should_be(self, monkeypatch):
        """The longest wait is for a device that says nothing, and not for all of its attempts together."""
        clock, stop = FakeClock(), StopRequest()
        monkeypatch.setattr("svg_runtime.live.sources.capture.time", SimpleNamespace(monotonic=lambda: clock.now_s))
        looks: list[float] = []
        stop.add_check(lambda: looks.append(clock.now_s))

        def take(seconds: float) -> None:
            for passed_s in (0.0, seconds):
                clock.sleep(passed_s)
                enough = len(looks) + 2  # the first of them may have read the clock before
                wait_until(lambda enough=enough: len(looks) >= enough)

        class Stalled:
            def read(self):
                take(10)
                return False, None

            def release(self) -> None:
                pass

        def open_device() -> Stalled:
            take(11)
            raise NoPictureError("no response")

        events = EventLog()
        thread = CaptureThread("camera 3", Stalled(), open_device, events, retry_s=60)
        thread._closing.wait = lambda pause_s: False  # type: ignore[assignment]
        thread.start()
        with pytest.raises(SourceLostError, match=r"did not come back within 60 s: no response"):
            thread.latest(newer_than=0, max_age_s=1, timeout_s=60 + 12, stop=stop)
        assert events.counts == {"camera_lost": 1}
        assert clock.now_s == 100 + 3 * 10 + 6 * 11  # it has no pace yet by which one read is too long

    def test_connections_that_break_at_once_flood_no_camera_however_short_it_is_waited_for(self):
        waited_s: list[float] = []

        def wait(pause_s: float) -> bool:
            waited_s.append(pause_s)
            return len(waited_s) == 7

        thread = CaptureThread("camera 3", Delivering(1.0), lambda: Delivering(2.0), EventLog(), retry_s=0)
        thread._closing.wait = wait  # type: ignore[assignment]
        thread._closing.is_set = lambda: len(waited_s) == 7  # type: ignore[assignment]
        thread.run()
        assert waited_s == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]

    @pytest.mark.parametrize(
        ("lasts_s", "pauses_s"), [(4.9, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]), (5.1, [0.1] * 7)], ids=["broke", "lasted"]
    )
    def test_pauses_grow_until_a_connection_has_lasted(self, lasts_s, pauses_s):
        starts_s = itertools.count(200.0, 100.0)

        def reopen() -> Delivering:
            first_s = next(starts_s)
            return Delivering(first_s, first_s + lasts_s)

        waited_s: list[float] = []

        def wait(pause_s: float) -> bool:
            waited_s.append(pause_s)
            if len(waited_s) == len(pauses_s):
                thread._closing.set()
            return thread._closing.is_set()

        events = EventLog()
        thread = CaptureThread("camera 3", reopen(), reopen, events, retry_s=10)
        thread._closing.wait = wait  # type: ignore[assignment]
        thread.run()
        assert waited_s == pauses_s
        assert events.counts == {"camera_lost": 7, "camera_back": 6}

    def test_the_capture_threads_own_error_reaches_the_reader(self):
        class Broken:
            def read(self):
                raise MemoryError("no room for the picture")

            def release(self) -> None:
                pass

        thread = CaptureThread("camera 0", Broken(), Broken, EventLog(), retry_s=1)
        thread.start()
        with pytest.raises(MemoryError, match="no room"):
            thread.latest(0, max_age_s=1, timeout_s=5, stop=StopRequest())

    def test_a_driver_that_hangs_is_source_lost_and_old_pictures_are_not_returned(self):
        release = threading.Event()

        class Hanging:
            reads = 0

            def read(self):
                self.reads += 1
                if self.reads > 1:
                    release.wait(10)
                    return False, None
                return True, np.zeros((4, 4, 3), np.uint8)

            def release(self) -> None:
                pass

        thread = CaptureThread("camera 0", Hanging(), Hanging, EventLog(), retry_s=0)
        thread.start()
        assert thread.latest(0, max_age_s=60, timeout_s=5, stop=StopRequest()) is not None
        with pytest.raises(SourceLostError, match="does not respond"):
            thread.latest(0, max_age_s=0.0, timeout_s=0.1, stop=StopRequest())
        thread._closing.set()
        release.set()

    def test_a_camera_slower_than_the_model_is_reported_once_and_drops_nothing(self):
        class FiftyASecond:
            def read(self):
                time.sleep(0.02)
                return True, np.zeros((4, 4, 3), np.uint8)

            def release(self) -> None:
                pass

        events, stop = EventLog(), StopRequest()
        camera = CameraSource("camera 0", FiftyASecond, Ticker(0.002, stop), stop, events)
        frames = list(islice(camera.frames(), 30))
        camera.close()
        assert events.counts == {"slow_source": 1}
        assert frames[-1].tick > 100  # the schedule went on
        assert camera.dropped < frames[-1].tick / 2  # they passed for want of pictures, not of time

    def test_ticks_missed_by_a_busy_loop_are_dropped(self):
        clock = FakeClock()

        class Instant:
            def read(self):
                time.sleep(0.001)
                return True, np.zeros((4, 4, 3), np.uint8)

            def release(self) -> None:
                pass

        camera = CameraSource("camera 0", Instant, clock.ticker(0.1), clock.stop, EventLog())
        frames = camera.frames()
        ticks = []
        for _ in range(4):
            ticks.append(next(frames).tick)
            clock.now_s += 0.35  # every picture takes three and a half intervals
            enough = camera.captured + 8
            while camera.captured < enough:  # in which there is a picture for each of them
                time.sleep(0.001)
        camera.close()
        assert ticks == [0, 3, 7, 10]
        assert camera.dropped == 2 + 3 + 2

    def test_no_camera_says_what_to_try(self):
        with pytest.raises(SourceLostError) as error:
            open_source(SourceOptions(camera=97), 0.1, 64, StopRequest(), EventLog())
        assert "camera 97" in str(error.value)
        assert "synthetic://digits" in str(error.value)
        assert error.value.exit_code == 5

    def test_help_names_devices_without_permission(self, tmp_path, monkeypatch):
        monkeypatch.setattr("svg_runtime.live.sources.camera_help.Path", lambda _: tmp_path)
        monkeypatch.setattr("svg_runtime.live.sources.camera_help.os.access", lambda *_: False)
        monkeypatch.setattr("svg_runtime.live.sources.camera_help.sys.platform", "linux")
        (tmp_path / "video7").touch()
        message = explain_missing_camera(LocalCamera("camera 7", 7), "no picture", try_others=True)
        assert "video7" in message
        assert "usermod -aG video" in message


class TestPreprocessor:
    def test_the_preprocessor_crops_the_centre_converts_and_scales(self):
        picture = np.zeros((60, 100, 3), np.uint8)
        picture[:, 20:80] = (255, 0, 0)
        frame = Preprocessor(30, 30, 3).fit(picture)
        assert frame.shape == (30, 30, 3)
        assert frame.dtype == np.float32
        assert np.array_equal(np.unique(frame[..., 0]), [1.0])
        assert frame[..., 1:].max() == 0.0

    def test_the_preprocessor_detects_another_size(self):
        preprocessor = Preprocessor(8, 8, 1)
        sizes = [(10, 10), (10, 10), (12, 10), (12, 10)]
        assert [preprocessor.size_changed(np.zeros(size, np.uint8)) for size in sizes] == [False, False, True, False]
