"""What runs beside the model on every frame leaves it the other cores: it computes in its own thread alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SHARE = """
import time
import cv2
import numpy as np
cv2.setNumThreads(1)
{setup}
rng = np.random.default_rng(0)
frames = rng.random((40, 64, 64, 3), np.float32)
futures = rng.random((8, 10, 64, 64, 3), np.float32)
def steps(frames):
    for number, frame in enumerate(frames):
        {step}
        time.sleep(0.01)  # threads that wait busily go on meanwhile
steps(frames[:5])
process, own = time.process_time(), time.thread_time()
steps(frames[5:])
print((time.process_time() - process) / (time.thread_time() - own))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: no threads beside")
@pytest.mark.parametrize(
    ("setup", "step"),
    [
        (
            "from svg_runtime.forecast.post_processing import PostProcessor\npost = PostProcessor()",
            "post.observe(number, frame); post.correct(number, frame, futures)",
        ),
        ("from svg_runtime.live.camera_motion import CameraMotion\nmotion = CameraMotion()", "motion.of(frame)"),
        ("from svg_runtime.live.overlay.likely_panel import distances_from_mean", "distances_from_mean(futures)"),
        ("threads = np.ones((400, 400), np.float32)", "threads @ threads"),
    ],
    ids=["post-processing", "camera motion", "likely panel", "a product of matrices"],
)
def test_no_other_thread_is_busy(setup, step, request):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", _SHARE.format(setup=setup, step=step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    share = float(done.stdout)  # of the CPU time of all threads to that of its own
    if "product" in request.node.callspec.id:
        if share < 1.2:
            pytest.skip("this NumPy computes products in its own thread")
    else:
        assert share < 1.2
