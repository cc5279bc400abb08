"""Keeps a second run out of the folders, and the file of events, that a run writes to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from svg_common.files import identity_of
from svg_common.folder_lock import FolderLock
from svg_runtime.live.alarms.numbers import lock_file_of
from svg_runtime.live.live_options import LiveOptions

_ATTEMPTS = 5  # a run that ends may remove what this one is about to hold


def hold_outputs(process: LiveOptions, cameras: Sequence[LiveOptions], resources: ExitStack) -> None:
    """Hold all of them until `resources` are closed; call this before anything else notices the run, such as a broker.

    Folders that do not exist are made, and removed at the end if they are still empty. A file of events is held by a lock file
    beside it, so that it may be moved away meanwhile, and others can read it on every file system; this one stays when there
    was an alarm, whose number it holds.

    Args:
        process: options of the process.
        cameras: options of each camera, with the folders that are its own.
        resources: of the run.

    Raises:
        FolderInUseError: another process writes to one of them.
    """
    folders = [process.recording.folder if process.recording.shows_display else None]
    for camera in cameras:
        folders += [*camera.recording.folders.values(), camera.alarms.folder]
    for folder in dict.fromkeys(filter(None, folders)):
        _hold(FolderLock(folder), folder, resources)
    for file in dict.fromkeys(camera.alarms.events_file for camera in cameras):
        # Nobody counts the alarms of a pipe, nor those that a service writes into its log.
        lock_file = None if file is None else lock_file_of(file)
        if lock_file is not None:
            _hold(FolderLock(lock_file, output=file), lock_file, resources, is_file=True)


def _hold(lock: FolderLock, path: Path, resources: ExitStack, is_file: bool = False) -> None:
    for _ in range(_ATTEMPTS):
        made = _make(path, is_file)
        lock.hold()
        if lock.held:
            break
    resources.callback(lock.release)
    for each in made:  # the innermost is removed first, and before the release: afterwards another run may hold it
        resources.callback(_remove_empty, each, identity_of(each))


def _make(path: Path, is_file: bool) -> list[Path]:
    """Make a folder or an empty file, and return what is to be removed at the end, the outermost first.

    On a full disk a folder is made later, with its first file.
    """
    folder = path.parent if is_file else path
    missing = [each for each in (folder, *folder.parents) if not each.exists()][::-1]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if is_file:
            path.touch()
    return [*missing, path] if is_file else missing  # of a lock file also one that a killed run left


def _remove_empty(path: Path, identity: tuple[int, int] | None) -> None:
    """Remove what this run has made and left empty, and not what another one has made in its place."""
    if identity is None or identity_of(path) != identity:
        return
    with suppress(OSError):
        if path.is_dir():
            path.rmdir()  # refuses one that is not empty
        elif path.stat().st_size == 0:
            path.unlink()
