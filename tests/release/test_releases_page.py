"""The table of what was run where: every file that it names exists, and what the files say of themselves is what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")
RESULTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks" / "results").glob("*.json"))


def rows(heading: str) -> list[list[str]]:
    """The cells of a table, by the beginning of its head."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


RUNS = rows("date")


def files_of(row: list[str]) -> list[str]:
    return re.findall(r"`([\w./-]+\.\w+)`", row[-1])


@pytest.mark.parametrize("row", RUNS, ids=lambda row: f"{row[0]} {row[3]}"[:60])
def test_every_run_names_files_that_exist(row):
    date, machine, _, what, _ = row
    assert re.fullmatch(r"\d{4}-\d\d(-\d\d)?|every change", date)
    assert machine
    assert what
    assert files_of(row)
    assert [file for file in files_of(row) if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("file", RESULTS)
def test_every_result_is_in_the_table_with_what_it_says_of_itself(file):
    (row,) = [row for row in RUNS if file in files_of(row)]
    content = json.loads((ROOT / file).read_text(encoding="utf-8"))
    assert row[0] == content.get("date", row[0])
    hardware = content["hardware"]
    assert all(name.split(",")[0].removeprefix("NVIDIA ") in row[1] for name in hardware["gpus"])
    assert hardware["gpus"] or f"{hardware['cores_usable']} cores" in row[1]
    assert ("AMX" in row[1]) == (not hardware["gpus"] and "amx_bf16" in hardware["simd"])
    maker = "Xeon" if "Xeon" in hardware["cpu"] else "EPYC"
    assert hardware["gpus"] or maker in row[1]
    python = content.get("versions", hardware.get("versions", {})).get("python")
    assert python is None or row[2] == "the same" or row[2].startswith(python)


def test_what_was_not_run_is_said():
    """What the other pages say was never run has a line."""
    unrun = " ".join(row[0] for row in rows(r"what \| what there is instead"))
    names = ("Jetson", "tensorrt", "container", "rclpy", "systemd", "Hub", "Windows", "workflow of a release")
    assert [name for name in names if name not in unrun] == []
