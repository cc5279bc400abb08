"""The tests of this folder on GPUs made of host memory: pytest -p tests.gpu.simulated tests/gpu

So they are known to work before a real GPU is available, and stay up to date. A run proves only the tests themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session", autouse=True)
def simulated_gpu() -> Iterator[None]:
    """One GPU, with all of NVIDIA's libraries."""
    from svg_runtime.backends.nvidia import device
    from svg_runtime.backends.onnxruntime import providers as ort_providers
    from svg_runtime.backends.tensorrt import backend, local, nvidia_library
    from svg_runtime.backends.tensorrt.nvidia_library import Library, Messages
    from tests.gpu import conftest
    from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
    from tests.svg_runtime.backends.numpy_tensorrt import NumpyTensorrt, NumpyTensorrtRtx, make_engine
    from tests.svg_runtime.backends.ort_on_numpy_cuda import OrtOnNumpyCuda

    cuda = NumpyCuda()
    logger = SimpleNamespace(messages=Messages())
    libraries = {"tensorrt": NumpyTensorrt(cuda), "tensorrt-rtx": NumpyTensorrtRtx(cuda)}
    with pytest.MonkeyPatch.context() as patch:
        for module in (device, conftest):
            patch.setattr(module, "load_runtime", lambda: cuda)
        for module in (backend, nvidia_library):
            patch.setattr(module, "load_library", lambda name: Library(name, libraries[name], logger))
        patch.setattr(backend, "require_modules", lambda *names: None)
        patch.setattr(local, "build_engine", lambda content, options, **rest: make_engine(content, options.max_batch))
        patch.setattr(ort_providers, "load_onnxruntime", lambda name, extra: OrtOnNumpyCuda(cuda))
        yield
