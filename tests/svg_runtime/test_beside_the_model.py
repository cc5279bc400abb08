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
time.sleep(0.5)  # threads that were started wait busily for work, and then sleep
process, own = time.process_time(), time.thread_time()
steps(frames[5:])
print((time.process_time() - process) / (time.thread_time() - own))
"""


def share_of_all_threads(setup: str, step: str) -> float:
    """CPU time of all threads over that of the one that computes."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", _SHARE.format(setup=setup, step=step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return float(done.stdout)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: no threads beside")
def test_post_processing_keeps_no_other_thread_busy():
    if share_of_all_threads("product = np.ones((400, 400), np.float32)", "product @ product") < 1.2:
        pytest.skip("this NumPy computes products of matrices in its own thread")
    setup = "from svg_runtime.forecast.post_processing import PostProcessor\npost = PostProcessor()"
    assert share_of_all_threads(setup, "post.observe(number, frame); post.correct(number, frame, futures)") < 1.2
