"""Keeps a second run out of the folders, and the file of events, that a run writes to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from svg_common.folder_lock import FolderLock
from svg_runtime.live.live_options import LiveOptions


def hold_outputs(process: LiveOptions, cameras: Sequence[LiveOptions], resources: ExitStack) -> None:
    """Hold all of them until `resources` are closed; call this before anything else notices the run, such as a broker.

    What does not exist cannot be held, so it is made now. It is removed at the end if it is still empty.

    Args:
        process: options of the process.
        cameras: options of each camera, with the folders that are its own.
        resources: of the run.

    Raises:
        FolderInUseError: another process writes to one of them.
    """
    display = process.recording.folder if process.recording.shows_display else None
    folders = [display]
    for camera in cameras:
        folders += [*camera.recording.folders.values(), camera.alarms.folder]
    for folder in dict.fromkeys(filter(None, folders)):
        _hold(folder, _make_folder(folder), resources)
    for file in dict.fromkeys(camera.alarms.events_file for camera in cameras):
        if file is not None and (file.is_file() or not file.exists()):  # of a pipe, nobody counts the alarms
            _hold(file, _make_file(file), resources)


def _hold(path: Path, made: Sequence[Path], resources: ExitStack) -> None:
    lock = FolderLock(path)
    lock.hold()
    resources.callback(lock.release)
    for each in made:
        resources.callback(_remove_empty, each)  # before the release: afterwards another run may hold it


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder, and return what was made, the outermost first. On a full disk it is made later, with its first file."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _make_file(file: Path) -> list[Path]:
    """As `_make_folder`, a file."""
    if file.exists():
        return []
    target = Path(os.path.realpath(file))  # a link stays when it is removed
    made = _make_folder(target.parent)
    with suppress(OSError):
        target.touch()
    return [*made, target]


def _remove_empty(path: Path) -> None:
    with suppress(OSError):  # it is not empty, or gone
        if path.is_dir():
            path.rmdir()
        elif path.stat().st_size == 0:
            path.unlink()
