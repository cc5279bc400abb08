"""Wheel and sdist: built, checked, installed, run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from release.changelog import ReleaseError
from release.clean_copy import clean_copy, commit_time
from release.contents import package_files, sdist_problems, wheel_problems
from release.installed import InstalledWheel
from release.readme import link_to_github
from svg_common.files import atomic_file

_VERSION = "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SVG_EDGE"  # else the changed README would make it a development version


def check_package(root: Path, out: Path | None) -> None:
    """Build wheel and sdist of the tree `root` in a clean copy, and check everything that a user would meet.

    Args:
        root: of the repository.
        out: folder that gets both, beside what is there. None: they are removed.

    Raises:
        ReleaseError: something is wrong; all of it is listed.
    """
    with tempfile.TemporaryDirectory(prefix="svg-edge-package.") as scratch:
        # 1) both ways from the tree to a wheel
        tree, dist, direct = (Path(scratch) / name for name in ("tree", "dist", "direct"))
        clean_copy(root, tree)
        files = package_files(tree)
        version = _run("setuptools_scm", "--root", str(tree)).splitlines()[-1]  # after its warnings
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(commit_time(tree)), _VERSION: version}
        link_to_github(tree, version)
        _build(tree, dist, environment)  # the sdist, and from it the wheel
        _build(tree, direct, environment, "--wheel")
        ((wheel,), (sdist,), (other,)) = (
            list(folder.glob(f"*.{suffix}")) for folder, suffix in ((dist, "whl"), (dist, "tar.gz"), (direct, "whl"))
        )
        # 2) what is in them
        _run("twine", "check", "--strict", str(wheel), str(sdist))
        problems = [f"{wheel.name}: {problem}" for problem in wheel_problems(wheel, files, tree)]
        problems += [f"{sdist.name}: {problem}" for problem in sdist_problems(sdist, files, tree)]
        if wheel.name != other.name or wheel.read_bytes() != other.read_bytes():
            problems.append(f"the wheel of the sdist, {wheel.name}, is not the one of the tree, {other.name}")
        # 3) what they do
        installed = InstalledWheel(Path(scratch) / "installed", tree / "constraints.txt", _log)
        problems += installed.check(wheel, wheel.name.split("-")[1])
        if problems:
            raise ReleaseError("the package is not fit for a release:\n  " + "\n  ".join(problems))
        _log(f"{wheel.name} and {sdist.name} are fit for a release")
        if out is not None:
            _keep(out, wheel, sdist)


def _build(tree: Path, out: Path, environment: dict[str, str], *what: str) -> None:
    # With the exact setuptools of this environment: an isolated build would take the newest.
    _run("build", "--no-isolation", *what, "--outdir", str(out), str(tree), environment=environment)


def _run(module: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run a module, and return what it printed."""
    _log(f"{module} {' '.join(arguments)}")
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"{module} failed:\n{done.stdout}")
    return done.stdout


def _keep(out: Path, *files: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        with atomic_file(out / file.name) as kept:
            kept.write_bytes(file.read_bytes())


def _log(line: str) -> None:
    print(line, flush=True)
