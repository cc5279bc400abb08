"""The workflow of a release, which runs nowhere but on GitHub: valid, and made of commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml
from typer.main import get_command

import noxfile
from release.__main__ import app
from tests.test_documentation import parse_errors

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
TEXT = (WORKFLOWS / "release.yml").read_text(encoding="utf-8")
RELEASE = yaml.safe_load(TEXT)
JOBS = RELEASE["jobs"]
COMMANDS = [step["run"] for job in JOBS.values() for step in job.get("steps", ()) if "run" in step]


def test_workflows_are_valid_by_the_schema_of_github(tmp_path):
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    assert subprocess.run([*check, *WORKFLOWS.glob("*.yml")], capture_output=True, timeout=60).returncode == 0
    wrong = tmp_path / "release.yml"
    wrong.write_text(TEXT.replace("runs-on:", "runs_on:"))
    assert subprocess.run([*check, wrong], capture_output=True, timeout=60).returncode == 1


def test_nothing_is_published_before_the_check_the_tests_and_the_package():
    assert RELEASE[True] == {"push": {"tags": ["v*"]}}  # "on" is true in YAML
    needs = {name: job.get("needs") for name, job in JOBS.items()}
    assert needs == {
        "prepared": None, "tests": "prepared", "package": "prepared", "pypi": ["tests", "package"], "github": "pypi",
    }  # fmt: skip
    assert 'python -m release check "$GITHUB_REF_NAME"' in COMMANDS
    assert "workflow_call" in yaml.safe_load((WORKFLOWS / "ci.yml").read_text(encoding="utf-8"))[True]
    assert JOBS["tests"]["uses"] == "./.github/workflows/ci.yml"


def test_every_job_of_ci_is_named_where_contributors_read():
    jobs = yaml.safe_load((WORKFLOWS / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [job for job in jobs if f"`{job}`" not in text] == []


def test_only_the_jobs_that_publish_may_write_and_there_is_no_secret():
    assert RELEASE["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "pypi": {"id-token": "write"},
        "github": {"contents": "write", "id-token": "write", "attestations": "write"},
    }
    assert JOBS["pypi"]["environment"]["name"] == "pypi"
    assert "secrets." not in TEXT


def test_the_version_can_be_read_where_the_package_is_built():
    checkout = next(step for step in JOBS["package"]["steps"] if step.get("uses", "").startswith("actions/checkout@"))
    assert checkout["with"]["fetch-depth"] == 0


def test_its_commands_exist():
    """Of ours: python -m release, nox sessions and svg-export."""
    group = get_command(app)
    script = "\n".join(COMMANDS)
    ours = re.findall(r"python -m release (\w+)", script)
    assert set(ours) == {"check", "notes"} <= set(group.commands)
    sessions = re.findall(r"nox --non-interactive -s (\w+)", script)
    assert sessions == ["package"]
    assert callable(noxfile.package)
    assert "svg-export" in script
    assert parse_errors([script], whole=True) == []
