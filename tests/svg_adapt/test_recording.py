"""Recordings: segments with honest times, a size limit, a kill that costs the segment in progress, deletion."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from svg_adapt import recorder as recorder_module
from svg_adapt.kept_video import KeptVideo
from svg_adapt.recorded_source import RecordedSource
from svg_adapt.recorder import Recorder, shrink
from svg_adapt.recording import RECORDING, Recording, delete_recording, frames_cache, read_facts
from svg_common.errors import UsageError
from svg_common.progress import ProgressDisplay
from svg_runtime.errors import SourceLostError
from svg_runtime.live.events import EventLog
from svg_runtime.live.roi import parse_roi
from svg_runtime.live.sources import CameraSettings, SourceFrame, SourceOptions, Turn, open_source
from svg_runtime.live.stop import StopRequest
from svg_train.config import build_config
from svg_train.data.video import VideoClips
from tests.svg_runtime.live.live_helpers import read_pictures, read_times, write_video
from tests.svg_runtime.live.network_cameras import Mjpeg, switched_on

LIMIT = 10**9
CAMERA = RecordedSource("a test")

UNFINISHED = (".000002.partial-abc_12.mp4", ".000002.abc_12.mp4", ".recording.partial-0_ab.json")


class Frames:
    """A source of these frames, which is then lost if `lost`."""

    name = description = "a test"
    dropped = captured = 0

    def __init__(self, frames: list[SourceFrame], lost: bool = False) -> None:
        self._frames = frames
        self._lost = lost

    def frames(self):
        yield from self._frames
        if self._lost:
            raise SourceLostError("lost")

    def close(self) -> None:
        pass


def frame(tick: int, clip: int = 0, height: int = 32, step_s: float | None = None) -> SourceFrame:
    return SourceFrame(np.full((height, 48, 3), tick * 10 % 250, np.uint8), tick, clip, step_s=step_s)


def noisy(tick: int) -> SourceFrame:
    return SourceFrame(np.random.default_rng(tick).integers(0, 255, (64, 64, 3), np.uint8), tick)


def record(recording: Recording, source, until_s: float = 1e9, **options) -> None:
    with ProgressDisplay() as display:
        Recorder(recording, source, 16, **options).record(until_s, StopRequest(), display)


@pytest.fixture
def recording(tmp_path) -> Recording:
    return Recording(tmp_path / "run" / RECORDING, CAMERA, 0.1, LIMIT)


def times(recording: Recording) -> list[list[float]]:
    return [[round(time, 6) for time in read_times(segment)] for segment in recording.segments]


def test_a_gap_stays_a_gap_and_a_cut_or_another_size_begins_a_segment(recording):
    frames = [frame(3), frame(4), frame(7), frame(20, clip=1), frame(21, clip=1), frame(22, clip=1, height=36)]
    record(recording, Frames(frames))
    assert times(recording) == [[0, 0.1, 0.4], [0, 0.1], [0]]
    assert [segment.name for segment in recording.segments] == ["000001.mp4", "000002.mp4", "000003.mp4"]
    facts = read_facts(recording.folder)
    assert facts.ended
    assert facts.recorded_s == pytest.approx(0.5 + 0.2 + 0.1)


def test_folders_are_private(recording):
    for folder in (recording.folder, recording.folder.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_to_a_folder_that_does_not_exist_yet_is_followed(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    Recording(tmp_path / "run" / RECORDING, CAMERA, 0.1, LIMIT)
    assert (tmp_path / "disk" / "run" / RECORDING).is_dir()
    assert stat.S_IMODE((tmp_path / "disk" / "run").stat().st_mode) == 0o700


def test_a_folder_of_the_user_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    Recording(tmp_path / RECORDING, CAMERA, 0.1, LIMIT)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_segments_end_in_time(recording, monkeypatch):
    monkeypatch.setattr(recorder_module, "SEGMENT_S", 0.5)
    record(recording, Frames([frame(tick) for tick in range(12)]))
    assert [len(of_segment) for of_segment in times(recording)] == [5, 5, 2]


def test_recording_ends_after_the_given_time(recording):
    record(recording, Frames([frame(tick) for tick in range(100)]), until_s=1.0)
    assert [len(of_segment) for of_segment in times(recording)] == [10]


def test_the_oldest_segments_give_way_to_the_limit(tmp_path):
    recording = Recording(tmp_path / RECORDING, CAMERA, 0.1, 1_000_000)
    sizes = []

    class Watched(Frames):
        def frames(self):
            for frame in self._frames:
                sizes.append(sum(file.stat().st_size for file in recording.folder.iterdir()))
                yield frame

    record(recording, Watched([noisy(tick) for tick in range(400)]))
    assert max(sizes) < 1_000_000
    numbers = [int(segment.stem) for segment in recording.segments]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert numbers[0] > 1
    assert recording.facts.recorded_s == pytest.approx(40)  # all that was seen, also what gave way


class TallyOfLimit(Recording):
    """Notes how large the recording is at the end of every segment."""

    def add(self, segment: Path, seconds: float) -> None:
        super().add(segment, seconds)
        self.sizes = [*getattr(self, "sizes", []), self.size_bytes]


def test_the_limit_holds_after_every_segment_though_the_encoder_looks_ahead(tmp_path):
    """What the encoder holds back is larger than the tenth of the limit at which a segment ends."""
    recording = TallyOfLimit(tmp_path / RECORDING, CAMERA, 0.1, 100_000)
    record(recording, Frames([noisy(tick) for tick in range(100)]))
    assert len(recording.sizes) > 3
    assert max(recording.sizes) <= 100_000


def test_what_gave_way_is_not_counted_as_kept(tmp_path):
    recording = Recording(tmp_path / RECORDING, CAMERA, 0.1, 100_000)
    record(recording, Frames([noisy(tick) for tick in range(50)]))
    facts = read_facts(recording.folder)
    assert (facts.recorded_s, facts.reached_limit_bytes) == (pytest.approx(5), 100_000)
    pictures = [len(of_segment) for of_segment in times(recording)]
    of_earlier_version = facts.model_copy(update={"segments_s": {}, "reached_limit_bytes": None})
    for known in (facts, of_earlier_version):
        kept = KeptVideo.read(recording.folder, known)
        assert kept.gave_way
        assert [segment.pictures for segment in kept.segments] == pictures
        assert kept.seconds == pytest.approx(sum(pictures) / 10)
        assert kept.seconds < 4
    recording.restart()
    assert not KeptVideo.read(recording.folder, recording.facts).gave_way
    assert not recording.facts.ended


def test_a_sequence_to_evaluate_on_lies_within_a_segment(recording, monkeypatch):
    monkeypatch.setattr(recorder_module, "SEGMENT_S", 0.5)
    ticks = [*range(14), 20]  # the last segment has a gap: 10, 11, 12, 13, 20
    record(recording, Frames([frame(tick) for tick in ticks]))
    kept = KeptVideo.read(recording.folder, recording.facts)
    assert not kept.gave_way
    assert kept.seconds == pytest.approx(2.1)
    assert kept.longest_held_out_s(0.2) == pytest.approx(1.1 * 3 / 5)  # 3 pictures of 15
    assert kept.longest_held_out_s(0.6) == pytest.approx(1.1)
    (recording.folder / "000003.mp4").write_bytes(b"damaged")
    assert KeptVideo.read(recording.folder, recording.facts).longest_held_out_s(1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("pictures", [10, 20, 21, 22, 23, 25, 41, 43])
def test_wherever_segments_end_a_sequence_to_evaluate_on_is_held_out(recording, monkeypatch, pictures):
    """As of a camera with a picture every five seconds, of which a minute holds fewer than an evaluation needs."""
    monkeypatch.setattr(recorder_module, "SEGMENT_S", 0.2)
    needed, held_out = 3, 0.3
    record(recording, Frames([frame(tick) for tick in range(pictures)]), least_s=needed / held_out * 0.1)
    assert KeptVideo.read(recording.folder, recording.facts).longest_held_out_s(held_out) > (needed - 0.5) * 0.1


def test_a_lost_source_keeps_what_was_recorded_and_can_be_continued(recording):
    with pytest.raises(SourceLostError):
        record(recording, Frames([frame(tick) for tick in range(4)], lost=True))
    assert not read_facts(recording.folder).ended
    leftovers = [recording.folder / name for name in UNFINISHED]  # of what a loss of power cut short
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    again = Recording(recording.folder, CAMERA, 0.1, LIMIT)
    assert again.facts.recorded_s == pytest.approx(0.4)
    assert not any(leftover.exists() for leftover in leftovers)
    record(again, Frames([frame(tick) for tick in range(3)]), until_s=0.6)
    assert [len(of_segment) for of_segment in times(again)] == [4, 2]


@pytest.mark.parametrize(("source", "interval_s"), [("another", 0.1), ("a test", 0.2)])
def test_another_source_or_interval_is_not_mixed_in(recording, source, interval_s):
    with pytest.raises(UsageError, match=f"not of {source} at {interval_s:g} s"):
        Recording(recording.folder, RecordedSource(source), interval_s, LIMIT)


def test_the_view_of_svg_live_is_recorded_and_another_one_is_not_mixed_in(tmp_path):
    def of(roi: str | None, **options) -> RecordedSource:
        return RecordedSource.of(SourceOptions(camera=0, **options), roi and parse_roi(roi))

    turned = of("8,4,16,16", settings=CameraSettings((640, 480), 29.97), turn=Turn(rotate=90, flip="horizontal"))
    assert turned.view == "--camera-size 640x480 --camera-fps 29.97 --rotate 90 --flip horizontal --roi 8,4,16,16"
    assert RecordedSource.of(SourceOptions(source="clip.h264", source_fps=12.5)).view == "--source-fps 12.5"
    recording = Recording(tmp_path, of("8,4,16,16"), 0.1, LIMIT)
    bright = np.zeros((32, 48, 3), np.uint8)
    bright[4:20, 8:24] = 200
    record(recording, Frames([SourceFrame(bright, tick) for tick in range(3)]), roi=parse_roi("8,4,16,16"))
    pictures = read_pictures(recording.segments[0])
    assert pictures[0].shape == (16, 16, 3)
    assert pictures[0].min() > 180
    assert Recording(tmp_path, of("8,4,16,16"), 0.1, LIMIT).facts.recorded_s == pytest.approx(0.3)
    with pytest.raises(UsageError, match=r"with --roi 8,4,16,16, but now no options of the view were given\n.*another --out"):
        Recording(tmp_path, of(None), 0.1, LIMIT)


def test_a_region_outside_the_picture_is_refused_with_what_to_do(recording):
    with pytest.raises(UsageError, match=r"does not lie within the picture of 48x32 pixels(?s:.*)--roi, in another --out"):
        record(recording, Frames([frame(0)]), roi=parse_roi("40,0,16,16"))


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": "other", "source": "x", "interval_s": 1}', '{"a": 1}'])
def test_folders_that_are_not_ours_are_refused_and_kept(tmp_path, content):
    folder = tmp_path / RECORDING
    folder.mkdir()
    (folder / "holiday.mp4").write_bytes(b"mine")
    if content is not None:
        (folder / "recording.json").write_text(content)
    before = sorted(folder.iterdir())
    for act in (lambda: delete_recording(tmp_path), lambda: Recording(folder, CAMERA, 0.1, LIMIT)):
        with pytest.raises(UsageError, match="is not a recording of svg-train"):
            act()
    assert sorted(folder.iterdir()) == before


def test_deletion_takes_recording_frames_and_pictures_and_nothing_else(recording):
    record(recording, Frames([frame(tick) for tick in range(4)]))
    run, cache = recording.folder.parent, frames_cache(recording.folder)
    entry = f"video-{'0a' * 16}"
    written = [
        *(cache / name for name in (f"{entry}.u8", f"{entry}.json", f".{entry}.partial-a_0.u8", f".{'0b' * 16}.lock")),
        *(recording.folder / name for name in UNFINISHED),
        run / "strips" / "step-0000001.png",
        run / "strips" / ".step-0000100.partial-a_0b.png",
        run / "strips" / ".step-0000100.partial-a_0b.gif",
        run / "tensorboard" / "events.out.tfevents.1.x",
    ]
    for path in written:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    beside = [run / "ckpt.pt", run / "strips" / "mine.png", run / "strips" / "step-by-step.png"]
    inside = [recording.folder / "notes.txt", cache / "notes.txt", cache / "mine" / f"{entry}.u8"]
    kept = beside + inside
    (cache / "mine").mkdir()
    for path in kept:
        path.write_bytes(b"12345")
    size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file()) - 5 * len(kept)
    deleted = delete_recording(run)
    assert (deleted.files, deleted.size_bytes) == (len(written) + 2, size)  # and the segment and the facts
    assert deleted.kept == sorted([recording.folder / "notes.txt", cache / "notes.txt", cache / "mine"])
    assert sorted(path for path in run.rglob("*") if path.is_file()) == sorted(kept)
    with pytest.raises(UsageError):  # there is none any more
        delete_recording(run)


@pytest.mark.parametrize("place", ["recording/frames", "strips", "tensorboard"])
def test_deletion_follows_no_link_out_of_the_folder(recording, tmp_path, place):
    elsewhere, run = tmp_path / "elsewhere", recording.folder.parent
    elsewhere.mkdir()
    mine = [elsewhere / name for name in (f"video-{'0' * 32}.u8", "step-0000001.png", "events.out.tfevents.1.x")]
    for path in mine:
        path.write_bytes(b"1")
    (run / place).symlink_to(elsewhere)
    assert delete_recording(run).kept == [run / place]
    assert all(path.exists() for path in mine)


def test_deletion_keeps_links_to_files_under_the_names_of_its_own(recording, tmp_path):
    (tmp_path / "mine.mp4").write_bytes(b"1")
    link = recording.folder / "000009.mp4"
    link.symlink_to(tmp_path / "mine.mp4")
    assert delete_recording(recording.folder.parent).kept == [link]


def test_without_a_recording_there_is_nothing_to_delete(tmp_path):
    with pytest.raises(UsageError, match="has no recording"):
        delete_recording(tmp_path)


def test_a_file_is_recorded_at_the_interval_of_the_model(recording, tmp_path):
    video = write_video(tmp_path / "clip.mp4", frames=30, fps=20, brightness_code=True)
    events, stop = EventLog(), StopRequest()
    source = open_source(SourceOptions(source=str(video)), 0.1, 16, stop, events)
    record(recording, source)
    assert times(recording) == [[round(0.1 * tick, 6) for tick in range(15)]]
    numbers = [round(float(picture.mean()) / 10) for picture in read_pictures(recording.segments[0])]
    assert numbers == [number % 25 for number in range(0, 30, 2)]


def test_a_source_slower_than_the_model_is_refused_with_the_interval_that_works(recording, tmp_path):
    video = write_video(tmp_path / "clip.mp4", frames=30, fps=4)
    source = open_source(SourceOptions(source=str(video)), 0.1, 16, StopRequest(), EventLog())
    with pytest.raises(UsageError, match=r"every 0\.25 s.*\n.*--frame-interval-s 0\.25"):
        record(recording, source)
    assert recording.segments == []


def steps(*of_each: float | None, begin: int = 0) -> list[SourceFrame]:
    """Pictures of a camera, and at which distance they are as far as it is known."""
    return [frame(begin + tick, step_s=step_s) for tick, step_s in enumerate(of_each)]


def test_a_camera_that_is_slow_from_the_beginning_is_refused_with_its_own_interval(recording):
    with pytest.raises(UsageError, match=r"every 0\.13 s, but (?s:.*) in steps of 0\.1 s\n.*--frame-interval-s 0\.13"):
        record(recording, Frames(steps(None, None, 1 / 7.5)))
    assert recording.segments == []
    assert read_facts(recording.folder).recorded_s == 0


def test_what_a_camera_gives_more_slowly_later_is_left_out(recording, logged):
    dusk = [None, None, 0.1, 0.1, 1 / 7.5, 1 / 7.5, 1 / 5, 0.1, 0.1]
    record(recording, Frames(steps(*dusk), lost=False), until_s=0.55)
    assert times(recording) == [[0, 0.1, 0.2, 0.3], [0, 0.1]]
    assert logged.text.count("pictures further apart than the model's steps of 0.1 s are not recorded") == 1
    assert "now there is one every 0.13 s" in logged.text
    record(recording, Frames(steps(None, None, 1 / 7.5, 1 / 7.5, 0.1)))  # resumed at night
    assert times(recording)[2:] == [[0]]
    assert read_facts(recording.folder).recorded_s == pytest.approx(0.7)


@pytest.mark.parametrize("rates", [(10, 5, 10), (8, 10, 10)])
def test_of_a_folder_the_clips_that_are_too_slow_are_left_out(recording, tmp_path, rates, logged):
    (tmp_path / "clips").mkdir()
    for number, fps in enumerate(rates):
        write_video(tmp_path / "clips" / f"{number}.mp4", frames=30, fps=fps)
    record(recording, open_source(SourceOptions(source=str(tmp_path / "clips")), 0.1, 16, StopRequest(), EventLog()))
    assert [len(of_segment) for of_segment in times(recording)] == [30, 30]
    assert "are not recorded: now there is one every" in logged.text


def test_a_network_camera_is_recorded_at_the_interval_of_the_model(recording):
    events, stop = EventLog(), StopRequest()
    with switched_on(Mjpeg) as camera:
        source = open_source(SourceOptions(source=f"http://{camera.address}/video"), 0.1, 16, stop, events)
        try:
            record(recording, source, until_s=1.0)
        finally:
            source.close()
    (seen,) = times(recording)
    assert seen[-1] > 0.85  # a tick may be missed on a busy machine, the last one, too, but none is moved
    assert len(seen) > 3
    assert all(abs(time * 10 - round(time * 10)) < 1e-4 for time in seen)


def test_pictures_are_kept_at_four_times_the_side_of_the_model():
    wide = np.zeros((481, 857, 3), np.uint8)
    assert shrink(wide, 64).shape == (256, 456, 3)
    assert shrink(np.zeros((33, 47), np.uint8), 64).shape == (32, 46, 3)  # gray, small and odd: never enlarged
    assert shrink(wide[:480, :640], 1024).shape == (480, 640, 3)


def test_the_end_of_all_segments_together_is_held_out(recording, monkeypatch, tmp_path):
    monkeypatch.setattr(recorder_module, "SEGMENT_S", 2.0)
    draw = np.random.default_rng(0)
    frames = [SourceFrame(np.full((32, 32, 3), draw.integers(255), np.uint8), tick) for tick in range(100)]
    record(recording, Frames(frames))
    settings = {
        "model": {"channels": 3, "n_past": 3, "nf": 2},
        "data": {
            "name": "video", "root": str(recording.folder), "split_by": "end", "test_fraction": 0.3,
            "frame_interval_s": 0.1,
        },
        "train": {"n_future": 2},
    }  # fmt: skip
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    train, test = (VideoClips(build_config(settings), split, 5) for split in ("train", "test"))
    assert not (tmp_path / "cache").exists()
    assert {Path(train.clip_source(index)).name for index in range(len(train))} == {f"{n:06d}.mp4" for n in (1, 2, 3, 4)}
    assert {Path(test.clip_source(index)).name for index in range(len(test))} == {"000004.mp4", "000005.mp4"}
    assert len(train) == 3 * 16 + 6  # of 20, 20, 20 and 10 frames
    assert "split by end" in train.description
    assert os.listdir(frames_cache(recording.folder))  # of whoever reads a recording: they are deleted with it


def test_recorded_cameras_are_told_apart_without_passwords(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.local_cameras.has_gstreamer", lambda: True)
    sources = ("v4l2:///dev/v4l/by-id/a", "v4l2:///dev/v4l/by-id/b", "gstreamer://rtspsrc user-pw=s3cret ! decodebin")
    names = [source_of(source).name for source in sources]
    assert names == [*sources[:2], "gstreamer://rtspsrc ..."]
    assert RecordedSource.of(SourceOptions(camera=1)) == RecordedSource("camera 1")


def source_of(source: str) -> RecordedSource:
    return RecordedSource.of(SourceOptions(source=source))


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("http://nvr:8080/red.mjpg", "http://nvr:8080/blue.mjpg", False),
        ("rtsp://u:old@nvr/cam?channel=1", "rtsp://u:old@nvr/cam?channel=2", False),
        ("rtsp://u:old@nvr/cam?channel=1", "rtsp://v:new@nvr/cam?channel=1", True),
        ("rtsp://nvr/cam", "rtsp://u:pw@nvr/cam", True),
        ("http://nvr/@a/b", "http://nvr/@c/b", False),
        ("gstreamer://rtspsrc user-pw=x location=rtsp://a/1", "gstreamer://rtspsrc user-pw=x location=rtsp://a/2", False),
        ("gstreamer://rtspsrc user-pw=x location=rtsp://u:x@a", "gstreamer://rtspsrc user-pw=y location=rtsp://u:y@a", True),
        ("synthetic://digits", "synthetic://digits", True),
    ],
)  # fmt: skip
def test_two_cameras_behind_one_host_are_two_and_a_changed_password_is_none(tmp_path, monkeypatch, before, now, same):
    monkeypatch.setattr("svg_runtime.live.sources.local_cameras.has_gstreamer", lambda: True)
    Recording(tmp_path, source_of(before), 0.1, LIMIT)
    if same:
        Recording(tmp_path, source_of(now), 0.1, LIMIT)
        return
    with pytest.raises(UsageError, match=r"a recording of another camera or stream at \S+(?s:.*)choose another --out"):
        Recording(tmp_path, source_of(now), 0.1, LIMIT)


def test_nothing_private_of_an_address_is_stored(tmp_path):
    for folder in ("a", "b"):
        Recording(tmp_path / folder, source_of("rtsp://user:s3cret@nvr/hidden?pw=token"), 0.1, LIMIT)
    stored = [(tmp_path / folder / "recording.json").read_text() for folder in ("a", "b")]
    assert not any(word in text for text in stored for word in ("user", "s3cret", "hidden", "token"))
    assert stored[0] != stored[1]  # salted: the same camera is not recognized in two recordings


def test_a_recording_of_an_earlier_version_goes_on_and_knows_its_camera_then(tmp_path):
    facts = tmp_path / "recording.json"
    facts.write_text(
        '{"format": "svg-edge-recording", "source": "rtsp://nvr", "interval_s": 0.1, "recorded_s": 3.0, "ended": false}'
    )
    assert Recording(tmp_path, source_of("rtsp://nvr/a"), 0.1, LIMIT).facts.recorded_s == 3
    with pytest.raises(UsageError, match="another camera or stream at rtsp://nvr"):
        Recording(tmp_path, source_of("rtsp://nvr/b"), 0.1, LIMIT)
