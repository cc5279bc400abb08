"""Folders of the cache with models from elsewhere: the manifest, the graphs that it names, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from svg_common.cache import cache_folder
from svg_common.errors import OutputError
from svg_runtime.bundle.manifest import FILE_NAME, PRECISIONS, Manifest
from svg_runtime.bundle.reader import MANIFEST_LIMIT, Bundle
from svg_runtime.errors import BundleError

_GRAPH = re.compile(rf"({'|'.join(PRECISIONS)})/[\w.-]+\.onnx", re.ASCII)
_SCRATCH = ".fetch."
_FORGOTTEN_S = 86400.0  # a scratch folder as old as this was left by a program that was killed
_LISTED = 8  # files in a message


class Files(Protocol):
    """What lies at an address."""

    sizes: Mapping[str, int]  # path inside the bundle -> bytes, of everything there

    def copy(self, name: str, destination: Path) -> None:
        """Write the file `name` to `destination`, no more than its size.

        Raises:
            BundleError: it cannot be had.
        """


def models_folder() -> Path:
    """Where models from elsewhere are kept: models/ in the cache folder.

    Raises:
        SvgError: there is no cache folder.
    """
    return cache_folder() / "models"


def find_published(folder: Path) -> Path | None:
    """`folder` if it is a bundle with all its files; None if it has to be fetched. Hashes are checked when graphs are read."""
    try:
        files = graph_files(Bundle.open(folder).manifest)
        whole = all((folder / name).stat().st_size == size for name, size in files.items())
    except (BundleError, OSError):
        return None
    return folder if whole else None


def graph_files(manifest: Manifest) -> dict[str, int]:
    """The files that a manifest names, with their sizes in bytes.

    Raises:
        BundleError: one of them is not an ONNX file in the folder of a precision.
    """
    files = {graph.file: graph.bytes for variant in manifest.variants.values() for graph in variant.files.values()}
    wrong = [name for name in files if not _GRAPH.fullmatch(name)]
    if wrong:
        raise BundleError(f"the manifest names files that are not fetched: {_listed(wrong)}\n  expected such as fp32/step.onnx")
    return files


def publish(folder: Path, address: str, files: Files) -> Path:
    """Make the bundle `folder` of what lies at `address`; it appears whole, with every hash checked, or not at all.

    Args:
        folder: below `models_folder()`.
        address: for messages.
        files: at the address. Only the manifest and the graphs that it names are taken.

    Raises:
        BundleError: there is no bundle, or a damaged or hostile one.
        OutputError, OSError: the cache cannot be written.
    """
    if FILE_NAME not in files.sizes:
        raise BundleError(
            f"no bundle at {address}: it has no {FILE_NAME}, only: {_listed(files.sizes) or 'nothing'}\n"
            "  expected what svg-export writes; push it with: svg-export ckpt.pt --push hf://user/name"
        )
    if files.sizes[FILE_NAME] > MANIFEST_LIMIT:
        raise BundleError(f"{FILE_NAME} at {address} is too large: {files.sizes[FILE_NAME]} bytes")
    with scratch_folder() as scratch:
        new = scratch / folder.name
        new.mkdir()
        try:
            _fill(new, files)
        except BundleError as error:
            raise _rejected(error, address, new) from error
        try:
            _move(new, folder)
        except OSError as error:
            raise OutputError(folder, error) from error
    return folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder beside the published ones, which is removed at the end.

    Raises:
        OutputError: the cache cannot be written.
    """
    root = models_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_forgotten(root)
        scratch = tempfile.mkdtemp(prefix=_SCRATCH, dir=root)
    except OSError as error:
        raise OutputError(root, error) from error
    try:
        yield Path(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _rejected(error: BundleError, address: str, new: Path) -> BundleError:
    """The same error with the address in place of the scratch folder, and without the advice to export again."""
    reasons = error.problems or [str(error).splitlines()[0].replace(str(new), address)]
    lines = "\n  ".join(reasons)
    return BundleError(f"the bundle at {address} is rejected:\n  {lines}\n  nothing of it was kept; tell its author", reasons)


def _fill(new: Path, files: Files) -> None:
    files.copy(FILE_NAME, new / FILE_NAME)
    bundle = Bundle.open(new)
    expected = graph_files(bundle.manifest)
    wrong = [name for name, size in expected.items() if files.sizes.get(name) != size]
    if wrong:
        raise BundleError(f"missing, or of another size than the manifest says: {_listed(wrong)}")
    for name in expected:
        (new / name).parent.mkdir(exist_ok=True)
        files.copy(name, new / name)
    bundle.check()


def _move(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`, unless another process has just put the same there."""
    for file in new.rglob("*.*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and find_published(folder) is None:  # damaged
        shutil.rmtree(folder)
    try:
        new.rename(folder)
    except OSError:
        if find_published(folder) is None:
            raise


def _remove_forgotten(root: Path) -> None:
    for scratch in root.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            if time.time() - scratch.stat().st_mtime > _FORGOTTEN_S:
                shutil.rmtree(scratch, ignore_errors=True)


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return ", ".join(name[:100] for name in shown[:_LISTED]) + more
