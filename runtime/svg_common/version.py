"""The version of svg-edge, and `--version` of every command."""

from __future__ import annotations

from typing import Annotated

import typer


def installed_version() -> str:
    """Version of the installed distribution, from the tag that it was built from; unknown in a tree that is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # --help does without

    try:
        return version("svg-edge")
    except PackageNotFoundError:
        return "0+unknown"


def _print_version(context: typer.Context, asked: bool) -> None:
    if asked:
        print(f"{context.info_name} {installed_version()}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
]
