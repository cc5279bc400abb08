"""Whether memory grows over many forecasts while another program keeps a core busy: `--forecasts 10000`."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from goal_metrics import GoalMetric

from svg_runtime.backends.base import Backend
from svg_runtime.bundle.reader import Bundle

_LOG = logging.getLogger("svg_benchmarks")
BUNDLES = ("embedded",)

GROWTH_MB = 1.0  # a leak of one frame per forecast would be 164 MB over 10,000
# Runs beside the forecasts: memory that an engine holds for a late thread only adds up if threads are late.
BUSY_CODE = "while True: pass"


def test_memory_growth(
    measured: Any, bundle: Bundle, backend: Backend, record_metric: Any, pytestconfig: pytest.Config
) -> None:
    count = pytestconfig.getoption("forecasts") if measured.enabled else 20
    script = Path(__file__).with_name("memory_loop.py")
    answers = []

    def loop() -> None:
        command = [sys.executable, str(script), str(bundle.path), backend.name, str(count)]
        with subprocess.Popen([sys.executable, "-c", BUSY_CODE]) as busy:
            try:
                answers.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            finally:
                busy.kill()

    _LOG.info("%s: %d forecasts", bundle.path.stem, count)
    measured.group = f"observe and forecast {count} times"
    measured.pedantic(loop, rounds=1)
    if answers[-1] is None:
        pytest.skip("this system does not report the memory of a process")
    measured.extra_info.update(forecasts=count, resident_bytes=answers[-1])
    growth_mb = (answers[-1]["end"] - answers[-1]["after_warm_up"]) / 1e6
    name = f"resident memory, growth over {count} forecasts beside a busy program, after half as many: {bundle.path.stem}"
    record_metric(GoalMetric(name, growth_mb, "MB", GROWTH_MB))
