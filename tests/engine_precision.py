"""Which precisions OpenVINO really uses on this processor, according to the engine: flags are not reliable."""

from __future__ import annotations

import functools

import numpy as np
import pytest


def needs_precision(precision: str) -> None:
    """Skip if this processor does not support it."""
    if not computes_in(precision):
        pytest.skip(f"OpenVINO does not compute in {precision} on this processor")


@functools.cache
def computes_in(precision: str) -> bool:
    """Whether the processor is capable of f32, bf16 or f16, and a convolution requested in it runs in it.

    The first alone is not enough: where the engine may compute in bf16 it may not always do so. Neither is the second: with
    AVX-512 and without units for bf16 it emulates them. This is asked without our code, and without any cache.
    """
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'svg-edge[openvino]'")
    from svg_runtime.backends.openvino.device import load_openvino, shared_core

    openvino, core = load_openvino(), shared_core()
    if {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}[precision] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    ops = openvino.opset13
    frame = ops.parameter([1, 16, 16, 16], np.float32)
    weights = ops.constant(np.random.default_rng(0).standard_normal((16, 16, 3, 3), np.float32))
    layer = ops.convolution(frame, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    compiled = core.compile_model(openvino.Model([layer], [frame]), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    about = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return any(
        each["layerType"].astype(str) == "Convolution" and each["runtimePrecision"].astype(str) == precision for each in about
    )
