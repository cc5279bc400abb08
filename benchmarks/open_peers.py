"""Opens the peers of a bundle: the reference in PyTorch, the same compiled, plain ONNX Runtime, and our own backends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import onnx_peer
import torch
from bundle_weights import model_of
from device_clock import DeviceClock, time_backend
from peers import Peer, Task, open_peer
from torch_peer import CompiledPeer, TorchPeer, read_context

from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.openvino.device import choose_placement, shared_core
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.forecast.forecaster import Forecaster

_LOG = logging.getLogger("svg_benchmarks")
EAGER, COMPILED = "PyTorch eager", "torch.compile"
PLAIN, SPLIT = "ONNX Runtime, plain", "ONNX Runtime, bundle's graphs"
BLOCKING = "ONNX Runtime, plain, not spinning"
CPU, OPENVINO = "svg-edge cpu", "svg-edge openvino"
_PRECISION = {"f32": "fp32", "bf16": "bf16"}  # OpenVINO's name -> ours

ALL = (EAGER, COMPILED, PLAIN, BLOCKING, SPLIT, CPU, OPENVINO)

Make = Callable[[], Callable[[], np.ndarray]]


def open_peers(bundle: Bundle, samples: int, horizon: int, stack: ExitStack, names: Sequence[str] = ALL) -> list[Peer]:
    """The peers of `names` in every precision they compute in, each one run once; the first is the eager one.

    Args:
        bundle: a model with a learned prior whose skips are frozen.
        samples: futures per forecast.
        horizon: frames per future.
        stack: closes the peers.
        names: which ones; the eager one is always included, as all others are compared with its frames.

    Raises:
        WeightsMissingError: the weights of this bundle cannot be loaded into PyTorch.
    """
    task, model = Task.make(bundle, samples, horizon), model_of(bundle)
    context = read_context(model, task)
    eager = open_peer(EAGER, "fp32", lambda: TorchPeer(model, task, context).forecast, None)
    assert eager.forecast is not None, eager.reason
    expected, peers = eager.forecast(), [eager]
    makers: list[tuple[str, str, Make]] = [
        (COMPILED, "fp32", lambda: CompiledPeer(model, task, context, torch.float32).forecast),
        (COMPILED, "bf16", lambda: CompiledPeer(model, task, context, torch.bfloat16).forecast),
        (PLAIN, "fp32", lambda: onnx_peer.plain(bundle, task, context).forecast),
        (BLOCKING, "fp32", lambda: onnx_peer.plain(bundle, task, context, spinning=False).forecast),
        (SPLIT, "fp32", lambda: onnx_peer.split(bundle, task, context).forecast),
        (CPU, "fp32", partial(ours, bundle, task, stack, "cpu")),
        (OPENVINO, "fp32", partial(ours, bundle, task, stack, "openvino", "CPU:f32")),
        (OPENVINO, "bf16", partial(ours, bundle, task, stack, "openvino", "CPU:bf16")),
    ]
    for name, precision, make in makers:
        if name in names:
            _LOG.info("opening %s, %s", name, precision)
            peers.append(open_peer(name, precision, make, expected))
    return peers


def openvino_default() -> str:
    """The precision that the openvino backend uses by default on this machine's CPU, if bf16 passed the quality gate."""
    return _PRECISION[choose_placement(shared_core(), None, has_bf16_variant=True).compute or "f32"]


def ours(
    bundle: Bundle, task: Task, stack: ExitStack, backend: str, device: str | None = None, precision: Precision = "fp32",
    clock: DeviceClock | None = None, gpu: GpuOptions | None = None,
) -> Callable[[], np.ndarray]:  # fmt: skip
    """A forecast by our Forecaster, which has observed the frames of the task and is closed by `stack`."""
    horizon, samples, _ = task.noise.shape
    forecaster = stack.enter_context(
        Forecaster.open(bundle.path, backend, device, precision, samples=samples, horizon=horizon, seed=0, gpu=gpu)
    )
    for frame in task.frames:
        forecaster.observe(frame)
    if clock is not None:
        time_backend(forecaster._backend, clock)

    def forecast() -> np.ndarray:
        futures = forecaster.forecast(noise=task.noise, context_noise=task.context_noise)
        return np.moveaxis(futures, (1, 4), (0, 2))  # a view: (horizon, samples, C, H, W)

    return forecast
