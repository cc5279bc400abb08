"""Folders of the cache with models from elsewhere: the manifest, the graphs that it names, and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from svg_common.cache import models_folder
from svg_common.errors import first_line
from svg_common.files import beside, flush
from svg_common.printable import one_line
from svg_runtime.bundle.manifest import FILE_NAME, PRECISIONS, Manifest
from svg_runtime.bundle.reader import MANIFEST_LIMIT, Bundle
from svg_runtime.errors import BundleError

_GRAPH = re.compile(rf"({'|'.join(PRECISIONS)})/[\w.-]+\.onnx", re.ASCII)
_LISTED = 8  # files in a message
_PUSHED = "push it with: svg-export ckpt.pt --push hf://user/name"


class Files(Protocol):
    """What lies at an address."""

    @property
    def sizes(self) -> Mapping[str, int | None]:
        """Path inside the bundle -> bytes, of everything there. None: not known before it is copied."""

    def copy(self, name: str, destination: Path) -> None:
        """Write the file `name` to `destination`: at most as many bytes as `sizes` says, or as a bundle's file may have where
        it does not say.

        Raises:
            BundleError: it cannot be had.
        """


def find_published(folder: Path) -> Path | None:
    """`folder` if it is a bundle with all its files; None if it has to be fetched. Hashes are checked when graphs are read."""
    try:
        files = graph_files(Bundle.open(folder).manifest)
        whole = all((folder / name).stat().st_size == size for name, size in files.items())
    except (BundleError, OSError):
        return None
    return folder if whole else None


def graph_files(manifest: Manifest) -> dict[str, int]:
    """The files that a manifest names, with their sizes in bytes."""
    return {graph.file: graph.bytes for variant in manifest.variants.values() for graph in variant.files.values()}


def check_fetchable(manifest: Manifest) -> None:
    """Check that all graphs are ONNX files in the folder of a precision: no other files are taken from an address.

    Raises:
        BundleError: one of them is not.
    """
    wrong = [name for name in graph_files(manifest) if not _GRAPH.fullmatch(name)]
    if wrong:
        raise BundleError(
            f"the manifest names files that nobody could fetch: {listed(wrong)}\n"
            "  expected names such as fp32/step.onnx: rename the files, and `file` in manifest.json"
        )


def publish(folder: Path, address: str, files: Files, advice: str = "tell its author", made_by: str = _PUSHED) -> Path:
    """Make the bundle `folder` of what lies at `address`; it appears whole, with every hash checked, or not at all.

    Args:
        folder: below `svg_common.cache.models_folder()`.
        address: for messages.
        files: at the address. Only the manifest and the graphs that it names are taken.
        advice: what to do about a damaged one.
        made_by: how to put a bundle there, if there is none.

    Raises:
        BundleError: there is no bundle, or a damaged or hostile one.
        OSError: the cache cannot be written.
    """
    if FILE_NAME not in files.sizes:
        found = f"it has no {FILE_NAME}, only: {listed(files.sizes)}" if files.sizes else "it is empty"
        raise BundleError(f"no bundle at {address}: {found}\n  expected what svg-export writes; {made_by}")
    size = files.sizes[FILE_NAME] or 0
    if size > MANIFEST_LIMIT:
        raise BundleError(f"{FILE_NAME} at {address} is too large: {size} bytes")
    with scratch_folder() as scratch:
        new = scratch / folder.name
        new.mkdir()
        try:
            _fill(new, files)
        except BundleError as error:
            raise _rejected(error, address, new, advice) from error
        _move(new, folder)
    return folder


def scratch_folder() -> AbstractContextManager[Path]:
    """An empty folder beside the published ones, removed at the end; those of killed programs are removed at its start.

    Raises:
        OSError: the cache cannot be written.
    """
    return beside(models_folder() / "fetch", folder=True)


def listed(names: Iterable[str]) -> str:
    """Names of files for a message: the first few, on one line."""
    shown = sorted(names)
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return ", ".join(one_line(name[:100]) for name in shown[:_LISTED]) + more


def _rejected(error: BundleError, address: str, new: Path, advice: str) -> BundleError:
    """The same error with the address in place of the scratch folder, and without the advice to export again."""
    reasons = [one_line(reason) for reason in error.problems or [first_line(error).replace(str(new), address)]]
    lines = "\n  ".join(reasons)
    return BundleError(f"the bundle at {address} is rejected:\n  {lines}\n  nothing of it was kept; {advice}", reasons)


def _fill(new: Path, files: Files) -> None:
    files.copy(FILE_NAME, new / FILE_NAME)
    bundle = Bundle.open(new)
    check_fetchable(bundle.manifest)
    expected = graph_files(bundle.manifest)
    wrong = [name for name, size in expected.items() if name not in files.sizes or files.sizes[name] not in (None, size)]
    if wrong:
        raise BundleError(f"missing, or of another size than the manifest says: {listed(wrong)}")
    for name in expected:
        (new / name).parent.mkdir(exist_ok=True)
        files.copy(name, new / name)
    bundle.check()


def _move(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`, unless another process has just put the same there."""
    for file in new.rglob("*.*"):
        if file.is_file():
            flush(file)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and find_published(folder) is None:  # damaged
        shutil.rmtree(folder)
    try:
        new.rename(folder)
    except OSError:
        if find_published(folder) is None:
            raise
