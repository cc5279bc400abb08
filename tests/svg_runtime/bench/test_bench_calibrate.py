"""The choice of `auto`, measured ahead of time and carried to another machine."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from svg_common.errors import ExitCode
from svg_runtime import Forecaster
from svg_runtime.bench.cli import app
from svg_runtime.calibration import choice, decisions
from svg_runtime.errors import BackendMissingError, UsageError
from tests.svg_runtime.choice_helpers import know_only_the_cpu_backend

NO_DECISION = "decision.json': it is not a decision of svg-bench --calibrate\n"
SMALL = ["--samples", "2", "--horizon", "2"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    know_only_the_cpu_backend(monkeypatch, tmp_path / "cache", cores=2)
    return tmp_path / "cache"


def run(bundle, *options):
    return CliRunner().invoke(app, ["--model", str(bundle), *SMALL, *map(str, options)])


def test_the_table_ends_with_the_choice_that_auto_then_takes(fused_bundle, tmp_path):
    result = run(fused_bundle, "--calibrate", "ready", "--json", tmp_path / "decision.json")
    assert result.exit_code == 0, result.output
    *measured, chosen = result.stdout.splitlines()
    names = [line.partition("  ")[0] for line in measured]
    assert names[:3] == ["cpu fp32 separate", "cpu fp32 fused", "cpu fp32 shuffled"]
    assert names[3] in [f"{name}, 1 thread" for name in names[:3]]
    assert chosen in [f"auto takes {name}" for name in names]
    with Forecaster.open(fused_bundle, samples=2, horizon=2) as forecaster:
        kept = json.loads((tmp_path / "decision.json").read_text())["decision"]
        assert forecaster.decision.as_json() == kept


def test_a_decision_travels_to_a_machine_that_measures_nothing(fused_bundle, tmp_path, monkeypatch):
    assert run(fused_bundle, "--calibrate", "ready", "--json", tmp_path / "decision.json").exit_code == 0
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(choice, "find_fastest", lambda **_: pytest.fail("measured"))
    about = json.loads((tmp_path / "decision.json").read_text())
    about["decision"]["way"].update(fused=not about["decision"]["way"]["fused"], shuffled=False, threads=1)
    about["decision"].update(busy=True, measured_s=1.0)  # what is carried by name stays in force
    (tmp_path / "decision.json").write_text(json.dumps(about))
    open_forecaster = Forecaster.open
    with monkeypatch.context() as patch:

        def open_with_progress(path, progress, **options):
            patch.setattr(decisions, "_free_memory_class", lambda: 29)  # engines take the rest
            progress.progress("building an engine", 0.0)
            return open_forecaster(path, progress=progress, **options)

        patch.setattr(Forecaster, "open", open_with_progress)
        taken = run(fused_bundle, "--decision", tmp_path / "decision.json")
    assert taken.exit_code == 0, taken.output
    assert "building an engine" in taken.stderr
    with Forecaster.open(fused_bundle, samples=2, horizon=2) as forecaster:
        assert forecaster.fused == about["decision"]["way"]["fused"]
        assert forecaster.decision.way.threads == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda about: "text", NO_DECISION, marks=pytest.mark.slow),
        pytest.param(lambda about: {}, NO_DECISION, marks=pytest.mark.slow),
        pytest.param(lambda about: [1], NO_DECISION, marks=pytest.mark.slow),
        pytest.param(lambda about: {**about, "decision": None}, NO_DECISION, marks=pytest.mark.slow),
        (lambda about: {**about, "decision": {}}, NO_DECISION),
        (lambda about: {**about, "decision": {**about["decision"], "rows": []}}, NO_DECISION),
        (lambda about: {**about, "made_for": {**about["made_for"], "horizon": 9}}, "was made for other horizon"),
        (lambda about: {**about, "made_for": {**about["made_for"], "graphs": []}}, "was made for other graphs"),
    ],
)
def test_a_decision_for_something_else_is_refused(fused_bundle, tmp_path, change, message):
    file = tmp_path / "decision.json"
    assert run(fused_bundle, "--calibrate", "ready", "--json", file).exit_code == 0
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    result = run(fused_bundle, "--decision", file)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert ("cannot read the decision" in str(result.exception)) == (message == NO_DECISION)


def test_a_decision_that_does_not_open_here_is_refused_and_not_kept(fused_bundle, tmp_path, cache):
    file = tmp_path / "decision.json"
    assert run(fused_bundle, "--calibrate", "ready", "--json", file).exit_code == 0
    about = json.loads(file.read_text())
    about["decision"]["way"].update(backend="openvino", device="GPU.9")
    file.write_text(json.dumps(about))
    (kept,) = (cache / "calibration").iterdir()
    before = kept.read_bytes()
    result = run(fused_bundle, "--decision", file)
    assert result.exception.exit_code == ExitCode.BACKEND_MISSING
    assert kept.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--backend", "cpu"], "--backend"), (["--device", "CPU"], "--device"), (["--seed", "0"], "--seed"),
     (["--seconds", "5", "--seed", "1"], "--seed, --seconds")],
)  # fmt: skip
@pytest.mark.parametrize("asked", [["--calibrate", "ready"], ["--decision", "decision.json"]])
def test_what_says_nothing_about_the_choice_is_refused(fused_bundle, asked, options, named):
    result = run(fused_bundle, *asked, *options)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).startswith(f"{named} has no effect with --calibrate and --decision")


def test_a_decision_that_is_not_there_is_said_to_be_missing(fused_bundle, tmp_path):
    assert "none.json': No such file or directory\n" in str(run(fused_bundle, "--decision", tmp_path / "none.json").exception)


def test_both_or_an_output_over_the_input_are_refused(fused_bundle, tmp_path):
    file = tmp_path / "decision.json"
    file.write_text("{}")
    assert "both --calibrate and --decision" in str(run(fused_bundle, "--calibrate", "full", "--decision", file).exception)
    assert "would overwrite" in str(run(fused_bundle, "--decision", file, "--json", file).exception)


def test_without_the_cpu_backend_nothing_can_be_compared(fused_bundle, monkeypatch):
    monkeypatch.setattr(choice, "find_fastest", lambda **_: (None, []))
    result = run(fused_bundle, "--calibrate", "ready")
    assert isinstance(result.exception, BackendMissingError)
    assert "nothing can be compared" in str(result.exception)
