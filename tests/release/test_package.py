"""The checks of wheel and sdist find what they are for. `nox -s package` builds, installs and runs the real ones."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from release import installed, package
from release.clean_copy import clean_copy, commit_time
from release.contents import package_files, sdist_problems, wheel_problems
from release.readme import link_to_github, relative_links
from tests.command_runner import HANG_S

ROOT = Path(__file__).parents[2]
METADATA = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
BESIDE = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "SECURITY.md", "constraints.txt", "pyproject.toml",
          "setup.cfg", "svg_edge.egg-info/SOURCES.txt")  # fmt: skip
FILES = package_files(ROOT)


def in_wheel(name: str) -> str:
    return name.removeprefix("export/").removeprefix("runtime/")


def write_wheel(folder: Path, changed: Mapping[str, bytes | None]) -> Path:
    """All files of the packages, some of them left out (None), replaced or added."""
    files = {in_wheel(name): content for name, content in FILES.items()}
    files |= {f"svg_edge-1.dist-info/{name}": b"" for name in METADATA}
    with zipfile.ZipFile(folder / "svg_edge-1-py3-none-any.whl", "w") as archive:
        for name, content in {**files, **changed}.items():
            if content is not None:
                archive.writestr(name, content)
    return folder / "svg_edge-1-py3-none-any.whl"


def write_sdist(folder: Path, changed: Mapping[str, bytes | None]) -> Path:
    files = {**FILES, **dict.fromkeys(BESIDE, b""), **changed}
    with tarfile.open(folder / "svg_edge-1.tar.gz", "w:gz", compresslevel=0) as archive:
        for name, content in files.items():
            if content is not None:
                entry = tarfile.TarInfo(f"svg_edge-1/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return folder / "svg_edge-1.tar.gz"


def test_the_packages_have_what_a_user_needs():
    names = {in_wheel(name) for name in FILES}
    assert {
        "svg_runtime/py.typed",
        "svg_train/models/camera.pt",
        "svg_runtime/embedded/digits.svgb/fp32/predictor.onnx",
    } <= names
    assert not any(name.startswith(("tests/", "release/", "svg_edge.egg-info/")) for name in names)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"svg_train/models/camera.pt": None}, "svg_train/models/camera.pt is missing"),
        ({"svg_common/py.typed": None}, "svg_common/py.typed is missing"),
        ({"svg_runtime/py.typed": None}, "svg_runtime/py.typed is missing"),
        ({"svg_train/recipes/camera.toml": b""}, "svg_train/recipes/camera.toml is not the file of the tree"),
        ({"tests/test_arrows.py": b""}, "tests/test_arrows.py does not belong there"),
        ({"svg_runtime/__pycache__/a.cpython-311.pyc": b""}, "a.cpython-311.pyc does not belong there"),
        ({"svg_edge-1.dist-info/licenses/LICENSE": None}, "metadata: licenses/LICENSE"),
        ({"svg_edge-1.dist-info/METADATA": b"/home/ada/svg"}, "METADATA names a folder of a machine: /home/ada"),
        ({"svg_edge-1.dist-info/METADATA": b"[Train](docs/train.md)"}, "METADATA has a link that is dead on PyPI: docs/"),
        ({"svg_edge-1.dist-info/RECORD": f"{ROOT}/svg_train".encode()}, "RECORD names a folder of a machine"),
        ({"svg_common/large.bin": bytes(10_000_001)}, "svg_common/large.bin has 10.0 MB; at most 10 are allowed"),
    ],
    ids=lambda value: next(iter(value), "as it is") if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_a_wheel(tmp_path, changed, problem):
    found = wheel_problems(write_wheel(tmp_path, changed), FILES, ROOT)
    assert (found == []) if problem is None else any(problem in each for each in found)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"runtime/svg_runtime/py.typed": None}, "runtime/svg_runtime/py.typed is missing"),
        ({"LICENSE": None}, "LICENSE is missing"),
        ({"tests/test_arrows.py": b""}, "tests/test_arrows.py does not belong there"),
        ({"svg_train/__init__.py": b"pass\n"}, "svg_train/__init__.py is not the file of the tree"),
        ({"PKG-INFO": b'<img src="docs/live.png">'}, "PKG-INFO has a link that is dead on PyPI: docs/live.png"),
        ({"PKG-INFO": b"/Users/ada/svg"}, "PKG-INFO names a folder of a machine: /Users/ada"),
    ],
    ids=lambda value: next(iter(value), "as it is") if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_an_sdist(tmp_path, changed, problem):
    found = sdist_problems(write_sdist(tmp_path, changed), FILES, ROOT)
    assert (found == []) if problem is None else any(problem in each for each in found)


def test_links_of_the_readme_lead_to_the_tag_on_github(tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    before = (tmp_path / "README.md").read_text(encoding="utf-8")
    link_to_github(tmp_path, "0.2.0")
    after = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "](https://github.com/svg-edge/svg-edge/blob/v0.2.0/docs/camera-model.md#how-good-it-is)" in after
    assert "](https://raw.githubusercontent.com/svg-edge/svg-edge/v0.2.0/docs/camera.png)" in after
    assert len(relative_links(before)) == after.count("/v0.2.0/")
    assert relative_links(after) == []


def test_links_of_any_kind_are_relative_without_a_place_on_the_web():
    relative = "[a](a.md#b) ![b](b.png)\n[c]: c.md\n<a href='d.md'><img src='e.png'></a>\n"
    absolute = '[a](https://a.org/a) [b](#b) [c](mailto:c@d.org)\n[d]: http://d.org\n<a href="#e">\n'
    assert relative_links(relative + absolute) == ["a.md#b", "b.png", "c.md", "d.md", "e.png"]


USERS_PROGRAM = """
from svg_common.frames import fit_frame
from svg_runtime import Forecaster
from svg_train.data import SequenceDataset

def brightness(path: str, data: SequenceDataset) -> float:
    with Forecaster.open(path) as forecaster:
        spec = forecaster.manifest.frame
        forecaster.observe(fit_frame(data[0][0], spec.height, spec.width, spec.channels).astype("float32") / 255)
        return float(forecaster.forecast().mean())
"""


@pytest.mark.slow  # mypy reads the packages anew
def test_a_users_program_is_checked_strictly_with_the_types_of_the_packages(tmp_path):
    site = tmp_path / "site"
    for name in (name for name in FILES if name.endswith((".py", "/py.typed"))):
        (site / in_wheel(name)).parent.mkdir(parents=True, exist_ok=True)
        (site / in_wheel(name)).write_bytes(FILES[name])
    (tmp_path / "program.py").write_text(USERS_PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "program.py"]
    environment = {**os.environ, "PYTHONPATH": str(site)}  # where mypy asks for py.typed, as in site-packages
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("limit_s", "problem"), [(HANG_S, "pipx install .* failed"), (0, "stopped after 0 s")])
def test_a_pipx_that_fails_or_hangs_is_a_problem_among_others(limit_s, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(installed, "_LIMIT_S", limit_s)
    wheel = installed.InstalledWheel(tmp_path / "installed", ROOT / "constraints.txt", lambda line: None)
    (found,) = wheel.check(tmp_path / "missing-1-py3-none-any.whl", "1")
    assert re.search(problem, found)


def test_what_is_kept_leaves_the_rest_of_its_folder(tmp_path):
    (tmp_path / "built.whl").write_bytes(b"new")
    out = tmp_path / "out"
    package._keep(out, tmp_path / "built.whl")
    (out / "built.whl").write_bytes(b"old")
    (out / "notes.txt").write_text("mine")
    package._keep(out, tmp_path / "built.whl")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {"built.whl": b"new", "notes.txt": b"mine"}


# ---- The copy to build in ----


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("kept.py", "changed.py", "removed.py", "changed_staged.py", "removed_staged.py", "moved.py"):
        (root / name).write_text("committed\n")
    (root / ".gitignore").write_text("ignored/\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "v0.1.0"]):
        subprocess.run([*git, *command], check=True)
    (root / "changed_staged.py").write_text("not committed\n")
    (root / "new_staged.py").write_text("not committed\n")
    for command in (["add", "."], ["rm", "-q", "removed_staged.py"], ["mv", "moved.py", "moved_here.py"]):
        subprocess.run([*git, *command], check=True)
    (root / "changed.py").write_text("not committed\n")
    (root / "new.py").write_text("not committed\n")
    (root / "removed.py").unlink()
    (root / "ignored").mkdir()
    (root / "ignored" / "large.bin").write_text("")
    return root


def test_the_copy_has_changes_that_are_not_committed_and_no_ignored_files(repository, tmp_path):
    copy = tmp_path / "copy"
    clean_copy(repository, copy)
    files = {path.name: path.read_text() for path in copy.iterdir() if path.is_file()}
    committed = {"kept.py": "committed\n", "moved_here.py": "committed\n", ".gitignore": "ignored/\n"}
    changed = ("changed.py", "new.py", "changed_staged.py", "new_staged.py")
    assert files == committed | dict.fromkeys(changed, "not committed\n")
    tags = subprocess.run(["git", "-C", copy, "tag"], capture_output=True, text=True, check=True)
    assert tags.stdout == "v0.1.0\n"
    assert commit_time(copy) > 1_704_067_200


def test_a_tree_without_git_is_copied_without_what_builds_leave(tmp_path):
    root = tmp_path / "zip"
    left_out = (
        "svg_train/__pycache__/a.pyc",
        ".venv/lib.py",
        "build/d.py",
        "svg_edge.egg-info/PKG-INFO",
        "data/video.py",
        "run/c.py",
    )
    for name in ("svg_train/a.py", "svg_train/data/b.py", ".ci/run", *left_out):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    clean_copy(root, tmp_path / "copy")
    copied = {path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert copied == {"a.py", "b.py", "run"}
    assert commit_time(tmp_path / "copy") == 1_704_067_200
