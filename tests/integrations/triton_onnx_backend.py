"""Stands for Triton's ONNX Runtime backend, which no package has: ONNX Runtime behind the Python backend, a batch a run.

What it cannot stand for is that backend's own code. The configuration, the scheduler and its batches are the server's.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args) -> None:
        config = json.loads(args["model_config"])
        file = Path(args["model_repository"], args["model_version"], config["default_model_filename"])
        self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self._whole = [output["name"] for output in config["output"] if output.get("reshape", {}).get("shape") == []]

    def execute(self, requests) -> list:
        names = [each.name for each in self._session.get_inputs()]
        parts = [[np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for request in requests] for name in names]
        given = {name: np.concatenate(each) for name, each in zip(names, parts, strict=True)}
        outputs = dict(zip([each.name for each in self._session.get_outputs()], self._session.run(None, given), strict=True))
        ends = np.cumsum([len(part) for part in parts[0]])[:-1]
        split = {name: np.split(values, ends) for name, values in outputs.items()}
        return [
            triton.InferenceResponse([tensor(name, each[row]) for name, each in split.items()]) for row in range(len(requests))
        ]


def tensor(name: str, values: np.ndarray):
    capsule = np.ascontiguousarray(values).__dlpack__()
    made = triton.Tensor.from_dlpack(name, capsule)
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), b"used_dltensor")
    return made
