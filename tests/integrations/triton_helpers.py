"""A model repository of a tiny bundle, and cameras that send their frames to a server and to Forecasters of their own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from svg_export.bundle_writer import write_bundle
from svg_export.triton.model_configs import ServingChoice
from svg_export.triton.repository import write_repositories
from svg_runtime.bundle.reader import Bundle
from svg_train.checkpoint import load_checkpoint
from tests.conftest import made_once, without_tracer

SAMPLES, HORIZON = 2, 2
SERVER_HORIZON = 3
MODEL = "tiny"
OUTPUTS = ("futures", "surprise", "missing_frames")


def write_repository(bundle: Path, folder: Path, **choice) -> Path:
    """The repository of the Python backend, on the cpu backend with one thread."""
    chosen = ServingChoice(**{"samples": SAMPLES, "horizon": HORIZON, **choice})
    model, *_ = write_repositories(Bundle.open(bundle), MODEL, folder, chosen)
    set_parameters(model, backend="cpu", threads=1)
    return model.parent


def set_parameters(model: Path, **parameters) -> None:
    """Write parameters into a model's config.pbtxt, in place of those that are there."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    file = model / "config.pbtxt"
    first, _, rest = file.read_text().partition("\n")
    config = text_format.Parse(rest, model_config_pb2.ModelConfig())
    for name, value in parameters.items():
        config.parameters[name].string_value = str(value)
    file.write_text(f"{first}\n{text_format.MessageToString(config)}")


def server_bundle(checkpoint: Path, factory: pytest.TempPathFactory) -> Path:
    """The bundle of a checkpoint with the graph `forecast`, of SERVER_HORIZON steps."""

    def make(path: Path) -> Path:
        with without_tracer():
            write_bundle(load_checkpoint(checkpoint), "0" * 64, path, fp16=False, server_horizon=SERVER_HORIZON)
        return path

    return made_once(factory, "server.svgb", make)


class Camera:
    """One sequence of a client."""

    def __init__(self, client: triton.InferenceServerClient, sequence: int | str) -> None:
        self._client = client
        self.sequence = sequence

    def send(self, frame: np.ndarray, **flags) -> Mapping[str, np.ndarray | None]:
        """Send a frame; returns the outputs by name, without the axis of the batch."""
        return self.send_soon(frame, **flags).result(timeout=60)

    def send_soon(self, frame: np.ndarray, outputs=OUTPUTS, **flags) -> Future:
        """Send a frame; the result is as that of `send`."""
        future: Future = Future()
        batch = np.ascontiguousarray(frame[None])
        given = triton.InferInput("frame", batch.shape, {4: "FP32", 8: "FP64", 1: "UINT8"}[batch.itemsize])
        given.set_data_from_numpy(batch)

        def answered(result, error) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                arrays = {name: result.as_numpy(name) for name in outputs}
                future.set_result({name: None if array is None else array[0] for name, array in arrays.items()})

        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        self._client.async_infer(MODEL, [given], answered, outputs=wanted, sequence_id=self.sequence, **flags)
        return future
