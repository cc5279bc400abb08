"""TensorRT made of ONNX Runtime on the NumPy GPU: a serialized engine is the ONNX file behind a header.

It has the difficulties of TensorRT: an input's shape has to be set and to lie in the profile, every tensor needs an address, an
execution context with the caller's memory computes in it (and leaves garbage there), shapes and addresses are those at the
launch, and an engine's first run cannot be captured.
"""

from __future__ import annotations

import json
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.svg_runtime.backends.numpy_cuda import NumpyCuda, array_at

SCRATCH = 4096  # bytes that each engine computes in
_TYPES = {"tensor(float)": ("FLOAT", np.float32), "tensor(float16)": ("HALF", np.float16)}


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class IProgressMonitor:
    pass


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


def make_engine(content: bytes, max_batch: int) -> bytes:
    """Return a serialized engine, as a builder would."""
    header = json.dumps({"max_batch": max_batch}).encode()
    return b"plan" + len(header).to_bytes(4, "little") + header + content


class NumpyTensorrt:
    """Stands for the module `tensorrt`.

    Attributes:
        launches: names of the launched graphs, in order; within a capture too.
        uncapturable: whether runs cannot be captured.
        broken: whether it cannot initialize CUDA.
        full: whether no engine fits into device memory.
        left_over: whether the error of a failed capture is pending, which the next launch then reports.
    """

    __version__ = "10.3.0"
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    IProgressMonitor = IProgressMonitor
    BuilderFlag = LayerInformationFormat = SimpleNamespace(JSON=0)

    def __init__(self, cuda: NumpyCuda) -> None:
        self.cuda = cuda
        self.launches = 0
        self.uncapturable = False
        self.fail_launch = False
        self.broken = False
        self.full = False
        self.left_over = False

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802
        return self._runtime(logger, Engine)

    def _runtime(self, logger: Any, engine: type[Engine]) -> Runtime:
        if self.broken:
            logger.messages.append((True, "CUDA initialization failure with error: 35"))
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Runtime(self, logger, engine)


class DynamicShapesKernelSpecializationStrategy(IntEnum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class ComputeCapability(IntEnum):
    SM75 = 75
    SM86 = 86


class NumpyTensorrtRtx(NumpyTensorrt):
    """Stands for the module `tensorrt_rtx`: contexts come from a configuration, and kernels are compiled when they run."""

    __version__ = "1.7.1"
    ComputeCapability = ComputeCapability
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802
        return self._runtime(logger, RtxEngine)


class Runtime:
    def __init__(self, library: NumpyTensorrt, logger: Any, engine: type[Engine]) -> None:
        self._library, self._logger, self._engine = library, logger, engine

    def deserialize_cuda_engine(self, serialized: bytes) -> Engine | None:
        if self._library.full or not serialized.startswith(b"plan"):
            message = "Cuda Runtime (out of memory)" if self._library.full else "Platform specific tag mismatch detected"
            self._logger.messages.append((True, message))
            return None
        end = 8 + int.from_bytes(serialized[4:8], "little")
        return self._engine(self._library, serialized[end:], json.loads(serialized[8:end])["max_batch"])


class Engine:
    """ICudaEngine."""

    device_memory_size_v2 = SCRATCH

    def __init__(self, library: NumpyTensorrt, content: bytes, max_batch: int) -> None:
        self.owner, self.max_batch = library, max_batch
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.inputs = {tensor.name: tensor for tensor in self.session.get_inputs()}
        self.outputs = {tensor.name: tensor for tensor in self.session.get_outputs()}
        self.tensors = {**self.inputs, **self.outputs}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=_TYPES[self.tensors[name].type][0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        shape = self.get_tensor_shape(name)
        return [tuple(batch if size == -1 else size for size in shape) for batch in (1, self.max_batch, self.max_batch)]

    def create_engine_inspector(self) -> Any:
        """Report no layers."""
        return SimpleNamespace(get_engine_information=lambda form: "{}")

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> Context:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)


class RuntimeCache:
    """IRuntimeCache."""

    def __init__(self) -> None:
        self.content = b""

    def serialize(self) -> bytes | None:
        return self.content or None

    def deserialize(self, content: bytes) -> bool:
        self.content = content  # of no use if it is refused
        return b"another" not in content


class RuntimeConfig:
    """IRuntimeConfig."""

    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = cache
        return True


class RtxEngine(Engine):
    """ICudaEngine of TensorRT-RTX."""

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, runtime_config: RuntimeConfig) -> Context:
        return RtxContext(self, runtime_config)


class Context:
    """IExecutionContext."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._library = engine, engine.owner
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int, int] | None = None
        self._ran = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        fits = len(shape) == len(least) and all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True))
        if fits:
            self._shapes[name] = shape
        return fits

    def infer_shapes(self) -> list[str]:
        return sorted(set(self._engine.inputs) - set(self._shapes))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        given = {
            (named, size) for input_name, shape in self._shapes.items()
            for size, named in zip(shape, self._engine.inputs[input_name].shape, strict=True) if isinstance(named, str)
        }  # fmt: skip
        sizes = dict(given)
        assert sum(named == "batch" for named, _ in given) == 1, "inputs disagree about the batch"
        return tuple(size if isinstance(size, int) else sizes[size] for size in self._engine.tensors[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory % 256 == 0
        if name not in self._engine.tensors:
            return False
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self._engine.device_memory_size_v2
        assert memory % 256 == 0
        self._memory = memory, size

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._memory is not None, "a context without memory"
        assert not self.infer_shapes()
        assert set(self._addresses) == set(self._engine.tensors), "a tensor without an address"
        capturing, left_over = self._library.cuda.capturing, self._library.left_over
        self._library.left_over = capturing and (self._library.uncapturable or not self._ran)
        if self._library.fail_launch or self._library.left_over or left_over:
            return False
        self._ran = True
        self._library.launches += 1
        shapes = {name: self.get_tensor_shape(name) for name in self._engine.tensors}
        addresses, memory = dict(self._addresses), self._memory
        self._library.cuda.enqueue("execute_async_v3", stream_handle, lambda: self._compute(shapes, addresses, memory))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], memory: tuple[int, int]) -> None:
        cuda, engine = self._library.cuda, self._engine
        arrays = {name: array_at(cuda, addresses[name], shapes[name], _TYPES[engine.tensors[name].type][1]) for name in shapes}
        cuda.view(*memory).fill(0xEE)
        for name in engine.outputs:
            arrays[name].fill(np.nan)  # written before the inputs are read: an alias would show
        results = engine.session.run(None, {name: arrays[name] for name in engine.inputs})
        for name, result in zip(engine.outputs, results, strict=True):
            arrays[name][:] = result


class RtxContext(Context):
    """IExecutionContext of TensorRT-RTX: a graph captured before the kernels for its shapes exist would never get them."""

    def __init__(self, engine: RtxEngine, config: RuntimeConfig) -> None:
        super().__init__(engine)
        self._config = config

    def is_stream_capturable(self, stream: int) -> bool:
        eager = self._config.dynamic_shapes_kernel_specialization_strategy == DynamicShapesKernelSpecializationStrategy.EAGER
        return eager and not self._library.uncapturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self._library.cuda.capturing:
            self._config._cache.content += b"kernel "
        return super().execute_async_v3(stream_handle)
