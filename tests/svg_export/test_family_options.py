"""Options of svg-export that have no effect on a family are refused before anything is written."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from svg_common.errors import UsageError
from svg_export.cli import app
from tests.families import save_tiny


@pytest.mark.parametrize("option", ["--no-fused", "--no-shuffled"])
@pytest.mark.parametrize("name", ["srvp", "srvp-skips", "convlstm"])
def test_options_of_separate_graphs_are_refused_where_a_family_has_none(name, option, tmp_path):
    checkpoint = save_tiny(name, tmp_path / "ckpt.pt")
    result = CliRunner().invoke(app, [str(checkpoint), option, "--out", str(tmp_path / "m.svgb")])
    assert isinstance(result.exception, UsageError)
    assert option in str(result.exception)
    assert "remove" in str(result.exception)
    assert not (tmp_path / "m.svgb").exists()


@pytest.mark.parametrize("name", ["spatial", "convlstm"])
def test_euler_steps_are_refused_where_a_family_has_none(name, tmp_path):
    checkpoint = save_tiny(name, tmp_path / "ckpt.pt")
    result = CliRunner().invoke(app, [str(checkpoint), "--euler-steps", "2", "--out", str(tmp_path / "m.svgb")])
    assert isinstance(result.exception, UsageError)
    assert "--euler-steps has no effect" in str(result.exception)
