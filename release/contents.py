"""What is in the wheel and the sdist: all files of the packages, and nothing that does not belong there."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from release.readme import relative_links

PACKAGES = ("svg_adapt", "svg_common", "svg_eval", "svg_export", "svg_runtime", "svg_train")
LIMIT_MB = 10  # of one file
_FOLDERS = ("", "export", "runtime")  # that hold import packages
# A few of which the rest follows: a tree without them is not the one that we want to compare with.
_MUST_HAVE = (
    *(f"{package}/__init__.py" for package in PACKAGES),
    *(f"{package}/py.typed" for package in ("svg_common", "svg_runtime", "svg_train")),  # those with public Python
    "svg_runtime/embedded/camera.svgb/manifest.json",
    "svg_runtime/embedded/digits.svgb/manifest.json",
    "svg_train/models/camera.pt",
    "svg_train/recipes/camera.toml",
)
_METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
_BESIDE = {
    "CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "SECURITY.md", "constraints.txt", "pyproject.toml",
    "setup.cfg",
}  # fmt: skip
_HOME = re.compile(rb"/(?:home|Users|root)/[\w.-]+")

Files = Mapping[str, bytes]


def package_files(tree: Path) -> dict[str, bytes]:
    """Path from `tree` -> content, of every file of the packages."""
    files = {}
    for folder in _FOLDERS:
        for package in filter(Path.is_dir, (tree / folder).glob("svg_*")):
            for file in package.rglob("*"):
                if file.is_file() and "__pycache__" not in file.parts and not package.name.endswith(".egg-info"):
                    files[file.relative_to(tree).as_posix()] = file.read_bytes()
    return files


def wheel_problems(wheel: Path, expected: Files, tree: Path) -> list[str]:
    """Compare a wheel with `package_files(tree)`; empty if it is right."""
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in found if re.fullmatch(r"svg_edge-[^/]+\.dist-info/.+", name)}
    modules = {name: content for name, content in found.items() if name not in metadata}
    installed = {_without_folder(name): content for name, content in expected.items()}
    beside = {name.partition("/")[2] for name in metadata}
    return [
        *_differences(modules, installed),
        *(f"{name} is missing" for name in _MUST_HAVE if name not in modules),
        *(f"metadata: {name}" for name in sorted(beside ^ _METADATA)),
        *_dead_links(found),
        *_unwanted(found, tree),
    ]


def sdist_problems(sdist: Path, expected: Files, tree: Path) -> list[str]:
    """Compare an sdist with `package_files(tree)`; empty if it is right."""
    with tarfile.open(sdist) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        found = {member.name.partition("/")[2]: _read(archive, member) for member in files}
    beside = {name for name in found if name in _BESIDE or name.startswith("svg_edge.egg-info/")}
    return [
        *_differences({name: content for name, content in found.items() if name not in beside}, expected),
        *(f"{name} is missing" for name in sorted(_BESIDE - beside)),
        *_dead_links(found),
        *_unwanted(found, tree),
    ]


def _differences(found: Files, expected: Files) -> Iterator[str]:
    yield from (f"{name} is missing" for name in sorted(expected.keys() - found.keys()))
    yield from (f"{name} does not belong there" for name in sorted(found.keys() - expected.keys()))
    both = sorted(found.keys() & expected.keys())
    yield from (f"{name} is not the file of the tree" for name in both if found[name] != expected[name])


def _dead_links(found: Files) -> Iterator[str]:
    """Links of the package's page, which is made from these two files."""
    for name, content in found.items():
        if name.endswith(".dist-info/METADATA") or name == "PKG-INFO":
            for target in relative_links(content.decode()):
                yield f"{name} has a link that is dead on PyPI: {target}"


def _unwanted(found: Files, tree: Path) -> Iterator[str]:
    """Files that are too large, and names of folders of the machine that built it."""
    for name, content in found.items():
        if len(content) > LIMIT_MB * 1e6:
            yield f"{name} has {len(content) / 1e6:.1f} MB; at most {LIMIT_MB} are allowed"
        place = str(tree).encode() if str(tree).encode() in content else None
        home = _HOME.search(content)
        if place or home:
            yield f"{name} names a folder of a machine: {(place or home[0]).decode(errors='replace')}"  # type: ignore[index]


def _without_folder(name: str) -> str:
    """The path in the wheel."""
    first, _, rest = name.partition("/")
    return rest if first in _FOLDERS else name


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()
