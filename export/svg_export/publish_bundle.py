"""`svg-export BUNDLE` with --push, --pack or --triton: nothing is exported, the bundle is taken as it is."""

from __future__ import annotations

from pathlib import Path

import typer

from svg_common.command import stderr_console
from svg_common.errors import UsageError
from svg_common.outputs import check_outputs
from svg_common.signals import defer_interrupts
from svg_export.command_line import given_options
from svg_export.hub.push_options import PushOptions, push_and_report
from svg_export.packing import pack_and_report
from svg_export.triton.options import TritonOptions

_WITH_BUNDLE = (
    "checkpoint", "pack", "push", "licence", "public",
    "triton", "triton_cameras", "triton_samples", "triton_horizon", "triton_idle",
)  # fmt: skip


def publish_bundle(arguments: typer.Context, push: PushOptions, pack: Path | None, triton: TritonOptions, folder: Path) -> None:
    """Pack a bundle, write Triton's model repositories of it, push it, or several of these.

    Raises:
        UsageError: an option that exports, or a file or folder that would be replaced.
        BundleError: the bundle is damaged.
    """
    with defer_interrupts():
        from svg_runtime.bundle.reader import Bundle

    given = [flag for name, flag in given_options(arguments).items() if name not in _WITH_BUNDLE]
    if given:
        raise UsageError(
            f"{', '.join(given)} has no effect on '{folder}', a bundle, which is sent as it is\n"
            "  remove it, or give the checkpoint to export"
        )
    Bundle.open(folder)
    check_outputs({"--pack": pack}, {"--triton": triton.out}, closed=triton.folders, needed=[folder])
    triton.check(folder)
    prepared = push.prepare()
    console = stderr_console()
    if pack is not None:
        pack_and_report(folder, pack, console)
    if triton.out is not None:
        triton.write(folder, console)
    if prepared is not None:
        push_and_report(prepared, folder, console)
