"""The cache of compiled graphs: a folder for each, whose files OpenVINO finds only as they were written."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from svg_common.cache import cache_folder
from svg_common.errors import SvgError
from svg_common.files import atomic_file, file_sha256
from svg_runtime.backends.cache_lock import locked

_LOG = logging.getLogger(__name__)
_RECORD = ".sha256"  # as sha256sum writes it
_Stamps = dict[str, tuple[int, int]]  # size and time of each file
_as_recorded: dict[Path, tuple[_Stamps, bytes]] = {}  # files and record that this process has compared, or written


class CompiledCache:
    """Where OpenVINO keeps compiled graphs between two starts; where it cannot, opening only takes longer.

    Each precision and each set of capabilities has its own folders. OpenVINO (2026.4) identifies compiled graphs only by ONNX
    file and the device's full name, so a graph once compiled in f16 would also be returned for f32, and vice versa; and CPUs of
    very different capabilities are all called "Intel(R) Xeon(R) Processor" on virtual machines.

    OpenVINO maps a compiled graph into memory, and looks only at its header. With a damaged page it would give other frames,
    so hashes are compared first; and a graph that another process is just writing would end this one with SIGBUS, hence the
    locks.

    Args:
        core: OpenVINO's Core.
        device: as OpenVINO names it.
    """

    def __init__(self, core: Any, device: str) -> None:
        self._core = core
        self._device = device
        self._usable = True
        self._turn = threading.Lock()  # the lanes of a backend compile the same graphs, and need no message about each other

    @contextmanager
    def folder_of(self, graph: str, identity: Hashable, compute: str | None) -> Iterator[Path | None]:
        """Yield the folder to compile a graph with, locked; what is in it afterwards is recorded.

        None if the cache cannot be used. A warning says so once, and no other folder is tried.

        Args:
            graph: its name.
            identity: what tells it from other graphs of that name, and has always the same representation.
            compute: the requested precision.
        """
        with self._turn, ExitStack() as stack:
            folder = self._open(graph, identity, compute, stack)
            before = {} if folder is None else _stamps(folder)
            yield folder
            if folder is not None and _stamps(folder) != before:
                self._record(folder)

    def _open(self, graph: str, identity: Hashable, compute: str | None, stack: ExitStack) -> Path | None:
        if not self._usable:
            return None
        try:
            capabilities = sorted(str(each) for each in self._core.get_property(self._device, "OPTIMIZATION_CAPABILITIES"))
            kind = "-".join([self._device, compute or "default", *capabilities]).lower()
            digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
            folder = cache_folder() / "openvino" / kind / f"{graph}-{digest}"
            stack.enter_context(locked(folder / ".lock", f"{graph} is being compiled elsewhere"))
            _remove_changed(folder)
            return folder
        except (OSError, SvgError) as error:
            self._give_up(error)
            return None

    def _record(self, folder: Path) -> None:
        """Without a record, as after a kill, the graph is compiled again at the next start."""
        try:
            stamps = _stamps(folder)
            hashes = _hashes(folder)
            with atomic_file(folder / _RECORD) as partial:
                partial.write_bytes(hashes)
            _as_recorded[folder] = stamps, hashes
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        _LOG.warning("compiled models are not cached: %s; set SVG_EDGE_CACHE to a writable folder", error)


def _remove_changed(folder: Path) -> None:
    """Remove the files if they are not those of the record. They are read once per process, not for each lane."""
    files, stamps = _files(folder), _stamps(folder)
    record = folder / _RECORD
    recorded = record.read_bytes() if record.is_file() else None
    if not files or (stamps, recorded) == _as_recorded.get(folder):
        return
    if _hashes(folder) == recorded:
        _as_recorded[folder] = stamps, recorded
        return
    if recorded is not None:
        _LOG.warning("'%s' changed since it was written; compiling the graph again", folder)
    for file in files:
        file.unlink()


def _files(folder: Path) -> list[Path]:
    """What OpenVINO has written: names of ours start with a dot."""
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _hashes(folder: Path) -> bytes:
    return "".join(f"{file_sha256(file)}  {file.name}\n" for file in _files(folder)).encode()


def _stamps(folder: Path) -> _Stamps:
    """Sizes and times, which change when OpenVINO writes; empty if the folder was removed meanwhile."""
    try:
        return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in _files(folder)}
    except OSError:
        return {}
