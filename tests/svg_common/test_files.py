"""Outputs appear whole or not at all, on real disks, full ones included."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from svg_common import files
from svg_common.files import atomic_directory, atomic_file, remove_directory, write_json


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


def test_a_disk_without_modes_gets_the_result_all_the_same(tmp_path, monkeypatch):
    """FAT and shares of other systems refuse to change the mode."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", refuse)
    write_json(tmp_path / "a.json", 1)
    write_folder(tmp_path / "d", "content")
    assert names(tmp_path) == ["a.json", "d"]
    assert read_folder(tmp_path / "d") == "content"


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


def test_a_system_that_flushes_writable_files_only_gets_one(tmp_path, monkeypatch):
    def flush_as_windows(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(files.os, "fsync", flush_as_windows)
    monkeypatch.setattr(files.sys, "platform", "win32")
    with atomic_file(tmp_path / "file") as partial:
        partial.write_text("new")
    with atomic_directory(tmp_path / "folder") as partial:
        (partial / "file").write_text("new")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "new"


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
    for file in (tmp_path / "file", Path(os.devnull)):
        with pytest.raises(NotADirectoryError), atomic_directory(file):
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


def write_folder(target: Path, content: str) -> None:
    with atomic_directory(target) as folder:
        for half in ("a", "b"):
            (folder / half).write_text(content)


def read_folder(target: Path) -> str:
    """What `write_folder` wrote, as a whole."""
    (content,) = {(target / half).read_text() for half in ("a", "b")}
    return content


@contextmanager
def at_line(number: int, act: Callable[[], object]) -> Iterator[list[int]]:
    """Do something before the line of files.py that is the `number`th to run; yields the lines that ran."""
    before, lines = sys.gettrace(), []

    def trace(frame, event, _):
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == number:
                act()
        return trace

    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch) -> str:
    """How a folder replaces another one: as Linux does, or as systems and disks that cannot exchange folders."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    elif sys.platform != "linux":
        pytest.skip("only Linux exchanges folders here")
    return request.param


# Each end needs a process of its own: an interrupt that is no end of the process leaves locks behind.
ENDED = """
import os, sys
from itertools import count
from pathlib import Path
root, way, end, action, path = sys.argv[1:]
sys.path.insert(0, root)
from svg_common import files
from tests.svg_common.test_files import at_line, names, read_folder, write_folder

if way == "two renames":
    files._exchanged = lambda *_: False
target = Path(path)
write = lambda: write_folder(target, "new")
act = write if action == "write" else lambda: files.remove_directory(target, stage=target.parents[1])

def stop():
    if end == "kill":
        os._exit(9)
    raise KeyboardInterrupt

for number in count(1):
    write_folder(target, "old")
    pid = os.fork()
    if pid == 0:
        try:
            with at_line(number, stop):
                act()
        except KeyboardInterrupt:
            os._exit(9)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert target.exists() or action == "remove" or (way, end) == ("two renames", "kill")
    try:  # the next writer, which writes nothing
        with files.atomic_directory(target, stage=target.parents[1] if action == "remove" else None):
            raise ValueError
    except ValueError:
        assert read_folder(target) in ("old", "new") if target.exists() else action == "remove"
    assert names(target.parent) in ([], [target.name]), names(target.parent)
    if code == 0:
        break
print(number)
"""


def end_at_every_line(way: str, end: str, action: str, target: Path) -> int:
    """Run ENDED; the number of lines at which it ended."""
    command = [sys.executable, "-c", ENDED, str(Path(__file__).parents[2]), way, end, action, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("end", ["interrupt", "kill"])
def test_an_end_at_any_moment_leaves_the_old_folder_or_the_new_one(tmp_path, way, end):
    assert end_at_every_line(way, end, "write", tmp_path / "bundle") > 30
    assert read_folder(tmp_path / "bundle") == "new"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("end", ["interrupt", "kill"])
def test_an_end_at_any_moment_removes_a_folder_as_a_whole_or_leaves_it(tmp_path, end):
    assert end_at_every_line("exchange", end, "remove", tmp_path / "python" / "cam") > 20
    assert names(tmp_path) == ["python"]
    remove_directory(tmp_path / "python" / "cam")  # it is not there any more


@pytest.mark.usefixtures("way")
def test_another_writer_at_any_moment_is_no_error(tmp_path):
    """Nor is the error of one that names a temporary folder; the one that ends last stays."""
    target = tmp_path / "bundle"
    for number in count(1):
        write_folder(target, "old")
        with at_line(number, lambda: write_folder(target, "other")) as lines:
            write_folder(target, "new")
        assert read_folder(target) in ("new", "other")
        assert names(tmp_path) == ["bundle"]
        if len(lines) < number:
            break
    assert number > 30


def test_a_writer_that_starts_while_another_one_moves_the_folder_is_no_error(tmp_path, monkeypatch):
    """Between two looks at it, it can go."""
    target, is_dir = tmp_path / "bundle", Path.is_dir
    write_folder(target, "old")
    monkeypatch.setattr(Path, "is_dir", lambda path, **options: path != target and is_dir(path, **options))
    write_folder(target, "new")
    assert read_folder(target) == "new"


def test_a_file_system_that_cannot_exchange_folders_gets_two_renames(tmp_path, monkeypatch):
    """The error of a disk that fails in between names the output."""
    target, rename, moved = tmp_path / "bundle", os.rename, []
    write_folder(target, "old")

    def fail_after_the_first(source, destination):
        if moved and Path(destination) == target and ".partial-" in str(source):
            raise OSError(errno.EIO, "Input/output error", str(source), None, str(destination))
        rename(source, destination)
        moved.append(source)

    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    monkeypatch.setattr(os, "rename", fail_after_the_first)
    with pytest.raises(OSError, match="Input/output") as caught:
        write_folder(target, "new")
    assert moved == [target, Path(moved[1])]  # aside, and back
    assert (caught.value.filename, caught.value.filename2) == (str(target), None)
    assert read_folder(target) == "old"
    assert names(tmp_path) == ["bundle"]


def test_the_error_of_a_folder_that_cannot_be_moved_aside_names_the_output(tmp_path, monkeypatch):
    target, rename = tmp_path / "bundle", os.rename
    write_folder(target, "old")

    def fail(source, destination):
        if Path(source) == target:
            raise OSError(errno.EACCES, "Permission denied", str(source), None, str(destination))
        rename(source, destination)

    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="Permission") as caught:
        write_folder(target, "new")
    assert (caught.value.filename, caught.value.filename2) == (str(target), None)
    assert str(caught.value) == f"[Errno {errno.EACCES}] Permission denied: '{target}'"
    assert names(tmp_path) == ["bundle"]


# Replaces a folder by two renames. It is killed before its rename of the given number, or with half of the old one removed.
KILLED = """
import os, shutil, sys
root, path, number, removal = sys.argv[1:]
sys.path.insert(0, root)
from pathlib import Path
from svg_common import files
from tests.svg_common.test_files import write_folder

files._exchanged = lambda *_: False
renames, rename = [], os.rename

def rename_or_end(source, destination):
    renames.append(source)
    if len(renames) == int(number):
        os._exit(9)
    rename(source, destination)

def remove_half(folder, **_):
    (Path(folder) / "a").unlink()
    os._exit(9)

os.rename = rename_or_end
if removal == "half":
    shutil.rmtree = remove_half
write_folder(Path(path), "new")
"""
MOVED_ASIDE = ("3", "whole")  # the first rename finds the place taken, the second one moves the folder aside
HALF_REMOVED = ("0", "half")


def write_and_end(target: Path, how: tuple[str, str]) -> None:
    """Write "new" in the place of "old", by a program that is killed meanwhile."""
    write_folder(target, "old")
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[2]), str(target), *how]
    assert subprocess.run(command, check=False).returncode == 9


def write_nothing(target: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_directory(target):
        raise ValueError("stop")


@pytest.mark.parametrize("name", ["bundle", 250 * "n"])  # a temporary name with all of the long one would be too long
def test_what_a_killed_writer_moved_aside_is_put_back_or_removed(tmp_path, name):
    target, other = tmp_path / name, tmp_path / f"{name[:-1]}m"  # whose temporary names begin alike
    write_and_end(target, MOVED_ASIDE)
    assert not target.exists()
    write_nothing(other)
    assert not other.exists()
    write_nothing(target)
    assert read_folder(target) == "old"
    write_and_end(target, MOVED_ASIDE)
    write_folder(tmp_path / "later", "later")
    (tmp_path / "later").rename(target)
    write_nothing(target)
    assert read_folder(target) == "later"
    assert names(tmp_path) == [name]
    write_and_end(target, MOVED_ASIDE)
    remove_directory(target)
    assert names(tmp_path) == []


def test_a_folder_that_was_removed_in_part_does_not_come_back(tmp_path):
    target = tmp_path / "bundle"
    write_and_end(target, HALF_REMOVED)
    assert read_folder(target) == "new"
    shutil.rmtree(target)  # by the user
    write_nothing(target)
    assert names(tmp_path) == []


def test_a_backup_of_the_user_is_neither_removed_nor_put_back(tmp_path):
    kept = [".bundle.old.20250101", ".bundle.old.holidays", ".bundle.replaced-20250101", ".bundle.replaced"]
    for name in kept:
        write_folder(tmp_path / name, name)
    write_nothing(tmp_path / "bundle")
    assert names(tmp_path) == sorted(kept)
    write_folder(tmp_path / "bundle", "new")
    assert names(tmp_path) == sorted([*kept, "bundle"])


def test_a_link_to_a_folder_of_the_user_is_not_followed_when_leftovers_are_removed(tmp_path):
    write_folder(tmp_path / "data", "data")
    (tmp_path / "data").chmod(0o755)
    (tmp_path / ".bundle.partial-x").symlink_to("data")
    write_folder(tmp_path / "bundle", "new")
    assert read_folder(tmp_path / "data") == "data"
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755


def test_nothing_half_written_lies_beside_a_staged_folder(tmp_path):
    target = tmp_path / "models" / "python" / "cam"
    for content in ("one", "two"):
        with atomic_directory(target, stage=tmp_path / "models") as folder:
            assert folder.parent == tmp_path / "models"
            assert names(target.parent) == (["cam"] if content == "two" else [])
            (folder / content).touch()
        assert names(target) == [content]
        assert names(tmp_path / "models") == ["python"]
    with pytest.raises(ValueError, match="stop"), atomic_directory(tmp_path / "new" / "python" / "a", stage=tmp_path / "new"):
        raise ValueError("stop")
    assert names(tmp_path) == ["models"]


@pytest.mark.parametrize("remove", [False, True])
def test_what_killed_writers_left_of_a_staged_folder_is_removed_in_both_places(tmp_path, remove):
    """Earlier versions wrote beside it."""
    target = tmp_path / "python" / "cam"
    write_folder(target, "old")
    write_folder(tmp_path / "python" / ".cam.partial-abcd1234", "left")
    write_folder(tmp_path / ".python.cam.partial-abcd1234", "left")
    if remove:
        remove_directory(target, stage=tmp_path)
    else:
        with atomic_directory(target, stage=tmp_path):
            pass
    assert names(tmp_path) == ["python"]
    assert names(target.parent) == ([] if remove else ["cam"])


def test_a_staged_folder_on_another_disk_is_written_there(small_disk, tmp_path):
    (tmp_path / "python").symlink_to(small_disk)
    for content in ("one", "two"):
        with atomic_directory(tmp_path / "python" / "cam", stage=tmp_path) as folder:
            assert folder.parent == small_disk
            (folder / content).touch()
        assert names(small_disk / "cam") == [content]


def test_a_staged_folder_is_written_in_its_place_if_that_is_another_mount_of_the_same_disk(tmp_path):
    """As two volumes of Docker are. They have the same number, and no rename leads from one to the other."""
    place, volume = tmp_path / "python", tmp_path / "volume"
    place.mkdir()
    volume.mkdir()
    if subprocess.run(["mount", "--bind", str(volume), str(place)], check=False).returncode:
        pytest.skip("this user may not mount a folder")
    try:
        for content in ("one", "two"):
            with atomic_directory(place / "cam", stage=tmp_path) as folder:
                assert folder.parent == place
                (folder / content).touch()
            assert names(volume / "cam") == [content]
        remove_directory(place / "cam", stage=tmp_path)
        assert names(volume) == []
        assert names(tmp_path) == ["python", "volume"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


# Writes two staged folders and removes one, in FOLDER/python, as a user who may write only what the folders allow.
STAGED = """
import codecs, os, sys
from pathlib import Path
from svg_common.files import atomic_directory, remove_directory
if os.geteuid() == 0:
    codecs.lookup("ascii")  # now, as that user may not be able to open what belongs to Python
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
stage = Path(sys.argv[1])
for name in ("cam", "new"):
    with atomic_directory(stage / "python" / name, stage=stage) as folder:
        (folder / "new").touch()
remove_directory(stage / "python" / "gone", stage=stage)
"""


@pytest.mark.parametrize("read_only", ["python/cam", "."])
def test_a_staged_folder_is_written_in_its_place_if_nothing_can_be_moved_there(read_only):
    """Only who may write a folder can move it out of the one that it lies in. What is replaced is removed all the same."""
    with tempfile.TemporaryDirectory() as name:  # not below tmp_path, which only this user may open
        stage = Path(name)
        for model in ("cam", "gone"):
            (stage / "python" / model / "1").mkdir(parents=True)
            (stage / "python" / model / "1" / "old").touch()
        if os.geteuid() == 0:
            for path in (stage, *stage.rglob("*")):
                os.chown(path, 65534, 65534)
        for path in (read_only, "python/gone"):
            (stage / path).chmod(0o555)
        done = subprocess.run([sys.executable, "-c", STAGED, name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert names(stage) == ["python"]
        assert names(stage / "python") == ["cam", "new"]
        assert names(stage / "python" / "cam") == ["new"]
        stage.chmod(0o755)


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
