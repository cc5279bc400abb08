"""`TritonPythonModel`, which Triton's Python backend looks for in the model.py of a model repository."""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
from collections.abc import Mapping, Sequence
from threading import Event, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svg_runtime.errors import FrameError, SvgError
from svg_runtime.forecast.batch import BatchForecaster
from svg_runtime.triton.sequences import FrameAnswer, FrameRequest, SequenceLostError, Sequences
from svg_runtime.triton.settings import ModelArguments

_LOG = logging.getLogger(__name__)
FRAME, FUTURES, SURPRISE, MISSING_FRAMES = "frame", "futures", "surprise", "missing_frames"
# Triton counts a sequence as idle from its last request on, we from the last one that was answered: so we wait a little longer.
_IDLE_MARGIN = 1.5
_CONSUMED = b"used_dltensor"


class TritonPythonModel:
    """A bundle as a model of Triton: reads a frame of each sequence, and answers with its futures.

    A sequence is a camera. START and END and the correlation id are read from the requests themselves, so string ids work too.

    Arrays pass through DLPack: up to release 24.10, Triton's own conversions read NumPy 2 arrays wrongly, without an error
    (python_backend #384).
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle, and run everything once. Triton calls it when it loads the model.

        Raises:
            SvgError: the configuration or the bundle is invalid, or there is no backend for it. Triton then reports it.
        """
        self._triton: Any = importlib.import_module("triton_python_backend_utils")  # exists in Triton's own process alone
        arguments = ModelArguments(args)
        settings = arguments.settings
        self._batch = BatchForecaster.open(
            arguments.bundle,
            cameras=arguments.cameras,
            backend=settings.backend,
            device=settings.device,
            precision=settings.precision,
            samples=settings.samples,
            horizon=settings.horizon,
            context=settings.context,
            threads=settings.threads,
            scored=False,
        )
        self._batch.warm_up()
        self._sequences = Sequences(self._batch, settings.seed)
        self._family = self._triton.MetricFamily(  # kept: its values end with it
            name="svg_triton_sequences",
            description="Sequences whose context is kept.",
            kind=self._triton.MetricFamily.GAUGE,
        )
        self._count = self._family.Metric(labels={"model": arguments.name})
        self._stopped = Event()
        self._reaper = Thread(target=self._free_idle, args=(arguments.idle_s,), name="svg-idle-sequences", daemon=True)
        self._reaper.start()
        self._triton.Logger.log_info(f"{arguments.name}: {self._batch.description}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests, each with one frame of another sequence."""
        answers = self._sequences.answer([self._read(request) for request in requests])
        self._count.set(len(self._sequences))
        return [self._response(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def finalize(self) -> None:
        """Free the device. Triton calls it when it unloads the model."""
        self._stopped.set()
        self._reaper.join()
        self._batch.close()

    def _read(self, request: Any) -> FrameRequest:
        flags = request.flags()
        return FrameRequest(
            sequence=request.correlation_id(),
            frame=np.from_dlpack(self._triton.get_input_tensor_by_name(request, FRAME))[0],
            starts=bool(flags & self._triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
            ends=bool(flags & self._triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
            wants_futures=FUTURES in request.requested_output_names(),
        )

    def _response(self, request: Any, answer: FrameAnswer | SvgError) -> Any:
        """Make Triton's response of an answer. An output that is not there is left out, and is then None for the client."""
        if isinstance(answer, SvgError):
            codes = {FrameError: "INVALID_ARG", SequenceLostError: "NOT_FOUND"}
            code = getattr(self._triton.TritonError, codes.get(type(answer), "INTERNAL"))
            return self._triton.InferenceResponse(error=self._triton.TritonError(str(answer), code))
        outputs: dict[str, NDArray[np.number[Any]]] = {
            SURPRISE: np.array([math.nan if answer.surprise is None else answer.surprise], np.float32),
            MISSING_FRAMES: np.array([answer.missing_frames], np.int32),
        }
        if answer.futures is not None:
            outputs[FUTURES] = answer.futures
        wanted = request.requested_output_names()
        tensors = [self._tensor(name, array[np.newaxis]) for name, array in outputs.items() if name in wanted]
        return self._triton.InferenceResponse(tensors)

    def _tensor(self, name: str, array: NDArray[np.number[Any]]) -> Any:
        """Make Triton's tensor of an array.

        Triton renames the capsule that it has consumed, but not as DLPack says, for which NumPy would log an error each time.
        """
        capsule = array.__dlpack__()
        tensor = self._triton.Tensor.from_dlpack(name, capsule)
        ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), _CONSUMED)
        return tensor

    def _free_idle(self, idle_s: float) -> None:
        """Free what idle sequences keep. Triton drops them without a word."""
        while not self._stopped.wait(idle_s / 2):
            idle = self._sequences.free_idle(_IDLE_MARGIN * idle_s)
            self._count.set(len(self._sequences))
            for sequence in idle:
                self._triton.Logger.log_info(f"sequence {sequence!r} was idle, and is freed")
