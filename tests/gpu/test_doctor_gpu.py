"""What svg-doctor says of a backend whose GPU is there."""

from __future__ import annotations

import pytest

from svg_runtime import Forecaster
from svg_runtime.backends import WITH_ENGINES
from svg_runtime.bundle.reader import EMBEDDED_MODEL
from svg_runtime.doctor.sections import backend

pytestmark = pytest.mark.gpu


def test_a_backend_works_or_waits_for_its_engines(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))  # no engine is ready
    [finding] = backend.check(name)
    assert finding.state == ("untried" if name in WITH_ENGINES else "ok"), finding
    assert ("engine" in finding.detail) == (name in WITH_ENGINES)
    if finding.state == "untried":  # then as it advises: svg-live takes 8 samples
        with Forecaster.open(EMBEDDED_MODEL, backend=name, samples=8, horizon=10) as forecaster:
            forecaster.warm_up()
        [finding] = backend.check(name)
        assert finding.state == "ok", finding
