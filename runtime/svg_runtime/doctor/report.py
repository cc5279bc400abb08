"""The report, as text and as JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Any

import svg_runtime
from svg_runtime.doctor.finding import Finding

Report = dict[str, list[Finding]]  # heading -> findings

INSTALLED, BACKENDS = "Installed", "Backends"  # the headings that decide whether svg-live can run
_NEEDED = ("import cv2", "import av")
_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")
_COLUMNS = 80
_MARKS = {"ok": "ok", "untried": " ?", "missing": "--", "problem": "!!", "unchecked": "??", "info": "  "}
_NAME_WIDTH = 18
_ADVICE_INDENT = 6


def can_run(report: Report) -> bool:
    """Whether one backend at least works, or has all that it needs, and what every run needs can be imported."""
    return _broken(report) is None and unchecked(report) is None and _usable_backends(report) != []


def unchecked(report: Report) -> Finding | None:
    """The check that could not be started and without which it is not known whether svg-live can run; None: it is known."""
    if _broken(report) is not None:
        return None
    needed = [finding for finding in report.get(INSTALLED, []) if finding.name in _NEEDED]
    deciding = needed if _usable_backends(report) else [*needed, *report.get(BACKENDS, [])]
    return next((finding for finding in deciding if finding.state == "unchecked"), None)


def working_backends(report: Report) -> list[str]:
    """Names of the backends that forecast something."""
    return [finding.name for finding in report.get(BACKENDS, []) if finding.state == "ok"]


def verdict(report: Report) -> str:
    """One sentence: whether svg-live can run."""
    broken, working = _broken(report), working_backends(report)
    untried = [finding.name for finding in report.get(BACKENDS, []) if finding.state == "untried"]
    if broken is not None:
        return f"svg-live cannot run here: {broken.name} fails. Start with: {broken.advice}"
    unknown = unchecked(report)
    if unknown is not None:
        return f"It is not known whether svg-live can run here: {unknown.name}: {unknown.detail}. Start with: {unknown.advice}"
    if not working and untried:
        return f"svg-live may run here, when engines are built: {', '.join(untried)} not tried."
    if not working:
        return f"svg-live cannot run here: no backend works. Start with: pip install {_first_package(report)}"
    verb = "works" if len(working) == 1 else "work"
    return f"svg-live can run here: {', '.join(working)} {verb}."


def _broken(report: Report) -> Finding | None:
    return next((one for one in report.get(INSTALLED, []) if one.name in _NEEDED and one.state == "problem"), None)


def _usable_backends(report: Report) -> list[Finding]:
    return [finding for finding in report.get(BACKENDS, []) if finding.state in ("ok", "untried")]


def _first_package(report: Report) -> str:
    """What pip is to install; one that is there and does not work would be left as it is."""
    there = [one.name for one in report.get(INSTALLED, []) if one.name in _ONNXRUNTIME]
    return f"--force-reinstall {there[0]}" if there else "'svg-edge[cpu]'"


def text_lines(report: Report) -> Iterable[str]:
    """Plain text of 80 columns; only what is to be copied, such as a command, may be longer."""
    yield f"svg-doctor {svg_runtime.__version__}"
    yield from textwrap.wrap(verdict(report), _COLUMNS, break_on_hyphens=False)
    for title, findings in report.items():
        yield ""
        yield title
        for finding in findings:
            yield from _lines(finding)
    yield ""
    yield "ok: works   ?: not tried   --: not available   !!: a problem   ??: not checked"


def as_json(report: Report) -> dict[str, Any]:
    """The same for programs."""
    return {
        "schema_version": 1,
        "svg_edge": svg_runtime.__version__,
        "can_run": can_run(report),
        "sections": {title: [finding.as_json() for finding in findings] for title, findings in report.items()},
    }


def _lines(finding: Finding) -> Iterable[str]:
    start = f"  {_MARKS[finding.state]}  {finding.name:<{_NAME_WIDTH}} "
    indent = " " * (2 + 2 + 2 + _NAME_WIDTH + 1)
    yield from textwrap.wrap(
        finding.detail, _COLUMNS, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [start.rstrip()]  # fmt: skip
    for line in finding.advice.splitlines():
        for step in re.split(r"(?<=;) ", line.strip()):
            yield f"{' ' * _ADVICE_INDENT}> {step.removesuffix(';')}"
