"""Installations that have some engines and not the others: their packages are hidden, and TensorRT is a stand-in."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from svg_runtime.backends.nvidia import device
from svg_runtime.backends.tensorrt import backend, local
from svg_runtime.backends.tensorrt.nvidia_library import LIBRARIES, Library, Messages
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
from tests.svg_runtime.backends.numpy_tensorrt import NumpyTensorrt, NumpyTensorrtRtx, make_engine

_STAND_INS = {"tensorrt": NumpyTensorrt, "tensorrt-rtx": NumpyTensorrtRtx}
_ENGINES = ("onnxruntime", "openvino", *LIBRARIES.values())


def install_only(patch: pytest.MonkeyPatch, *modules: str) -> list[str]:
    """Hide the modules of all other engines. TensorRT's run on a GPU made of host memory.

    Returns:
        One entry for each of TensorRT's engines that is built.
    """
    for module in set(_ENGINES) - set(modules):
        patch.setitem(sys.modules, module, None)
    cuda, built = NumpyCuda(), []
    patch.setattr(device, "load_runtime", lambda: cuda)
    libraries = {name: Library(name, made(cuda), SimpleNamespace(messages=Messages())) for name, made in _STAND_INS.items()}
    patch.setattr(backend, "load_library", libraries.__getitem__)
    for module in set(LIBRARIES.values()) & set(modules):
        found = ModuleType(module)
        found.__spec__ = ModuleSpec(module, None)
        patch.setitem(sys.modules, module, found)

    def build_engine(content, options, graph_file, **rest):
        built.append(graph_file)
        return make_engine(content, options.max_batch)

    patch.setattr(local, "build_engine", build_engine)
    return built
