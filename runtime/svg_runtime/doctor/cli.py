"""`svg-doctor`: looks at this machine and prints what belongs in a bug report."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from svg_common.command import run_command, stderr_console
from svg_common.errors import ExitCode
from svg_common.files import write_json
from svg_common.outputs import check_outputs
from svg_common.progress import ProgressDisplay
from svg_common.version import VersionOption
from svg_runtime.doctor.check import Check, stop_checks
from svg_runtime.doctor.finding import Finding
from svg_runtime.doctor.privacy import anonymous, private_names
from svg_runtime.doctor.report import BACKENDS, INSTALLED, Report, as_json, can_run, text_lines, unchecked

app = typer.Typer(pretty_exceptions_enable=False)

_AT_ONCE = 2  # engines start threads for every core
_POLL_S = 0.05

JsonOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as JSON, too.")]


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def doctor(json: JsonOption = None, version: VersionOption = False) -> None:
    """Look at this machine: what is installed, which backends, cameras, codecs and display work, and what to do where not.

    Nothing is changed, and nothing is sent anywhere. Paste the output into a bug report: it has no user or host names.

    Exit codes: 0 svg-live can run, 1 error, such as checks that cannot be started, 2 usage, 4 it cannot, 130 Ctrl-C.
    """
    check_outputs({"--json": json})
    report = _examine(all_checks())
    print(*text_lines(report), sep="\n")
    if json is not None:
        write_json(json, as_json(report))
    if unchecked(report) is not None:
        raise typer.Exit(ExitCode.ERROR)
    if not can_run(report):
        raise typer.Exit(ExitCode.BACKEND_MISSING)


def all_checks() -> list[Check]:
    """What is looked at, in the order of the report."""
    from svg_runtime.backends import BACKENDS as NAMES

    return [
        Check(INSTALLED, "installed"),
        Check(INSTALLED, "opencv", advice="pip install --force-reinstall opencv-python", label="import cv2"),
        Check(INSTALLED, "pyav", advice="pip install --force-reinstall av", label="import av"),
        Check("Machine", "machine"),
        *(Check(BACKENDS, "backend", (name,), limit_s=120.0, advice=f"do not use --backend {name}") for name in NAMES),
        Check("Cameras", "cameras", limit_s=20.0, advice="unplug the camera, and plug it in again"),
        Check("Codecs", "codecs"),
        Check("Display", "display", limit_s=20.0, advice="run without a window: svg-live --headless --output forecast.mp4"),
        Check("Models", "models"),
        Check("Storage", "storage", advice="choose another cache folder: export SVG_EDGE_CACHE=DIR"),
    ]


def _examine(checks: list[Check]) -> Report:
    names = private_names()
    report: Report = {}
    with ProgressDisplay(stderr_console()) as display, ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = [pool.submit(check.run) for check in checks]
        try:
            for done, (check, answer) in enumerate(zip(checks, answers, strict=True)):
                display.progress("looking at this machine", done / len(checks), check.title)
                report.setdefault(check.title, []).extend(_without_names(finding, names) for finding in answer.result())
        except BaseException:  # Ctrl-C does not reach processes that lead groups of their own
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(answer.done() for answer in answers):  # one may be just starting
                stop_checks()
                time.sleep(_POLL_S)
            raise
    return report


def _without_names(finding: Finding, names: tuple[str, str, str]) -> Finding:
    return replace(finding, detail=anonymous(finding.detail, names), advice=anonymous(finding.advice, names))


def main() -> NoReturn:
    """Entry point of `svg-doctor`."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    run_command(app)
