"""`svg-export --pack`: a bundle in one file, `name.svgb.tar`, whose hash is part of its address."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from svg_common.errors import UsageError
from svg_common.files import atomic_file, file_sha256

if TYPE_CHECKING:
    from rich.console import Console

_SUFFIX = ".svgb.tar"


def require_archive_name(archive: Path | None) -> None:
    """Refuse a --pack that no address could name.

    Raises:
        UsageError: the name does not end with .svgb.tar.
    """
    if archive is not None and not (archive.name.endswith(_SUFFIX) and archive.name != _SUFFIX):
        raise UsageError(f"--pack '{archive}' has another name than name{_SUFFIX}\n  expected such as --pack cam{_SUFFIX}")


def pack_bundle(folder: Path, archive: Path) -> str:
    """Write manifest and graphs of a bundle, and nothing else, to an archive that is not compressed; return its SHA-256.

    The same bundle gives the same bytes, whatever the archive is called: no times, no owners, names in order, and the folder
    named after the bundle's id.

    Args:
        folder: the bundle.
        archive: `name.svgb.tar` to write; it appears whole or not at all.

    Raises:
        BundleError: the bundle is damaged, has files that are not fetched, or another one has taken its place meanwhile.
        OSError: the archive cannot be written.
    """
    from svg_runtime.bundle.manifest import FILE_NAME
    from svg_runtime.bundle.reader import Bundle
    from svg_runtime.bundle.remote.published import check_fetchable, graph_files

    bundle = Bundle.open(folder)
    bundle.check()
    check_fetchable(bundle.manifest)
    with atomic_file(archive) as partial:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in (FILE_NAME, *sorted(graph_files(bundle.manifest))):
                content = bundle.content(name)
                entry = tarfile.TarInfo(f"{bundle.manifest.bundle_id}.svgb/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return file_sha256(partial)


def pack_and_report(folder: Path, archive: Path, console: Console) -> dict[str, str]:
    """Pack a bundle, and print the address under which it can be fetched; returns file and hash."""
    sha256 = pack_bundle(folder, archive)
    console.print(
        f"packed {folder.name} as {archive} ({archive.stat().st_size / 1e6:.1f} MB)\n  on any web server, run it with: "
        f"svg-live --model https://HOST/{quote(os.fsencode(archive.name))}#sha256={sha256}",
        markup=False,
    )
    return {"file": str(archive), "sha256": sha256}
