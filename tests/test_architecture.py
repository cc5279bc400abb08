"""The shape of the repository: what the README says of the files is true."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (ROOT / "svg_common", ROOT / "svg_train", ROOT / "export" / "svg_export", ROOT / "runtime" / "svg_runtime")


def test_readme_names_every_module_once_and_no_other():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- map -->\n(.*?)<!-- /map -->", text, re.S)
    assert block, "README.md has no map of the files"
    named = re.findall(r"^\| `([^`]+)` \|", block.group(1), re.M)
    assert len(named) == len(set(named))
    existing = {
        str(path.relative_to(ROOT)) for package in PACKAGES for path in package.iterdir()
        if path.name not in ("__init__.py", "__pycache__", "py.typed")
    }  # fmt: skip
    described = {name.rstrip("/") for name in named if name.startswith(("svg_", "export/", "runtime/"))}
    assert described == existing
    for name in named:
        assert (ROOT / name).exists(), name


def test_relative_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_command_flag_in_the_readme_exists():
    from typer.main import get_command

    from svg_eval.cli import app as evaluation
    from svg_export.cli import app as export
    from svg_runtime.bench.cli import app as bench
    from svg_runtime.live.cli import app as live
    from svg_train.cli import app as train

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = {"svg-train": train, "svg-export": export, "svg-eval": evaluation, "svg-live": live, "svg-bench": bench}
    for name, app in commands.items():
        known = {option for parameter in get_command(app).params for option in parameter.opts} | {"--help"}
        for line in re.findall(rf"(?:^|\s|/){name} ([^`\n#&]*)", text):
            for flag in re.findall(r"--[a-z][a-z0-9-]*", line):
                assert flag in known, f"{name} {flag}"
