"""Opens the peers of a bundle on a GPU: the reference in PyTorch, the same compiled, plain ONNX Runtime, our own backends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import numpy as np
import onnx_peer
import torch
from bundle_weights import model_of
from device_clock import DeviceClock
from matmul_peak import DTYPES
from open_peers import COMPILED, EAGER, ours
from peers import Context, Peer, Task, open_peer
from torch_peer import CompiledPeer, TorchPeer, faster_layout, read_context

from svg_runtime.backends import NVIDIA
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_train.families.svg.model import SVG

_LOG = logging.getLogger("svg_benchmarks")
WHOLE, PLAIN = "torch.compile, whole forecast", "ONNX Runtime CUDA, plain"
_OURS, _NO_GRAPHS = "svg-edge ", ", no CUDA graphs"
OURS = (*(f"{_OURS}{backend}" for backend in NVIDIA), f"{_OURS}cuda{_NO_GRAPHS}")
ALL = (EAGER, COMPILED, WHOLE, PLAIN, *OURS)

Maker = Callable[[DeviceClock], Callable[[], np.ndarray]]


def open_gpu_peers(
    bundle: Bundle, samples: int, horizon: int, stack: ExitStack, names: Sequence[str] = ALL, device: str = "cuda"
) -> list[Peer]:  # fmt: skip
    """The peers of `names` in every precision they compute in, each one run once; the first is the eager one in float32.

    Args:
        bundle: a model with a learned prior whose skips are frozen.
        samples: futures per forecast.
        horizon: frames per future.
        stack: closes the peers.
        names: which ones; the eager one in float32 is always included, as all others are compared with its frames.
        device: of PyTorch and ONNX Runtime; cpu runs everything without a GPU, to test that it works.

    Raises:
        WeightsMissingError: the weights of this bundle cannot be loaded into PyTorch.
    """
    task, model = Task.make(bundle, samples, horizon), model_of(bundle)
    context = read_context(model, task)
    makers = [
        *_torch_makers(model, task, context, device),
        *_engine_makers(bundle=bundle, task=task, context=context, stack=stack, names=names, device=device),
    ]
    expected, peers = None, []
    for name, precision, make in makers:
        if name in names or expected is None:
            _LOG.info("opening %s, %s", name, precision)
            clock = DeviceClock()
            peers.append(open_peer(name=name, precision=precision, make=partial(make, clock), expected=expected, clock=clock))
            if expected is None:
                assert peers[0].forecast is not None, peers[0].reason
                expected = peers[0].forecast().copy()
    return peers


def _torch_makers(model: SVG, task: Task, context: Context, device: str) -> list[tuple[str, str, Maker]]:
    def followed(make: Callable[..., TorchPeer], clock: DeviceClock) -> Callable[[], np.ndarray]:
        if device == "cuda":
            clock.follow()
        return make(model, task, context, device=device, submitted=clock.submitted).forecast

    @cache
    def layout(dtype: torch.dtype) -> torch.memory_format:
        return faster_layout(model=model, task=task, context=context, dtype=dtype, device=device)

    def compiled(*arguments: Any, dtype: torch.dtype, **named: Any) -> TorchPeer:
        return CompiledPeer(*arguments, dtype=dtype, layout=layout(dtype), **named)

    kinds: dict[str, Callable[..., TorchPeer]] = {EAGER: TorchPeer, COMPILED: compiled, WHOLE: partial(compiled, whole=True)}
    return [
        (name, precision, partial(followed, partial(kind, dtype=dtype)))
        for name, kind in kinds.items()
        for precision, dtype in DTYPES.items()
    ]


def _engine_makers(
    bundle: Bundle, task: Task, context: Context, stack: ExitStack, names: Sequence[str], device: str
) -> list[tuple[str, str, Maker]]:
    """No bf16: ONNX Runtime has no convolutions in it on a GPU, and bundles have no graphs in it."""

    def plain(precision: str, clock: DeviceClock) -> Callable[[], np.ndarray]:
        return onnx_peer.plain(bundle, task, context, device=device, precision=precision).forecast

    def own(backend: str, precision: Precision, gpu: GpuOptions | None, clock: DeviceClock) -> Callable[[], np.ndarray]:
        return ours(bundle, task, stack, backend, precision=precision, clock=clock, gpu=gpu)

    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    makers: list[tuple[str, str, Maker]] = [(PLAIN, precision, partial(plain, precision)) for precision in precisions]
    for name in names:
        if name.startswith(_OURS):
            backend = name.removeprefix(_OURS).removesuffix(_NO_GRAPHS)
            gpu = GpuOptions(cuda_graph=False) if name.endswith(_NO_GRAPHS) else None
            makers += [(name, precision, partial(own, backend, precision, gpu)) for precision in precisions]
    return makers
