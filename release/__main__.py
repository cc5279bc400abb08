"""What a release needs: `python -m release --help`. docs/releases.md says when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from release import changelog
from svg_common.command import run_command

ROOT = Path(__file__).resolve().parents[1]

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

TagArgument = Annotated[str, typer.Argument(metavar="TAG", help="Tag of the release, such as v0.2.0.")]


@app.command()
def prepare(version: Annotated[str, typer.Argument(metavar="VERSION", help="Version of the release, such as 0.2.0.")]) -> None:
    """Make the section of a release in CHANGELOG.md, and state its version in the files that have one."""
    changelog.prepare(ROOT, version)
    print(f"prepared {version}\n  read and commit it, then tag it: git tag -a v{version} -m 'svg-edge {version}'")


@app.command()
def check(tag: TagArgument) -> None:
    """Check that changelog, citation and the ROS package say what a tag says."""
    changelog.check(ROOT, tag)
    print(f"the tree is {tag}")


@app.command()
def notes(tag: TagArgument) -> None:
    """Print the section of a tag in CHANGELOG.md."""
    print(changelog.notes(ROOT, tag), end="")


@app.command()
def package(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep wheel and sdist here. Default: they are removed.")
    ] = None,
) -> None:
    """Build wheel and sdist, check what is in them, install the wheel by pipx, and run every command of it."""
    from release.package import check_package

    check_package(ROOT, out)


if __name__ == "__main__":
    run_command(app)
