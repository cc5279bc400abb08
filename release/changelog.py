"""The changelog of a release, and the files beside it that state a version: `CITATION.cff` and the ROS package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keepachangelog
from packaging.version import Version

from release.readme import GITHUB
from svg_common.errors import SvgError, UsageError

CHANGELOG = "CHANGELOG.md"
# File -> what stands before and after its version.
STATED = {
    "CITATION.cff": (r"^version: ", r"$"),
    "integrations/ros2/svg_edge_ros/package.xml": (r"^  <version>", r"</version>$"),
}
_UNRELEASED = "unreleased"
_NOTES_LIMIT = 120_000  # characters; GitHub refuses a release whose text has more than 125,000
_HEADINGS = {"added", "changed", "deprecated", "removed", "fixed", "security"}  # of Keep a Changelog
_VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


class ReleaseError(SvgError):
    """The tree does not say what the tag says."""


def notes(root: Path, tag: str) -> str:
    """The section of `tag` in the changelog, in Markdown, without its heading.

    Of a section that GitHub would refuse for its length: its first entries, and a link to all of them.

    Raises:
        UsageError: the tag has another form than v0.2.0.
        ReleaseError: there is no such section.
    """
    version = version_of(tag)
    sections = keepachangelog.to_raw_dict(str(root / CHANGELOG))
    if version not in sections:
        raise ReleaseError(
            f"{CHANGELOG} has no section for {tag}, only for: {', '.join(sections) or 'no release yet'}\n"
            f"  make it before the tag, with: python -m release prepare {version}"
        )
    text: str = sections[version].get("raw", "")
    text = re.sub(r"\n(?=### )", "\n\n", text.strip()) + "\n"
    return text if len(text) <= _NOTES_LIMIT else _first_entries(text, tag)


def check(root: Path, tag: str) -> None:
    """Refuse a tag that the tree is not prepared for.

    Raises:
        UsageError: the tag has another form than v0.2.0.
        ReleaseError: changelog, citation or the ROS package say otherwise; all of it is listed.
    """
    notes(root, tag)
    version = version_of(tag)
    section = _sections(root)[version]
    problems = [f"{file} states {found}" for file, found in stated_versions(root).items() if found != version]
    headings = section.keys() - {"metadata"}
    if not any(section[heading] for heading in headings):
        problems.append(f"the section of {version} in {CHANGELOG} is empty")
    if headings - _HEADINGS:
        problems.append(f"headings that Keep a Changelog does not have: {', '.join(sorted(headings - _HEADINGS))}")
    if not _DATE.fullmatch(section["metadata"]["release_date"] or ""):
        problems.append(f"the section of {version} in {CHANGELOG} has no date; expected: ## [{version}] - 2026-01-31")
    if problems:
        raise ReleaseError(f"the tree is not {tag}:\n  " + "\n  ".join(problems))


def prepare(root: Path, version: str) -> None:
    """Give what is under Unreleased the version and today's date, and state the version in the other files.

    Raises:
        UsageError: not a version such as 0.2.0, or not a later one than the last release.
        ReleaseError: nothing is unreleased.
    """
    version = version_of(f"v{version}")
    sections = _sections(root)
    unreleased = sections.pop(_UNRELEASED, {})
    released = [Version(each) for each in sections]
    if released and Version(version) <= max(released):
        raise UsageError(f"{version} is not later than the last release, {max(released)}")
    if not any(entries for heading, entries in unreleased.items() if heading != "metadata"):
        raise ReleaseError(f"nothing is under Unreleased in {CHANGELOG}\n  a release says what changed")
    keepachangelog.release(str(root / CHANGELOG), version)
    for name in STATED:
        file = root / name
        file.write_text(_pattern(name).sub(rf"\g<1>{version}\g<3>", file.read_text(encoding="utf-8")), encoding="utf-8")


def stated_versions(root: Path) -> dict[str, str]:
    """File -> the version that it states."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in STATED}
    found = {name: _pattern(name).search(text) for name, text in texts.items()}
    return {name: match[2] if match else "none" for name, match in found.items()}


def released_versions(root: Path) -> list[str]:
    """Versions that have a section in the changelog, the newest first."""
    return [version for version in _sections(root) if version != _UNRELEASED]


def version_of(tag: str) -> str:
    """0.2.0 of v0.2.0.

    Raises:
        UsageError: any other form.
    """
    version = tag.removeprefix("v")
    if version == tag or not _VERSION.fullmatch(version):
        raise UsageError(f"'{tag}' is not the tag of a release\n  expected one such as v0.2.0")
    return version


def _first_entries(text: str, tag: str) -> str:
    """Whole entries from the beginning of a section, as many as GitHub accepts, and where all of them stand."""
    link = f"\n\nShortened; all entries: [{CHANGELOG}]({GITHUB}/{tag}/{CHANGELOG}).\n"
    entries = text[: text.rfind("\n- ", 0, _NOTES_LIMIT - len(link))]
    return re.sub(r"\s*### .*\Z", "", entries) + link  # a heading whose entries are all left out


def _sections(root: Path) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = keepachangelog.to_dict(str(root / CHANGELOG), show_unreleased=True)
    return sections


def _pattern(name: str) -> re.Pattern[str]:
    before, after = STATED[name]
    return re.compile(f"({before})(.+?)({after})", re.M)
