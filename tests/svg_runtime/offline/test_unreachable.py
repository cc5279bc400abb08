"""What cannot be read now has no row and is tried again: files, folders, objects that were replaced; and stopped downloads."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from svg_common.errors import UsageError
from svg_runtime.live.stop import StopRequest
from svg_runtime.offline import listing, stores
from svg_runtime.offline.listing import list_videos, local_copy
from svg_runtime.offline.stoppable import StoppedError
from svg_runtime.offline.stores import UnreachableError, download
from tests.refused import failing_disk, refused
from tests.svg_runtime.offline.conftest import NEVER, counts, rows_of


def statuses() -> list[tuple[str, str]]:
    """Name and status of each video in the results."""
    rows = rows_of(Path("out"))["videos"].to_pylist()
    return sorted((row["video"].rpartition("/")[2], row["status"]) for row in rows)


@pytest.fixture
def two(videos, tmp_path) -> Path:
    """A folder of two videos, of which one may be changed."""
    folder = tmp_path / "two"
    (folder / "gate").mkdir(parents=True)
    shutil.copy(videos / "yard0.mp4", folder / "a.mp4")
    shutil.copy(videos / "yard1.mp4", folder / "gate" / "b.mp4")
    return folder


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_may_not_be_read_yet_is_tried_again(svg_forecast, two, number):
    with refused(two / "gate" / "b.mp4", number):
        code, message, summary = svg_forecast(two)
    assert (code, summary["videos"]) == (1, counts(listed=2, done_before=0, ok=1, unreachable=1))
    assert f"cannot read '{two}/gate/b.mp4': {os.strerror(number)}" in message
    assert statuses() == [("a.mp4", "ok")]
    code, _, summary = svg_forecast(two)
    assert (code, summary["videos"]) == (0, counts(listed=2, done_before=1, ok=2))


def test_a_disk_that_fails_in_the_middle_of_a_video_leaves_no_damaged_row(svg_forecast, two):
    with failing_disk("b.mp4", errno.ESTALE):
        code, message, summary = svg_forecast(two, "--keep", "mean")
    assert (code, summary["videos"]) == (1, counts(listed=2, done_before=0, ok=1, unreachable=1))
    assert f"cannot read '{two}/gate/b.mp4': {os.strerror(errno.ESTALE)}" in message
    assert statuses() == [("a.mp4", "ok")]
    assert len(list(Path("out").glob("part-*/forecasts-*"))) == 1
    assert svg_forecast(two, "--keep", "mean")[0] == 0
    assert statuses() == [("a.mp4", "ok"), ("b.mp4", "ok")]


@pytest.mark.parametrize("in_list", [False, True])
def test_a_file_that_goes_while_its_folder_is_listed_is_missing_alone(svg_forecast, two, monkeypatch, in_list):
    find = listing.find_clips

    def found_and_gone(path: Path) -> object:
        clips = find(path)
        (two / "gate" / "b.mp4").unlink()
        return clips

    monkeypatch.setattr(listing, "find_clips", found_and_gone)
    Path("list.txt").write_text(f"{two}\n")
    code, message, summary = svg_forecast("list.txt" if in_list else two)
    assert (code, summary["videos"]) == (1, counts(listed=2, done_before=0, ok=1, unreachable=1))
    assert summary["problems"] == {f"{two}/gate/b.mp4": "No such file or directory"}, message


def test_a_folder_in_a_folder_that_may_not_be_read_is_named(svg_forecast, two):
    with refused(two / "gate"):
        code, _, summary = svg_forecast(two)
    assert (code, summary["videos"]) == (1, counts(listed=2, done_before=0, ok=1, unreachable=1))
    assert summary["problems"] == {f"{two}/gate": "a folder that cannot be read: Permission denied"}
    assert svg_forecast(two)[0] == 0


def test_a_folder_that_may_not_be_read_is_not_called_empty_and_the_others_are_forecast(svg_forecast, two):
    with refused(two / "gate"):
        code, message, _ = svg_forecast(two / "gate")
        assert code == 1
        assert f"error: cannot read the folder '{two}/gate': Permission denied\n  check the rights" in message
        assert not Path("out").exists()
        code, _, summary = svg_forecast(two / "gate", two / "a.mp4")
    assert (code, summary["videos"]) == (1, counts(listed=2, done_before=0, ok=1, unreachable=1))


def test_a_path_below_a_folder_that_may_not_be_searched_keeps_no_run_from_the_others(two, monkeypatch):
    exists = Path.exists

    def refusing(path: Path, **options: object) -> bool:
        if path.parent == two / "gate":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", refusing)
    found = list_videos([f"{two}/gate/b.mp4", f"{two}/a.mp4"])
    assert [video.name for video in found.videos] == [f"{two}/a.mp4"]
    assert found.missing == {f"{two}/gate/b.mp4": f"cannot read '{two}/gate/b.mp4': Permission denied"}
    with pytest.raises(UsageError, match="does not exist"):
        list_videos([f"{two}/c.mp4"])


@pytest.fixture
def bucket():
    """An object in memory, as in a bucket: memory://clips/a.mp4."""
    store = fsspec.filesystem("memory")
    store.pipe_file("/clips/a.mp4", b"before")
    yield store
    store.rm("/clips", recursive=True)


def test_an_object_that_was_replaced_by_one_of_the_same_size_is_not_what_was_listed(bucket, tmp_path):
    (video,) = list_videos(["memory://clips"]).videos
    bucket.pipe_file("/clips/a.mp4", b"after!")
    with pytest.raises(UnreachableError, match="has changed since it was listed"), local_copy(video, tmp_path, NEVER):
        pass
    (video,) = list_videos(["memory://clips"]).videos
    with local_copy(video, tmp_path, NEVER) as path:
        assert path.read_bytes() == b"after!"


@pytest.mark.parametrize(
    ("listed", "info", "in_list", "same"),
    [
        ('ETag "1"', {"ETag": '"1"'}, None, True),
        ("etag 1", {"etag": '"1"'}, {"etag": "1"}, True),  # Azure's lists leave the quotes out
        ("etag 1", {"etag": '"2"'}, {"etag": "2"}, False),
        ("mtime 1", {"mtime": "2"}, {}, False),
        ("md5Hash x", {"etag": "1"}, {"generation": "2"}, True),  # of another kind: cannot be compared
        ("etag 1", None, None, True),
    ],
)
def test_a_version_is_another_one_only_if_the_store_says_so(monkeypatch, tmp_path, listed, info, in_list, same):
    forgotten: list[str] = []

    def answer(said: dict[str, str] | None) -> dict[str, str]:
        assert forgotten == ["all"]  # a cache would say what was listed
        if said is None:
            raise OSError("no right to ask")
        return {"name": "c/a.mp4", **said}

    store = SimpleNamespace(
        get_file=lambda place, target: Path(target).write_bytes(b"x"),
        invalidate_cache=lambda: forgotten.append("all"),
        info=lambda place: answer(info),
        _parent=lambda place: "c",
        ls=lambda place, detail: [{"name": "c/b.mp4", "etag": "3"}, answer(in_list)],
        modified=lambda place: None,
    )
    monkeypatch.setattr(stores, "open_store", lambda address: (store, "c/a.mp4"))
    assert download("abfs://c/a.mp4", tmp_path / "a.mp4", NEVER, listed) is same


def test_a_driver_that_looks_at_no_signal_does_not_keep_a_stop_waiting(bucket, tmp_path, monkeypatch):
    (video,) = list_videos(["memory://clips/a.mp4"]).videos
    stop, released = StopRequest(), threading.Event()
    get_file = bucket.get_file

    def slow(place: str, target: str) -> None:
        stop.request("signal SIGTERM")
        released.wait(20)
        get_file(place, target)

    monkeypatch.setattr(bucket, "get_file", slow)
    with pytest.raises(StoppedError), local_copy(video, tmp_path, stop):
        pass
    (left,) = (thread for thread in threading.enumerate() if thread.name == "download")
    released.set()
    left.join(20)
    assert list(tmp_path.iterdir()) == []  # the driver has made the folder of the copy again
