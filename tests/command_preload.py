"""What `command_runner` imports once, for all of its processes: nothing here starts a thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2  # noqa: F401
import matplotlib.figure  # noqa: F401
import pytest
import torch

import svg_adapt.adaptation
import svg_adapt.cli  # noqa: F401
import svg_eval.cli
import svg_eval.evaluation_run  # noqa: F401
import svg_export.bundle_writer
import svg_export.cli  # noqa: F401
import svg_runtime.bench.bench_run
import svg_runtime.bench.cli
import svg_runtime.live.cli
import svg_runtime.live.loop
import svg_runtime.offline.cli
import svg_runtime.offline.forecast_run  # noqa: F401
import svg_train.train  # noqa: F401
from svg_export.to_onnx import _load_exporter
from tests.conftest import use_one_thread
from tests.exported_once import read_operators_once

torch.set_num_threads(1)
use_one_thread(pytest.MonkeyPatch())
read_operators_once(pytest.MonkeyPatch())
_load_exporter()
