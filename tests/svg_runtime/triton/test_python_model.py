"""The model of the Python backend, with a stand-in for Triton's module: it exists in Triton's own process alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from svg_runtime.errors import UsageError
from svg_runtime.triton.python_model import TritonPythonModel
from tests.command_runner import wait_until

START, END = 1, 2


class StandIn(ModuleType):
    """As much of triton_python_backend_utils as the model uses."""

    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = START
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = END

    class TritonError(Exception):
        INVALID_ARG, NOT_FOUND, INTERNAL = "invalid", "not found", "internal"

        def __init__(self, message: str, code: str) -> None:
            super().__init__(message)
            self.code = code

    class Tensor:
        @staticmethod
        def from_dlpack(name: str, capsule: object) -> tuple[str, np.ndarray]:
            shown = SimpleNamespace(__dlpack__=lambda **_: capsule, __dlpack_device__=lambda: (1, 0))
            return name, np.from_dlpack(shown).copy()

    class InferenceResponse:
        def __init__(self, tensors=(), error=None) -> None:
            self.outputs, self.error = dict(tensors), error

    class MetricFamily:
        GAUGE = "gauge"
        values: ClassVar[dict[str, float]] = {}

        def __init__(self, name: str, description: str, kind: str) -> None:
            self.name = name

        def Metric(self, labels):  # noqa: N802 - Triton's name
            return SimpleNamespace(set=lambda value: self.values.update({self.name: value}))

    class Logger:
        said: ClassVar[list[str]] = []

        @classmethod
        def log_info(cls, message: str) -> None:
            cls.said.append(message)

    @staticmethod
    def get_input_tensor_by_name(request, name: str) -> np.ndarray:
        assert name == "frame"
        return request.frame[None]


def request(frame: np.ndarray, sequence: int = 1, flags: int = 0, wanted=("futures", "surprise", "missing_frames")):
    return SimpleNamespace(
        frame=frame, flags=lambda: flags, correlation_id=lambda: sequence, requested_output_names=lambda: set(wanted)
    )


def arguments(folder: Path, idle_s: float = 60.0, **changed) -> dict[str, str]:
    parameters = {"bundle": folder.name, "samples": 2, "horizon": 2, "backend": "cpu", "threads": 1, "SHM": "Triton's own"}
    config = {
        "max_batch_size": 2,
        "sequence_batching": {"max_sequence_idle_microseconds": round(1e6 * idle_s)},
        "parameters": {name: {"string_value": str(value)} for name, value in {**parameters, **changed}.items()},
    }
    return {
        "model_config": json.dumps(config),
        "model_name": "m",
        "model_repository": str(folder.parent.parent),
        "model_version": folder.parent.name,
    }


@pytest.fixture
def triton(monkeypatch) -> StandIn:
    module = StandIn("triton_python_backend_utils")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture
def model(triton, fused_bundle):
    opened = TritonPythonModel()
    opened.initialize(arguments(fused_bundle))
    yield opened
    opened.finalize()


def test_answers_have_the_outputs_that_were_asked_for(model, triton):
    frames = np.random.default_rng(0).random((3, 64, 64, 1), np.float32)
    first, _, third = (
        model.execute([request(frame, flags=START if number == 0 else 0)])[0].outputs for number, frame in enumerate(frames)
    )
    assert set(first) == {"surprise", "missing_frames"}
    assert np.isnan(first["surprise"]).all()
    np.testing.assert_array_equal(first["missing_frames"], [[2]])
    assert third["futures"].shape == (1, 2, 2, 64, 64, 1)
    assert third["futures"].dtype == third["surprise"].dtype == np.float32
    assert third["missing_frames"].dtype == np.int32
    (alone,) = model.execute([request(frames[0], wanted=["missing_frames"])])
    assert set(alone.outputs) == {"missing_frames"}
    assert triton.MetricFamily.values == {"svg_triton_sequences": 1}
    model.execute([request(frames[0], flags=END)])
    assert triton.MetricFamily.values == {"svg_triton_sequences": 0}


def test_errors_have_codes(model, triton):
    frame = np.zeros((64, 64, 1), np.float32)
    refused, lost = model.execute([request(frame + 2, 1, START), request(frame, 2)])
    assert (refused.error.code, lost.error.code) == ("invalid", "not found")
    assert "values lie in [2.0, 2.0]" in str(refused.error)


def test_idle_sequences_are_freed_while_nothing_is_asked(triton, fused_bundle):
    model = TritonPythonModel()
    model.initialize(arguments(fused_bundle, idle_s=0.1))
    model.execute([request(np.zeros((64, 64, 1), np.float32), 1, START)])
    wait_until(lambda: triton.MetricFamily.values == {"svg_triton_sequences": 0}, timeout_s=30)
    assert "sequence 1 was idle, and is freed" in triton.Logger.said
    model.finalize()


def test_unloading_does_not_wait_for_the_next_look_at_idle_sequences(triton, fused_bundle):
    model = TritonPythonModel()
    model.initialize(arguments(fused_bundle, idle_s=86400.0))
    model.finalize()  # would take half a day
    assert not model._reaper.is_alive()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"futures": 3}, "futures: Extra inputs are not permitted"),
        ({"samples": "many"}, "samples: Input should be a valid integer"),
        ({"bundle": "../../etc"}, "bundle: String should match"),
    ],
)
def test_invalid_parameters_are_refused(triton, fused_bundle, changed, message):
    with pytest.raises(
        UsageError, match=r"(?s)invalid parameters in config.pbtxt.*expected some of: bundle, samples"
    ) as raised:
        TritonPythonModel().initialize(arguments(fused_bundle, **changed))
    assert message in str(raised.value)


def test_a_model_without_sequences_is_refused(triton, fused_bundle):
    given = arguments(fused_bundle)
    config = json.loads(given["model_config"])
    del config["sequence_batching"]
    with pytest.raises(UsageError, match="no sequence_batching"):
        TritonPythonModel().initialize({**given, "model_config": json.dumps(config)})


def test_more_sequences_than_cameras_are_refused(triton, fused_bundle):
    given = arguments(fused_bundle)
    config = json.loads(given["model_config"])
    config["sequence_batching"]["oldest"] = {"max_candidate_sequences": 3}
    with pytest.raises(UsageError, match="max_candidate_sequences 3, and max_batch_size 2"):
        TritonPythonModel().initialize({**given, "model_config": json.dumps(config)})
