"""Checks of a command's outputs before any work: they can be written, and overwrite neither an input nor each other."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from svg_common.errors import FULL_DISK, OutputError, UsageError
from svg_common.files import resolved

_WITHOUT_WAITING = getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NONBLOCK", 0)  # Windows has neither

_RESULTS = (".json", ".html")  # as a rule, earlier results, which may be replaced
_HEAD = 1024  # bytes, which show what a file holds
# Pictures, videos and tables begin otherwise. A power cut may leave NULs in place of the last lines, before later ones.
_TEXT = re.compile(rb"\0*\{.*|[^\0]*\0*", re.DOTALL)
_BOM = rb"(\xef\xbb\xbf)?"  # of a result that was saved in an editor
# What an earlier output of an option begins with. Anything else in its place, such as a video, is not replaced.
# Plots, videos and archives are not here: they need a name that says what they are.
_EARLIER = {
    "--json": ("JSON", re.compile(_BOM + rb'\s*\{\s*["}][^\0]*')),
    "--page": ("an HTML page", re.compile(_BOM + rb"\s*<(!--|!doctype html|html|head|body)[^\0]*", re.IGNORECASE)),
    "--save-checkpoint": ("a checkpoint of svg-edge", re.compile(rb"PK\x03\x04.*", re.DOTALL)),  # torch.save writes a zip
}

Outputs = Mapping[str, Path | None]  # option -> where it writes, if given


def check_outputs(
    files: Outputs,
    folders: Outputs | None = None,
    replaced: Outputs | None = None,
    kept: Outputs | None = None,
    closed: Outputs | None = None,
    needed: Iterable[str | Path | None] = (),
    data: Iterable[str | Path | None] = (),
    retried: Collection[str] = (),
    appended: Collection[str] = (),
) -> None:
    """Refuse outputs that cannot be written, or would overwrite something. Nothing is created.

    Args:
        files: outputs that become files. Devices and pipes, such as /dev/stdout, are written as they are.
        folders: outputs that become folders, or are written into existing ones.
        replaced: outputs that become folders in place of existing ones, with everything in them.
        kept: as `folders`, with results of earlier runs: new `files` may lie in them, but must not replace what they hold.
        closed: as `folders`, of which other programs read everything: no other output may lie in them.
        needed: other files that the command reads or writes, and folders whose whole content belongs to it.
        data: files and folders of data. New results may go into such a folder, but must not replace what lies there, and
            none of `folders` may be one that holds its clips.
        retried: options among `files` and `folders` that the command tries to write again and again: the disk may be full.
        appended: options among `files` that lines are added to, so that a text loses nothing.

    Raises:
        UsageError: an output is named `-`, is one of the needed files, lies in one of these folders or in a closed one, is also
            another output, would replace a file of data or of a kept folder, or one that holds something else than this
            option writes, is a folder among the clips of data, or replaces a folder with a needed file or another output in it.
        OutputError: a folder cannot be made or written, or a file and a folder are confused.
    """
    kept, closed, replaced, needed = kept or {}, closed or {}, replaced or {}, list(needed)
    folders = {**(folders or {}), **kept, **closed}
    _refuse_dash({**folders, **files, **replaced})
    roots = [Path(given) for given in data if given is not None]
    refuse_overwriting({**folders, **files}, [*needed, *(root for root in roots if root.is_file()), *replaced.values()])
    named = {flag: path for flag, path in files.items() if path is not None and not is_open_already(path)}
    _refuse_within(closed, {**folders, **named, **replaced})
    _refuse_replacing(replaced, [*needed, *roots])
    replacing = {flag: path for flag, path in named.items() if flag not in appended or not _holds(path, _TEXT)}
    _refuse_replacing_files(replacing, [("the data", root) for root in roots])
    _refuse_replacing_files(replacing, [(f"the folder of {flag},", path) for flag, path in kept.items() if path is not None])
    _refuse_replacing_other_content(named, {**_EARLIER, **dict.fromkeys(appended, ("a text", _TEXT))})
    _refuse_mixing_with_clips(folders, roots)
    for flag, path in files.items():
        if path is not None:
            require_writable_file(path, full_disk=flag in retried)
    for flag, path in folders.items():
        if path is not None:
            require_writable_folder(path, full_disk=flag in retried)
    for path in filter(None, replaced.values()):
        _require_replaceable(path)


def _refuse_dash(outputs: Outputs) -> None:
    """Refuse `-`: elsewhere it means the standard output, and would be the name of a file here."""
    for flag, output in outputs.items():
        if output == Path("-"):
            raise UsageError(f"{flag} is '-', which would be a file of this name\n  expected a file, or /dev/stdout")


def refuse_overwriting(outputs: Outputs, needed: Iterable[str | Path | None]) -> None:
    """Refuse outputs that would overwrite an input or each other.

    Args:
        outputs: option -> where it writes.
        needed: as in `check_outputs`.

    Raises:
        UsageError: an output is one of these files, lies in one of these folders, or is also another output.
        OutputError: an output's symbolic links go round in a circle.
    """
    used: dict[Path, str] = {}
    others = {_resolved(Path(given)) for given in needed if given is not None}
    files = {_file_id(other) for other in others} - {None}
    for flag, output in outputs.items():
        if output is None or _is_device(output):  # several outputs can share /dev/stdout
            continue
        target = _resolved(output)
        if _file_id(target) in files or not others.isdisjoint((target, *target.parents)):
            raise UsageError(f"{flag} would overwrite '{output}', which this command uses\n  choose another file")
        if target in used:
            raise UsageError(f"{used[target]} and {flag} both name '{output}'\n  choose a different file for each")
        used[target] = flag


def require_writable_file(path: Path, full_disk: bool = False) -> None:
    """Refuse a file that cannot be written.

    Args:
        path: the file.
        full_disk: whether its disk may be full.

    Raises:
        OutputError: its folder cannot be made or written, its name is too long, or `path` is a folder.
    """
    target = _resolved(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if _is_device(path):  # not the target: /dev/stdout is a link to a pipe that no path leads to
            _try_device(path)
        else:
            _try_folder(target.parent, full_disk)
    except OSError as error:
        raise OutputError(path, error) from error


def require_writable_folder(path: Path, full_disk: bool = False) -> None:
    """Refuse a folder that cannot be made or written.

    Args:
        path: the folder.
        full_disk: whether its disk may be full.

    Raises:
        OutputError: for these reasons, or `path` is a file.
    """
    try:
        _try_folder(_resolved(path), full_disk)
    except OSError as error:
        raise OutputError(path, error) from error


def existing_file(path: str | Path | None) -> Path | None:
    """`path` if it is a file, else None: what is named may also be a name without a file."""
    return Path(path) if path is not None and Path(path).is_file() else None


def _refuse_replacing_files(files: Outputs, folders: Iterable[tuple[str, Path]]) -> None:
    """Refuse to replace a file in one of `folders`, each with what it is, unless the file's suffix is that of results."""
    for flag, output in files.items():
        if output is None or not output.is_file() or output.suffix.lower() in _RESULTS:
            continue
        for what, folder in folders:
            if _resolved(folder) in _resolved(output).parents:
                raise UsageError(f"{flag} would overwrite '{output}', a file in {what} '{folder}'\n  choose another file")


def _refuse_replacing_other_content(files: Mapping[str, Path], earlier: Mapping[str, tuple[str, re.Pattern[bytes]]]) -> None:
    """Refuse to replace a file that no earlier run of the option has written, as the beginning of its content shows."""
    for flag, output in files.items():
        what, content = earlier.get(flag, (None, None))
        if content is not None and not _holds(output, content):
            raise UsageError(
                f"{flag} would overwrite '{output}', which is not {what}\n"
                "  expected a new file, or an earlier output of this option; choose another file"
            )


def _refuse_within(closed: Outputs, outputs: Outputs) -> None:
    """Refuse outputs in a folder that takes nothing else."""
    for owner, folder in closed.items():
        for flag, output in outputs.items():
            if folder is not None and output is not None and _resolved(folder) in _resolved(output).parents:
                raise UsageError(f"{flag} would write '{output}' into '{folder}', the folder of {owner}\n  choose another one")


def _refuse_mixing_with_clips(folders: Outputs, data: Iterable[Path]) -> None:
    """Refuse a folder in which clips of the data lie: pictures would replace them, or be read as some of them."""
    roots = {_resolved(root) for root in data}
    for flag, output in folders.items():
        if output is None or not output.is_dir() or roots.isdisjoint((_resolved(output), *_resolved(output).parents)):
            continue
        if _holds_clips(output):
            raise UsageError(f"{flag} would write among the clips in '{output}', a folder of data\n  choose another folder")


def _holds_clips(folder: Path) -> bool:
    from svg_common.video.clips import find_clips  # heavy: NumPy and PyAV

    return bool(find_clips(folder, nested=False))


def _refuse_replacing(replaced: Outputs, needed: Iterable[str | Path | None]) -> None:
    """Refuse to replace a folder that holds a needed file."""
    for flag, folder in replaced.items():
        for other in (Path(given) for given in needed if given is not None):
            if folder is not None and _resolved(folder) in (_resolved(other), *_resolved(other).parents):
                raise UsageError(f"{flag} would replace '{folder}' and '{other}' with it\n  choose another folder")


def _require_replaceable(path: Path) -> None:
    """Refuse a folder that cannot be made beside its destination and then renamed."""
    try:
        _try_folder(_resolved(path).parent, full_disk=False)
    except OSError as error:
        raise OutputError(path, error) from error


def _try_folder(folder: Path, full_disk: bool) -> None:
    """Try to write to `folder`, or where it would be made; with `full_disk`, as if there were space."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    # Permissions alone do not tell: the disk may be read-only, or the user root. A full disk still takes empty files.
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"\0")
    except OSError as error:
        if not full_disk or error.errno not in FULL_DISK:
            raise


def _try_device(path: Path) -> None:
    """Open a device for writing, as far as that does not wait for anybody: a pipe would, for its reader."""
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if path.is_char_device():
        os.close(os.open(path, os.O_WRONLY | _WITHOUT_WAITING))


def _holds(path: Path, content: re.Pattern[bytes]) -> bool:
    """Whether a file is not there yet, is empty, or begins with such content."""
    if not path.is_file():
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise OutputError(path, error) from error
    return not head or content.fullmatch(head) is not None


def _file_id(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, under whatever name; None: it does not exist, or cannot be asked."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_open_already(path: Path) -> bool:
    """Whether it names what the shell has opened, and emptied, such as /dev/stdout after > FILE."""
    return path.is_relative_to("/dev/fd") or str(path) in ("/dev/stdout", "/dev/stderr")


def _is_device(path: Path) -> bool:
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError as error:
        raise OutputError(path, error) from error


def _resolved(path: Path) -> Path:
    try:
        return resolved(path)
    except OSError as error:
        raise OutputError(path, error) from error
