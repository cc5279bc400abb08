"""The README on the package's page at PyPI, which has no files beside it: links lead to GitHub."""

from __future__ import annotations

import re
from pathlib import Path

GITHUB = "https://github.com/svg-edge/svg-edge/blob"  # followed by a tag and a file
_PICTURES = "https://raw.githubusercontent.com/svg-edge/svg-edge"
_ABSOLUTE = r"(?:https?:|mailto:|#)"
_MARKDOWN = re.compile(rf"(?P<picture>!?)(?P<text>\[[^\[\]]*\])\((?!{_ABSOLUTE})(?P<target>[^)\s]+)\)")
# Those that `link_to_github` does not know, too: reference definitions, and HTML.
_RELATIVE = re.compile(rf"(?m)(?:\]\(|^\[[^\]]+\]:\s*|\b(?:src|href)=[\"'])(?!{_ABSOLUTE})(?P<target>[^)\s\"']+)")


def link_to_github(tree: Path, version: str) -> None:
    """Let the relative links of `tree`/README.md lead to the files of a version on GitHub."""

    def absolute(link: re.Match[str]) -> str:
        folder = _PICTURES if link["picture"] else GITHUB
        return f"{link['picture']}{link['text']}({folder}/v{version}/{link['target']})"

    readme = tree / "README.md"
    readme.write_text(_MARKDOWN.sub(absolute, readme.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


def relative_links(text: str) -> list[str]:
    """Targets of the links and pictures that lead to files beside a Markdown text."""
    return [link["target"] for link in _RELATIVE.finditer(text)]
