"""One process at a time writes a folder, and however it ends, the next one may."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest

from svg_common.folder_lock import FolderInUseError, FolderLock
from svg_runtime.live.outputs.bounded_folder import BoundedFolder
from svg_train.checkpoint import CheckpointError
from svg_train.config import build_config
from svg_train.machine import Machine
from svg_train.train import Trainer

HOLDER = """
import sys
from pathlib import Path
from svg_common.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.hold()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[None]:
    """It is killed at the end."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield
        other.kill()


def test_a_folder_is_held_until_the_other_process_is_gone(tmp_path):
    lock = FolderLock(tmp_path)
    with held_by_another_process(tmp_path), pytest.raises(FolderInUseError, match=r"writes to '.*'\n  stop it, or choose"):
        lock.hold()
    lock.hold()
    assert list(tmp_path.iterdir()) == []


def test_another_process_holds_it_once_it_is_released_by_all_of_this_one(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.hold()
    second.hold()
    first.release()
    with pytest.raises(AssertionError), held_by_another_process(tmp_path):
        pass
    second.release()
    gc.collect()
    with held_by_another_process(tmp_path):
        pass


def test_a_folder_that_was_made_anew_is_held_anew(tmp_path):
    folder = tmp_path / "folder"
    lock = FolderLock(folder)
    lock.hold()
    folder.mkdir()
    lock.hold()
    shutil.rmtree(folder)
    folder.mkdir()
    with held_by_another_process(folder), pytest.raises(FolderInUseError):
        lock.hold()


def test_a_file_system_without_locks_is_written_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks available")

    lock = FolderLock(tmp_path)
    with monkeypatch.context() as without_locks:
        without_locks.setattr("svg_common.folder_lock.fcntl.flock", refuse)
        lock.hold()
    assert not lock.held
    lock.hold()
    assert lock.held


def test_two_processes_do_not_record_into_one_folder(tmp_path):
    with held_by_another_process(tmp_path), pytest.raises(FolderInUseError):
        BoundedFolder(tmp_path, ".mp4", limit_bytes=1)
    folder = BoundedFolder(tmp_path / "later", ".mp4", limit_bytes=1)
    (tmp_path / "later").mkdir()
    with held_by_another_process(tmp_path / "later"):
        for act in (lambda: folder.make_room(1), lambda: folder.new_file(datetime.now(timezone.utc))):
            with pytest.raises(OSError, match="another process writes to it"):
                act()


def test_two_processes_do_not_train_into_one_folder(tmp_path):
    with held_by_another_process(tmp_path), pytest.raises(FolderInUseError):
        Trainer(build_config(), tmp_path, Machine(device="cpu", precision="32-true"), resume=True)
    with pytest.raises(CheckpointError):  # and afterwards it is an ordinary folder, without a run
        Trainer(build_config(), tmp_path, Machine(device="cpu", precision="32-true"), resume=True)
