"""python -m release: the section of a tag, the check before it, and the files that state a version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from release import changelog
from release.changelog import CHANGELOG, STATED, ReleaseError, check, notes, prepare, released_versions, stated_versions
from svg_common.errors import UsageError

ROOT = Path(__file__).parents[2]
TEXT = """# Changelog

All notable changes.

## [Unreleased]

### Added

- A wheel, in two
  lines.

### Fixed

- A wheel.

## [0.1.0] - 2026-01-31

### Added

- Everything. [unreleased] is no section.
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A changelog with one release, and the real files that state a version, which say the same."""
    (tmp_path / CHANGELOG).write_text(TEXT)
    for name in STATED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    state(tmp_path, "0.1.0")
    return tmp_path


def state(tree: Path, version: str) -> None:
    for name in STATED:
        text = (tree / name).read_text()
        (tree / name).write_text(text.replace(stated_versions(tree)[name], version, 1))


def test_the_notes_are_the_section_of_the_tag(tree):
    assert notes(tree, "v0.1.0") == "### Added\n- Everything. [unreleased] is no section.\n"
    prepare(tree, "0.2.0")
    assert notes(tree, "v0.2.0") == "### Added\n- A wheel, in two\n  lines.\n\n### Fixed\n- A wheel.\n"


@pytest.mark.parametrize("fixed", [1, 2000], ids=["all-of-a-heading", "some-entries"])
def test_notes_that_github_would_refuse_are_whole_entries_and_a_link(tree, fixed):
    """It accepts 125,000 characters. A heading without entries is left out."""
    entry = f"- A {'long ' * 20}entry, in two\n  lines.\n"
    added = 122_000 // len(entry) if fixed == 1 else 10
    text = TEXT.replace("- A wheel, in two\n  lines.\n", entry * added).replace("- A wheel.\n", entry * fixed)
    (tree / CHANGELOG).write_text(text)
    prepare(tree, "0.2.0")
    body, _, link = notes(tree, "v0.2.0").rpartition("\n\n")
    assert 119_000 < len(body) + len(link) < 125_000
    assert link == "Shortened; all entries: [CHANGELOG.md](https://github.com/svg-edge/svg-edge/blob/v0.2.0/CHANGELOG.md).\n"
    assert body.startswith("### Added\n- A long")
    assert body.endswith(entry.rstrip("\n"))
    assert ("### Fixed" in body) == (fixed > 1)


def test_a_prepared_tree_passes_the_check_and_others_do_not(tree):
    check(tree, "v0.1.0")
    with pytest.raises(ReleaseError, match=r"no section for v0\.2\.0, only for: 0\.1\.0\n.*python -m release prepare 0\.2\.0"):
        check(tree, "v0.2.0")
    prepare(tree, "0.2.0")
    assert released_versions(tree) == ["0.2.0", "0.1.0"]
    assert set(stated_versions(tree).values()) == {"0.2.0"}
    check(tree, "v0.2.0")
    with pytest.raises(ReleaseError, match=r"CITATION\.cff states 0\.2\.0"):
        check(tree, "v0.1.0")


@pytest.mark.parametrize("tag", ["0.1.0", "v0.1", "v0.1.0rc1", "v0.1.0.1", "v00.1.0", "main", ""])
def test_a_tag_of_another_form_is_refused(tree, tag):
    with pytest.raises(UsageError, match="is not the tag of a release"):
        check(tree, tag)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("- Everything. [unreleased] is no section.\n", "", "is empty"),
        ("## [0.1.0] - 2026-01-31", "## [0.1.0] - soon", "has no date"),
        ("## [0.1.0] - 2026-01-31\n\n### Added", "## [0.1.0] - 2026-01-31\n\n### News", "does not have: news"),
    ],
)
def test_a_section_has_a_date_entries_and_known_headings(tree, old, new, problem):
    assert old in TEXT
    (tree / CHANGELOG).write_text(TEXT.replace(old, new))
    with pytest.raises(ReleaseError, match=problem):
        check(tree, "v0.1.0")


def test_a_release_is_later_than_the_last_one_and_says_what_changed(tree):
    before = (tree / CHANGELOG).read_text()
    for version in ("0.1.0", "0.0.9"):
        with pytest.raises(UsageError, match=rf"{version} is not later"):
            prepare(tree, version)
    assert (tree / CHANGELOG).read_text() == before
    prepare(tree, "0.10.0")
    with pytest.raises(ReleaseError, match="nothing is under Unreleased"):
        prepare(tree, "0.11.0")


def test_the_files_of_this_tree_state_its_last_release():
    """Before the first one, all the same version."""
    released = released_versions(ROOT)
    stated = set(stated_versions(ROOT).values())
    assert stated == ({released[0]} if released else {"0.1.0"})
    changelog.version_of(f"v{stated.pop()}")


def test_the_changelog_of_this_tree_can_be_released(tmp_path):
    for name in (CHANGELOG, *STATED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    entries = (tmp_path / CHANGELOG).read_text()
    if not released_versions(tmp_path) or "### " in entries.split("## [")[1]:
        prepare(tmp_path, "1000.0.0")
        check(tmp_path, "v1000.0.0")
        text = notes(tmp_path, "v1000.0.0")
        assert text.startswith("### ")
        assert len(text) < 125_000
