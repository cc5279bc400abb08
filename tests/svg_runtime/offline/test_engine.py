"""A folder of results keeps to one engine, whatever `auto` or another process would choose."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from svg_common.errors import UsageError
from svg_common.progress import NullListener
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, Bundle
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.offline.dataset import Dataset, open_dataset
from svg_runtime.offline.engine import Engine
from svg_runtime.offline.listing import list_videos
from svg_runtime.offline.options import ForecastOptions
from svg_runtime.offline.ray_run import RayWorker
from svg_runtime.offline.shard import Shard
from tests.svg_runtime.offline.conftest import rows_of

DIGITS = EMBEDDED_FOLDER / "digits.svgb"
CPU = Engine("cpu", "f32", fused=False)


@pytest.fixture
def opened(monkeypatch) -> list[dict[str, Any]]:
    """The arguments with which a model is opened."""
    calls = []
    open_forecaster = Forecaster.open

    def noting(*args, **kwargs):
        calls.append(kwargs)
        return open_forecaster(*args, **kwargs)

    monkeypatch.setattr(Forecaster, "open", noting)
    return calls


@pytest.fixture
def folder(svg_forecast, videos) -> Callable[..., Path]:
    """Make a folder with one video; give what its settings say of the engine otherwise."""

    def make(*arguments: str, **changed: Any) -> Path:
        assert svg_forecast(videos / "yard0.mp4", *arguments)[0] == 0
        file = Path("out/settings.json")
        settings = json.loads(file.read_text())
        settings["engine"] |= changed
        file.write_text(json.dumps(settings))
        return file.parent

    return make


def metadata(out: Path) -> list[dict[str, Any]]:
    return [json.loads(pq.read_schema(file).metadata[b"svg_edge"])["engine"] for file in sorted(out.glob("part-*/*.parquet"))]


def test_every_file_says_what_it_was_computed_by(svg_forecast, videos):
    svg_forecast(videos / "yard0.mp4", "--keep", "mean")
    said = metadata(Path("out"))
    assert len(said) == 4
    assert all((each["backend"], each["computes_in"]) == ("cpu", "f32") for each in said)
    assert "ONNX Runtime" in said[0]["description"]
    assert json.loads(Path("out/settings.json").read_text())["engine"] == said[0]


def test_auto_goes_on_with_the_engine_of_the_folder(svg_forecast, videos, folder, opened):
    folder()
    code, message, _ = svg_forecast(videos, "--backend", "auto", "--calibrate", "again")
    assert (code, opened[-1]["backend"], opened[-1]["calibrate"]) == (0, "cpu", None), message
    svg_forecast(videos, out="whole")
    assert rows_of(Path("out")) == rows_of(Path("whole"))
    assert {each["backend"] for each in metadata(Path("out"))} == {"cpu"}


def test_another_backend_is_refused_with_the_one_to_give(svg_forecast, videos, folder):
    folder()
    for source in (videos, videos / "yard0.mp4"):  # also where nothing is left to do
        code, message, _ = svg_forecast(source, "--backend", "openvino")
        assert code == 2
        assert "computed by cpu in f32" in message
        assert "give --backend cpu" in message
    assert rows_of(Path("out"))["videos"].num_rows == 1


def test_the_same_backend_that_computes_in_something_else_is_refused(svg_forecast, videos, folder):
    folder(computes_in="bf16 and f32")
    code, message, _ = svg_forecast(videos, "--backend", "auto")
    assert code == 2
    assert "computed by cpu in bf16 and f32; here it is cpu in f32" in message
    assert rows_of(Path("out"))["videos"].num_rows == 1


def test_openvino_keeps_to_f32_where_it_would_choose_bf16(svg_forecast, videos, folder, opened):
    pytest.importorskip("openvino")
    folder("--backend", "openvino", "--device", "CPU:f32")
    for backend in ("auto", "openvino"):
        assert svg_forecast(videos, "--backend", backend)[0] == 0
        assert (opened[-1]["backend"], opened[-1]["device"]) == ("openvino", "CPU:f32")
    assert {each["computes_in"] for each in metadata(Path("out"))} == {"f32"}
    svg_forecast(videos, "--backend", "openvino", "--device", "CPU:f32", out="whole")
    assert rows_of(Path("out")) == rows_of(Path("whole"))


def test_an_engine_that_is_not_here_is_named(svg_forecast, videos, folder):
    folder(backend="tensorrt-rtx", computes_in="f16")
    code, message, _ = svg_forecast(videos, "--backend", "auto")
    assert (code, "computed by tensorrt-rtx in f16" in message) == (4, True), message


def test_results_from_before_engines_were_noted_go_on(svg_forecast, videos, folder):
    file = folder() / "settings.json"
    settings = json.loads(file.read_text())
    del settings["engine"]
    file.write_text(json.dumps(settings))
    assert svg_forecast(videos)[0] == 0
    assert json.loads(file.read_text())["engine"]["backend"] == "cpu"


@pytest.mark.parametrize("engine", [1, {"back": "cpu"}, {"backend": 1, "computes_in": "f32"}])
def test_damaged_settings_of_the_engine_are_said(svg_forecast, videos, folder, engine):
    file = folder() / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"engine": engine}))
    code, message, _ = svg_forecast(videos)
    assert (code, "settings.json' is damaged" in message) == (2, True), message


def test_a_process_that_chose_at_the_same_time_takes_the_choice_of_the_first(tmp_path, monkeypatch, opened):
    options = ForecastOptions(sources=(), out=tmp_path, backend="auto", threads=1, samples=2, horizon=3)
    first = replace(CPU, shuffled=False)  # which `auto` alone leaves to the backend
    agree = Dataset.agree_on_engine

    def later(self, engine):
        agree(self, first)
        return agree(self, engine)

    monkeypatch.setattr(Dataset, "agree_on_engine", later)
    with open_dataset(tmp_path, {}, Shard()) as dataset, options.open_alike(dataset, DIGITS, NullListener()) as forecaster:
        assert forecaster.backend == "cpu"
    assert [call["backend"] for call in opened] == ["auto", "cpu"]
    assert opened[1]["shuffled"] is False


def test_a_worker_of_ray_keeps_to_the_engine_too(tmp_path, videos, opened):
    options = ForecastOptions(sources=(), out=tmp_path, backend="auto", threads=1, samples=2, horizon=3)
    (video,) = list_videos([str(videos / "yard0.mp4")]).videos
    with open_dataset(tmp_path, options.settings(Bundle.open(DIGITS).manifest, "digits"), Shard()) as dataset:
        dataset.agree_on_engine(CPU)
        worker = RayWorker(options, pickle.loads(pickle.dumps(dataset.at(tmp_path))), DIGITS)
        worker({"videos": json.dumps([vars(video)])})
    assert opened[-1]["backend"] == "cpu"
    assert {each["backend"] for each in metadata(tmp_path)} == {"cpu"}


def test_what_auto_measured_is_opened_again_with_what_the_user_leaves_open():
    asked = {"backend": "auto", "calibrate": "again", "device": None, "threads": None, "precision": None}
    engine = Engine("openvino", "bf16", precision="bf16", fused=False, shuffled=True, threads=1)
    assert engine.choices(asked) == {
        "backend": "openvino", "calibrate": None, "device": None, "threads": 1, "precision": "bf16", "fused": False,
        "shuffled": True,
    }  # fmt: skip
    assert engine.choices({**asked, "device": "CPU:bf16", "threads": 2})["precision"] is None
    assert engine.choices({**asked, "threads": 2})["threads"] == 2
    with pytest.raises(UsageError, match="give --backend openvino"):
        engine.choices({**asked, "backend": "cpu"})


def test_alarms_by_a_surprise_that_the_model_does_not_have_are_refused(svg_forecast, videos, family_bundle):
    """The refused run leaves nothing in the way of the next one."""
    chosen = videos / "yard0.mp4", "--model", family_bundle("deterministic")
    code, message, _ = svg_forecast(*chosen, "--alarm-signal", "surprise")
    assert (code, "--alarm-signal is surprise, which this model does not have" in message) == (2, True), message
    assert svg_forecast(*chosen, "--alarm-signal", "error")[0] == 0
    code, message, _ = svg_forecast(*chosen, "--alarm-signal", "motion")
    assert (code, "alarm_signal: error there, motion now" in message) == (2, True), message
