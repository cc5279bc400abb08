"""The version that setuptools-scm gives a tree, by this repository's settings, wherever the tree comes from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def version(tree: Path, **environment: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("SETUPTOOLS_SCM_")}
    command = [sys.executable, "-m", "setuptools_scm", "--root", str(tree)]
    done = subprocess.run(command, cwd=tree, env={**own, **environment}, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def git(tree: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", tree, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True
    )


@pytest.fixture
def files(tmp_path) -> Path:
    """What a container gets of a clone, and what says the version of an archive."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", ".gitattributes", ".git_archival.txt"):
        shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture
def clone(files) -> Path:
    git(files, "init", "-q")
    git(files, "add", ".")
    git(files, "commit", "-qm", "first")
    return files


def test_a_tag_is_the_version_and_later_trees_are_development_versions(clone):
    assert re.fullmatch(r"0\.0\.dev1\+g[0-9a-f]+", version(clone))
    git(clone, "tag", "-a", "v0.2.0", "-m", "svg-edge 0.2.0")
    assert version(clone) == "0.2.0"
    (clone / "pyproject.toml").write_text((clone / "pyproject.toml").read_text() + "\n")
    assert re.fullmatch(r"0\.2\.1\.dev0\+g[0-9a-f]+\.d\d{8}", version(clone))
    git(clone, "commit", "-qam", "second")
    assert re.fullmatch(r"0\.2\.1\.dev1\+g[0-9a-f]+", version(clone))


def test_a_shallow_clone_without_tags_has_a_version(clone, tmp_path):
    git(clone, "tag", "-a", "v0.2.0", "-m", "svg-edge 0.2.0")
    git(clone, "commit", "-qm", "second", "--allow-empty")
    git(tmp_path, "clone", "-q", "--depth", "1", "--no-tags", clone.as_uri(), "shallow")
    assert re.fullmatch(r"0\.0\.dev1\+g[0-9a-f]+", version(tmp_path / "shallow"))


def test_an_archive_from_github_knows_its_tag(clone, tmp_path):
    git(clone, "tag", "-a", "v0.2.0", "-m", "svg-edge 0.2.0")
    archive = tmp_path / "archive"
    archive.mkdir()
    git(clone, "archive", "--format=tar", "-o", str(tmp_path / "archive.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "archive.tar", archive, filter="data")
    assert not (archive / ".git").exists()
    assert version(archive) == "0.2.0"


def test_files_alone_have_a_version_and_a_container_says_it(files):
    assert version(files) == version(files, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SVG_EDGE="") == "0.0.dev0"
    assert version(files, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SVG_EDGE="0.2.0") == "0.2.0"


def test_a_machine_without_git_has_a_version(clone):
    assert version(clone, PATH="/nowhere") == "0.0.dev0"
