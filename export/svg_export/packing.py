"""`svg-export --pack`: a bundle in one file, `name.svgb.tar`, whose hash is part of its address."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from svg_common.command import stderr_console
from svg_common.errors import UsageError
from svg_common.files import atomic_file, file_sha256
from svg_common.outputs import check_outputs
from svg_common.signals import defer_interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from svg_export.hub.push_options import PushOptions

_SUFFIX = ".svgb.tar"
_WITH_BUNDLE = ("checkpoint", "pack", "push", "licence", "public")


def require_archive_name(archive: Path | None) -> None:
    """Refuse a --pack that no address could name.

    Raises:
        UsageError: the name does not end with .svgb.tar.
    """
    if archive is not None and not (archive.name.endswith(_SUFFIX) and archive.name != _SUFFIX):
        raise UsageError(f"--pack '{archive}' has another name than name{_SUFFIX}\n  expected such as --pack cam{_SUFFIX}")


def pack_bundle(folder: Path, archive: Path) -> str:
    """Write manifest and graphs of a bundle, and nothing else, to an archive that is not compressed; return its SHA-256.

    The same bundle gives the same bytes: no times, no owners, names in order, and the folder named after the archive.

    Args:
        folder: the bundle.
        archive: `name.svgb.tar` to write; it appears whole or not at all.

    Raises:
        BundleError: the bundle is damaged.
        OSError: the archive cannot be written.
    """
    from svg_runtime.bundle.manifest import FILE_NAME
    from svg_runtime.bundle.reader import Bundle
    from svg_runtime.bundle.remote.published import graph_files

    bundle = Bundle.open(folder)
    bundle.check()
    with atomic_file(archive) as partial:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in (FILE_NAME, *sorted(graph_files(bundle.manifest))):
                file = folder / name
                entry = tarfile.TarInfo(f"{archive.name.removesuffix('.tar')}/{name}")
                entry.size = file.stat().st_size
                with file.open("rb") as content:
                    tar.addfile(entry, content)
        return file_sha256(partial)


def pack_and_report(folder: Path, archive: Path, console: Console) -> dict[str, str]:
    """Pack a bundle, and print the address under which it can be fetched; returns file and hash."""
    sha256 = pack_bundle(folder, archive)
    console.print(
        f"packed {folder.name} as {archive} ({archive.stat().st_size / 1e6:.1f} MB)\n  on any web server, run it with: "
        f"svg-live --model https://HOST/{archive.name}#sha256={sha256}",
        markup=False,
    )
    return {"file": str(archive), "sha256": sha256}


def send_bundle(arguments: typer.Context, folder: Path, pack: Path | None, options: PushOptions) -> None:
    """`svg-export BUNDLE` with --pack, --push or both: nothing is exported, so all other options are refused."""
    with defer_interrupts():
        from svg_export.hub.push_options import push_and_report
        from svg_runtime.bundle.reader import Bundle

    given = _other_options(arguments)
    if given:
        raise UsageError(
            f"{', '.join(given)} has no effect on '{folder}', a bundle, which is sent as it is\n"
            "  remove it, or give the checkpoint to export"
        )
    Bundle.open(folder)
    check_outputs({"--pack": pack}, needed=[folder])
    prepared = options.prepare()
    console = stderr_console()
    if pack is not None:
        pack_and_report(folder, pack, console)
    if prepared is not None:
        push_and_report(prepared, folder, console)


def _other_options(arguments: typer.Context) -> list[str]:
    others = [name for name in arguments.params if name not in _WITH_BUNDLE]
    sources: Mapping[str, object] = {f"--{name.replace('_', '-')}": arguments.get_parameter_source(name) for name in others}
    return [flag for flag, source in sources.items() if getattr(source, "name", None) == "COMMANDLINE"]
