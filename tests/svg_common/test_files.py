"""Outputs appear whole or not at all, on real disks, full ones included."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from svg_common import files
from svg_common.files import atomic_directory, atomic_file, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(path: Path, error: type[BaseException]) -> None:
    path.write_text("new")
    raise error("stop")


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "video.mp4"
    with atomic_file(target) as partial:
        assert partial.suffix == ".mp4"
        assert partial.parent == target.parent
        partial.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert names(target.parent) == ["video.mp4"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_file(target) as partial:
        write_and_fail(partial, error)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_published_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a") as partial:
            partial.write_text("x")
        with atomic_directory(tmp_path / "d") as folder:
            (folder / "x").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750


def test_the_umask_is_read_without_changing_it(tmp_path, monkeypatch):
    """What another thread writes meanwhile must not become writable for everybody."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
    if not Path("/proc/self/status").is_file():
        pytest.skip("only Linux tells the umask")
    write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").is_file()


def test_threads_that_write_at_once_leave_the_umask_as_it_was(tmp_path, monkeypatch):
    """Where the umask can only be read by changing it: while one thread does so, no other may take its 0 for the umask."""
    masks, changing, first = [0o027], threading.Event(), threading.Lock()

    def slow_umask(mask: int) -> int:
        before, masks[0] = masks[0], mask
        if mask == 0 and first.acquire(blocking=False):
            changing.wait(timeout=0.5)  # until a second thread is in here too, which must not happen
        else:
            changing.set()
        return before

    monkeypatch.setattr(files, "_STATUS", tmp_path / "nothing")
    monkeypatch.setattr(os, "umask", slow_umask)
    with ThreadPoolExecutor(2) as threads:
        for written in [threads.submit(write_json, tmp_path / f"{number}.json", 1) for number in range(2)]:
            written.result()
    assert masks == [0o027]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "real.json")
    for value in (1, 2):  # the file behind the link is made, then replaced
        write_json(tmp_path / "link.json", value)
        assert (tmp_path / "link.json").is_symlink()
        assert json.loads((tmp_path / "there" / "real.json").read_text()) == value
    assert names(tmp_path / "there") == ["real.json"]


def test_devices_and_pipes_are_written_and_not_replaced(tmp_path):
    write_json("/dev/null", {"a": 1})
    assert not Path("/dev/null").is_file()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        write_json(pipe, {"a": 1})
        assert json.loads(reader.communicate(timeout=10)[0]) == {"a": 1}
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_an_error():
    with pytest.raises(OSError, match="No space left") as caught:
        write_json("/dev/full", {"a": 1})
    assert caught.value.errno == errno.ENOSPC
    assert not Path("/dev/full").is_file()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file_and_names_it(small_disk):
    target = small_disk / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(target) as partial:
        partial.write_bytes(bytes(200_000))
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old"
    assert names(small_disk) == ["a.bin"]
    with pytest.raises(OSError, match="No space left"), atomic_directory(small_disk / "d") as folder:
        (folder / "big").write_bytes(bytes(200_000))
    assert names(small_disk) == ["a.bin"]


def test_a_full_disk_names_the_file_that_did_not_fit(small_disk, tmp_path):
    with (
        pytest.raises(OSError, match="No space left") as caught,
        atomic_file(tmp_path / "a"),
        atomic_file(small_disk / "b") as b,
    ):
        b.write_bytes(bytes(200_000))
    assert caught.value.filename == str(small_disk / "b")


@pytest.mark.parametrize("make", [atomic_file, atomic_directory])
def test_an_error_leaves_no_folder_that_was_made_for_the_output(tmp_path, make):
    (tmp_path / "old").mkdir()
    for name in ("old/a", "old/new/a", "new/deep/a"):
        with pytest.raises(ValueError, match="damaged"), make(tmp_path / name):
            raise ValueError("damaged")
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == []
    with make(tmp_path / "new" / "a"), make(tmp_path / "new" / "b"):
        pass
    assert names(tmp_path / "new") == ["a", "b"]


@pytest.mark.parametrize("make", [atomic_file, atomic_directory])
def test_an_impossible_place_is_named(tmp_path, make):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as caught, make(tmp_path / "file" / "out.json"):
        pytest.fail("the body must not run")
    assert ".out" not in str(caught.value)


@pytest.mark.parametrize("make", [atomic_file, atomic_directory])
def test_links_that_go_round_in_a_circle_are_an_error_of_the_system(tmp_path, make):
    (tmp_path / "circle").symlink_to("circle")
    for path in (tmp_path / "circle", tmp_path / "circle" / "inside"):
        with pytest.raises(OSError, match="symbolic links"), make(path):
            pass


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(IsADirectoryError), atomic_file(tmp_path / "folder"):
        pytest.fail("the body must not run")
    with pytest.raises(NotADirectoryError), atomic_directory(tmp_path / "file"):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_replaces_the_older_one_as_a_whole(tmp_path):
    for content in ("one", "two"):
        with atomic_directory(tmp_path / "bundle") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / content).write_text(content)
        assert names(tmp_path / "bundle" / "sub") == [content]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("exists", [False, True])
def test_an_error_leaves_the_old_folder(tmp_path, exists):
    if exists:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "old").touch()
    with pytest.raises(ValueError, match="stop"), atomic_directory(tmp_path / "bundle") as folder:
        write_and_fail(folder / "new", ValueError)
    assert names(tmp_path) == (["bundle"] if exists else [])
    if exists:
        assert names(tmp_path / "bundle") == ["old"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").touch()
    replace, calls = os.replace, []

    def fail_second(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail_second)
    with pytest.raises(OSError, match="Input/output"), atomic_directory(tmp_path / "bundle") as folder:
        (folder / "new").touch()
    assert names(tmp_path) == ["bundle"]
    assert names(tmp_path / "bundle") == ["old"]


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"loss": math.nan, "list": [1.5, -math.inf, (math.inf, "x")], "n": 3, "none": None})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"loss": None, "list": [1.5, None, [None, "x"]], "n": 3, "none": None}
    assert text.endswith("}\n")


def test_a_value_that_json_cannot_hold_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert names(tmp_path) == []


WRITER = """
import sys
from svg_common import files
with getattr(files, sys.argv[1])(sys.argv[2]) as partial:
    (partial / "half" if partial.is_dir() else partial).write_text("half")
    print(partial, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("make", "name"), [(atomic_file, "out.mp4"), (atomic_file, "out"), (atomic_directory, "own.svgb")])
def test_what_a_killed_writer_leaves_is_removed_by_the_next_and_what_is_being_written_is_not(tmp_path, make, name):
    command = [sys.executable, "-c", WRITER, make.__name__, str(tmp_path / name)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        partial = Path(other.stdout.readline().strip())
        with make(tmp_path / name), make(tmp_path / name):  # nor what this process writes
            assert len(names(tmp_path)) == 3
        assert partial.exists()
        other.kill()
    assert names(tmp_path) == sorted([partial.name, name])  # as a power cut leaves it
    (tmp_path / ".out.holiday.mp4").touch()  # of the user
    with make(tmp_path / "another"):
        assert partial.exists()
    with make(tmp_path / name):
        assert not partial.exists()
    assert names(tmp_path) == sorted([".out.holiday.mp4", "another", name])
