"""A copy of the tree to build in: what git tracks, with the changes that are not committed yet, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# What a tree without git leaves out, as .gitignore says it: anywhere, and beside the packages.
_ANYWHERE = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "node_modules", ".coverage*"
)
_BESIDE = shutil.ignore_patterns("run", "run-*", "data", "site", "*.svgb")


def clean_copy(root: Path, copy: Path) -> None:
    """Make `copy` of the tree `root`; with its tags, from which the version comes, if git can read it."""
    try:
        _git(root, "rev-parse", "--git-dir")
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, no repository, or one of another user
        shutil.copytree(root, copy, ignore=lambda folder, names: _left_out(root, folder, names))
        return
    _git(root, "clone", "--quiet", "--no-hardlinks", str(root), str(copy))
    changed = _git(root, "diff", "--name-only", "-z", "--no-renames", "HEAD")  # staged or not
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard")
    for name in _names(changed + new):
        source, target = root / name, copy / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        else:
            target.unlink(missing_ok=True)


def commit_time(copy: Path) -> int:
    """Seconds since the epoch of the last commit, which archives carry; a day of 2024 without git."""
    try:
        return int(_git(copy, "log", "-1", "--format=%ct"))
    except (FileNotFoundError, subprocess.CalledProcessError):
        return 1_704_067_200


def _left_out(root: Path, folder: str, names: list[str]) -> set[str]:
    anywhere = _ANYWHERE(folder, names)
    return anywhere | _BESIDE(folder, names) if Path(folder) == root else anywhere


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


def _names(output: str) -> list[str]:
    return [name for name in output.split("\0") if name]
